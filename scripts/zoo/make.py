"""Makes the zoo: tiny language models of known lineage.

    python -m scripts.zoo make [--config configs/zoo.yaml] [--out checkpoints/zoo]
                               [--only NAME...] [--jobs N] [--minutes N] [--tiny]

A model is skipped if its folder exists and its part of the config has not changed, so an
interrupted run can be continued. On one machine the same config gives the same weights.
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
    """Return the config with the values of the given keys replaced at every level."""
    if isinstance(config, dict):
        return {key: values.get(key, replaced(value, values)) for key, value in config.items()}
    return config


def with_sources(plans: Mapping[str, Plan], names: list[str]) -> list[str]:
    """The names and the models that they depend on, dependencies first."""
    found: dict[str, None] = {}
    for name in names:
        if name not in plans:
            raise SystemExit(f"there is no model {name}; the config has {', '.join(plans)}")
        found |= dict.fromkeys([*with_sources(plans, plans[name].sources), name])
    return list(found)


def is_made(plan: Plan, manifest: Mapping[str, Any]) -> bool:
    """Whether the folder exists and was made by the current config."""
    entry = manifest["models"].get(plan.name)
    made = entry is not None and (plan.out / plan.name).is_dir()
    return made and entry["recipe"] == plan.recipe()


def make_zoo(
    config: Mapping[str, Any], out: Path, only: list[str], jobs: int, minutes: float = math.inf
) -> None:
    """Make the missing models, `jobs` at a time, and update the manifest after each.

    After `minutes` no model is started; those in progress are finished.
    """
    from scripts.zoo.one_model import (
        make,
    )  # here, because peft and transformers take seconds to import

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
                print(f"stopped by --minutes: {len(waiting)} models are not made", file=sys.stderr)
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
    """One line of progress."""
    losses = ", ".join(
        f"{domain} {loss['before']:.2f} -> {loss['after']:.2f}"
        for domain, loss in entry["held_out_loss"].items()
    )
    size = f"{entry['parameters'] / 1e6:.2f} M weights, {entry['bytes'] / 1e6:.2f} MB"
    return f"{name}: {size}, {entry['tokens']:,} tokens, {entry['seconds']} s; {losses}"


def main(arguments: list[str] | None = None) -> None:
    """Make the models that the command line asks for."""
    parser = make_parser(__doc__)
    parser.add_argument("--config", type=Path, default=ROOT / "configs" / "zoo.yaml")
    parser.add_argument("--out", type=Path, help="default: checkpoints/zoo; a new one for --tiny")
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME")
    parser.add_argument("--jobs", type=int, default=1, help="models made at a time, one core each")
    parser.add_argument(
        "--minutes", type=float, default=math.inf, help="start no model after so many minutes"
    )
    parser.add_argument("--tiny", action="store_true", help="train for a few steps only, as a test")
    options = parser.parse_args(arguments)
    config = yaml.safe_load(options.config.read_text(encoding="utf-8"))
    out = options.out or ROOT / "checkpoints" / "zoo"
    if options.tiny:
        config = replaced(config, config["tiny"])
        out = options.out or Path(tempfile.mkdtemp(prefix="zoo-"))
        print(f"writing to {out}", file=sys.stderr)
    make_zoo(config, out, options.only, options.jobs, options.minutes)
