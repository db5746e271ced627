"""Make the zoo: tiny language models with a known lineage.

    python -m scripts.zoo make [--config configs/zoo.yaml] [--out checkpoints/zoo]
                               [--only NAME...] [--jobs N] [--minutes N] [--tiny]

A model whose folder is there and whose recipe has not changed is left alone, so an interrupted
run goes on where it stopped. On one machine the same config gives the same weights.
"""

import math
import multiprocessing
import os
import platform
import sys
import tempfile
import time
from collections.abc import Mapping
from concurrent.futures import (
    FIRST_COMPLETED,
    Executor,
    Future,
    ProcessPoolExecutor,
    ThreadPoolExecutor,
    wait,
)
from pathlib import Path
from typing import Any

import yaml

from scripts import ROOT, make_parser

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

from scripts.zoo.manifest import read_manifest, write_manifest
from scripts.zoo.plan import Plan


def replaced(config: Any, values: Mapping[str, Any]) -> Any:
    """The config with every value of the given names replaced, wherever it stands."""
    if isinstance(config, dict):
        return {key: values.get(key, replaced(value, values)) for key, value in config.items()}
    return config


def with_sources(plans: Mapping[str, Plan], names: list[str]) -> list[str]:
    """The names and all that they descend from, parents first."""
    found: dict[str, None] = {}
    for name in names:
        if name not in plans:
            raise SystemExit(f"no model is called {name}; the config has {', '.join(plans)}")
        found |= dict.fromkeys([*with_sources(plans, plans[name].sources), name])
    return list(found)


def is_made(plan: Plan, manifest: Mapping[str, Any]) -> bool:
    """Whether the model's folder is there, made by the recipe that the config now describes."""
    entry = manifest["models"].get(plan.name)
    made = entry is not None and (plan.out / plan.name).is_dir()
    return made and entry["recipe"] == plan.recipe()


def make_zoo(
    config: Mapping[str, Any], out: Path, only: list[str], jobs: int, minutes: float = math.inf
) -> None:
    """Make the models that are missing, `jobs` of them at a time, and keep the manifest.

    After `minutes` those in the making are finished and no other is begun.
    """
    from scripts.zoo.one_model import make  # takes seconds to import, which --help need not wait

    out.mkdir(parents=True, exist_ok=True)
    plans = {name: Plan(name, config, out) for name in config["models"]}
    manifest = read_manifest(out)
    names = with_sources(plans, only or list(plans))
    missing = [name for name in names if not is_made(plans[name], manifest)]
    print(f"{len(names) - len(missing)} of {len(names)} models are made", file=sys.stderr)
    pool: Executor = (
        ThreadPoolExecutor(1)
        if jobs == 1
        else ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn"))
    )
    running: dict[Future[dict[str, Any]], str] = {}
    last = time.monotonic() + 60 * minutes
    with pool:
        waiting = list(missing)
        while waiting or running:
            if time.monotonic() > last and not running:
                print(f"time is up: {len(waiting)} models are not made", file=sys.stderr)
                break
            unmade = {*waiting, *running.values()}
            ready = [name for name in waiting if not unmade & {*plans[name].sources}]
            ready = ready[: jobs - len(running)] if time.monotonic() < last else []
            running |= {pool.submit(make, plans[name]): name for name in ready}
            waiting = [name for name in waiting if name not in ready]
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                name = running.pop(future)
                made = {**manifest["models"], name: future.result()}
                manifest = {
                    "python": platform.python_version(),
                    "models": {name: made[name] for name in plans if name in made},
                }
                write_manifest(out, manifest)
                print(describe(name, manifest["models"][name]), flush=True)


def describe(name: str, entry: Mapping[str, Any]) -> str:
    """One line for a person who watches."""
    losses = ", ".join(
        f"{domain} {loss['before']:.2f} -> {loss['after']:.2f}"
        for domain, loss in entry["held_out_loss"].items()
    )
    size = f"{entry['parameters'] / 1e6:.2f} M weights, {entry['bytes'] / 1e6:.2f} MB"
    return f"{name}: {size}, {entry['tokens']:,} tokens, {entry['seconds']} s; {losses}"


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    parser = make_parser(__doc__)
    parser.add_argument("--config", type=Path, default=ROOT / "configs" / "zoo.yaml")
    parser.add_argument("--out", type=Path, help="default: checkpoints/zoo; a new one for --tiny")
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME")
    parser.add_argument("--jobs", type=int, default=1, help="models made at once, a core each")
    parser.add_argument("--minutes", type=float, default=math.inf, help="begin none after these")
    parser.add_argument("--tiny", action="store_true", help="a few steps, to see that it runs")
    options = parser.parse_args(arguments)
    config = yaml.safe_load(options.config.read_text(encoding="utf-8"))
    out = options.out or ROOT / "checkpoints" / "zoo"
    if options.tiny:
        config = replaced(config, config["tiny"])
        out = options.out or Path(tempfile.mkdtemp(prefix="zoo-"))
        print(f"writing to {out}", file=sys.stderr)
    make_zoo(config, out, options.only, options.jobs, options.minutes)
