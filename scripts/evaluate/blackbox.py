"""Measure what `huref probe` recovers: sizes, projections, matches, updates.

    PYTHONPATH=.:tests python -m scripts.evaluate blackbox size --tiny --models FOLDER...
    PYTHONPATH=.:tests python -m scripts.evaluate blackbox queries --models FOLDER
    PYTHONPATH=.:tests python -m scripts.evaluate blackbox match --zoo FOLDER
    PYTHONPATH=.:tests python -m scripts.evaluate blackbox watch --before FOLDER --after FOLDER

Models are served by the stub endpoint of the tests, inside the process. Truth comes from the
models' own configuration and weights.
"""

import argparse
import json
import os
import tempfile
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch

from huref.blackbox.client import Client, Limits
from huref.blackbox.collect import Settings
from huref.blackbox.endpoint import Endpoint
from huref.blackbox.extract import extract_projection, projection_error
from huref.blackbox.heads import read_head
from huref.blackbox.local_model import LocalModel
from huref.blackbox.match import HeadMatch, match_outputs, match_signature
from huref.blackbox.prompts import make_prompts
from huref.blackbox.signature import collect_outputs, make_signature
from huref.blackbox.size import clr, measure_size
from huref.blackbox.watch import PROMPTS, REPEATS, compare_visits
from huref.errors import HurefError
from tests.support.endpoint_server import Stub, Switches
from tests.support.served_models import KINDS, make_model

PRECISIONS: dict[str, dict[str, Any]] = {
    "float32": {},
    "step 1e-4": {"step": 1e-4},
    "step 1e-3": {"step": 1e-3},
    "step 1e-2": {"step": 1e-2},
    "float16": {"precision": "float16"},
    "bfloat16": {"precision": "bfloat16"},
}
WAYS: dict[str, dict[str, Any]] = {
    "full": {"top": None, "ids": "token_id"},
    "chosen": {"chosen": True, "ids": "token_id", "bias": "invisible"},
    "top 5": {"top": 5},
}

# All ways see the same values; the expensive ones are held to a few precisions.
MEASURED = {"full": ("float32", "bfloat16"), "top 5": ("float32", "step 1e-3")}


class Served:
    """A model whose outputs are computed in batches and kept."""

    def __init__(self, folder: Path):
        folder = folder.resolve()
        with working_directory(folder):  # transformers takes an adapter's base relative to here
            self.source = LocalModel(str(folder))
        self._rows: dict[str, np.ndarray] = {}
        for which in ("a", "b"):
            self.prepare(make_prompts(260, which))

    def prepare(self, prompts: list[str]) -> None:
        """Compute the logits of prompts at once."""
        ids = np.arange(self.source.vocabulary)
        self._rows |= dict(zip(prompts, self.source.outputs(prompts, ids), strict=True))

    def logits(self, prompt: str) -> np.ndarray:
        """The model's logits (v,) of one prompt."""
        if prompt not in self._rows:
            self.prepare([prompt])
        return self._rows[prompt]

    def endpoint(self, settings: Settings | None = None, **switches: Any) -> Endpoint:
        """The model behind an endpoint with some habits."""
        stub = Stub(self.logits, Switches(**switches))
        client = Client(
            "http://127.0.0.1:1/v1", limits=Limits(10_000_000), transport=stub.transport()
        )
        return Endpoint(client, None, settings)


class working_directory:  # noqa: N801, as contextlib's own
    """Change the working directory and come back."""

    def __init__(self, folder: Path):
        self._folder = folder

    def __enter__(self) -> None:
        self._before = Path.cwd()
        os.chdir(self._folder)

    def __exit__(self, *_: object) -> None:
        os.chdir(self._before)


def evaluate_size(folders: list[Path]) -> Iterator[dict[str, Any]]:
    """Hidden size, norm and RMS error of extraction by way of collecting and precision."""
    for folder in folders:
        served = Served(folder)
        head = read_head(str(folder))
        truth = head.weight.shape[1]
        for way, switches in WAYS.items():
            for precision, changes in PRECISIONS.items():
                if precision not in MEASURED.get(way, PRECISIONS):
                    continue
                endpoint = served.endpoint(**switches, **changes)
                size = measure_size(endpoint)
                figures = {
                    "model": folder.name,
                    "truth": truth,
                    "norm": head.norm,
                    "way": way,
                    "precision": precision,
                } | {f"found {key}": value for key, value in size.to_json().items()}
                if way == "chosen":
                    signature = make_signature(endpoint, truth)
                    error = projection_error(extract_projection(signature), head)
                    figures |= {"rms": error.rms, "relative": error.relative}
                yield figures


def evaluate_queries(folders: list[Path], tokens: int, prompts: int) -> Iterator[dict[str, Any]]:
    """Requests per logit and error of every collector; published: 0.25, 1.0, 3.7, 10."""
    ways: list[tuple[str, dict[str, Any], Settings]] = [
        ("reference token, top 5", {"top": 5}, Settings()),
        ("pairs, top 1", {"top": 1}, Settings()),
        *(
            (f"{method} to {precision:g}", {"top": 0}, Settings(method, precision))
            for method in ("one-of-n", "hyperrectangle", "bisection")
            for precision in (1e-2, 1e-3)
        ),
    ]
    for folder in folders:
        served = Served(folder)
        for name, switches, settings in ways:
            endpoint = served.endpoint(settings, **switches)
            ids, asked = endpoint.choose_ids(tokens), make_prompts(prompts)
            before = endpoint.requests
            found = clr(endpoint.outputs(asked, ids))
            truth = clr(np.array([served.logits(prompt)[ids] for prompt in asked]))
            span = float(np.ptp(truth, axis=1).mean())
            rms = float(np.sqrt(np.square(found - truth).mean()))
            yield {
                "model": folder.name,
                "collector": name,
                "requests per logit": (endpoint.requests - before) / (prompts * (tokens - 1)),
                "rms": rms,
                "bits": float(np.log2(span / rms)),
                "range": span,
            }


def evaluate_match(zoo: Path) -> Iterator[dict[str, Any]]:
    """Every model of a zoo against the heads of its bases; AUC of kin against strangers."""
    manifest = json.loads((zoo / "manifest.json").read_text("utf-8"))["models"]
    bases = [name for name, entry in manifest.items() if entry["relation"] == "base"]
    heads = {name: read_head(str(zoo / name)) for name in bases}
    scores: dict[str, list[tuple[bool, float]]] = {
        "signature": [],
        "16 outputs": [],
        "1 output": [],
    }
    for name in manifest:
        if not (zoo / name).is_dir():
            continue
        served = Served(zoo / name)
        ancestors = find_ancestors(name, manifest)
        for precision in ("float32", "bfloat16"):
            endpoint = served.endpoint(**WAYS["chosen"], precision=precision)
            width = read_width(zoo / name)
            signature = make_signature(endpoint, width)
            values, ids = collect_outputs(endpoint, 16, 256)
            for base, head in heads.items():
                kin = base in ancestors
                noise = 1e-6 if precision == "float32" else 1e-2
                found: dict[str, HeadMatch] = {
                    "signature": match_signature(signature, head),
                    "16 outputs": match_outputs(values, ids, noise, head),
                    "1 output": match_outputs(values[:1], ids, noise, head),
                }
                for way, match in found.items():
                    if precision == "float32":
                        residual = 1.0 if match.residual is None else match.residual
                        score = -residual if match.overlap is None else match.overlap
                        scores[way].append((kin, score))
                    yield {
                        "endpoint": name,
                        "relation": manifest[name]["relation"],
                        "base": base,
                        "kin": kin,
                        "precision": precision,
                        "way": way,
                        "overlap": match.overlap,
                    } | match.to_json()
    for way, pairs in scores.items():
        yield {"way": way, "AUC": auc(pairs), "pairs": len(pairs)}


def read_width(folder: Path) -> int:
    """The hidden size of a model or of an adapter's base."""
    folder = folder.resolve()
    with working_directory(folder):
        return int(read_head(str(folder)).weight.shape[1])


def find_ancestors(name: str, manifest: dict[str, Any]) -> set[str]:
    """A model, its parents, and theirs."""
    found = {name}
    for parent in manifest[name]["parents"]:
        found |= find_ancestors(parent, manifest)
    return found


def auc(pairs: list[tuple[bool, float]]) -> float:
    """Probability that kin score higher than strangers."""
    kin = np.array([score for is_kin, score in pairs if is_kin])
    strange = np.array([score for is_kin, score in pairs if not is_kin])
    higher = (kin[:, None] > strange[None, :]) + 0.5 * (kin[:, None] == strange[None, :])
    return float(higher.mean())


def evaluate_watch(before: Path, after: Path, trials: int) -> Iterator[dict[str, Any]]:
    """False alarms, and power against ever smaller shares of a fine-tune, by server noise."""
    prompts = make_prompts(PROMPTS, "watch")
    shares = [0.0, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 0.1, 1.0]
    first, second = LocalModel(str(before)), LocalModel(str(after))
    old, new = first._model.state_dict(), second._model.state_dict()
    old = {name: tensor.clone() for name, tensor in old.items()}
    tables = {}
    for share in shares:
        mixed = {name: old[name] + share * (new[name] - old[name]) for name in old}
        first._model.load_state_dict(mixed)
        tables[share] = first.outputs(prompts, np.arange(first.vocabulary))
    random = np.random.default_rng(0)
    for wobble in (0.0, 1e-3, 1e-2, 0.1):
        for share in shares:
            count = 5 * trials if share == 0 else trials
            alarms = 0
            for _ in range(count):
                old_visit, new_visit = (ask(tables[s], wobble, random) for s in (0.0, share))
                seed = int(random.integers(1 << 30))
                alarms += compare_visits(old_visit, new_visit, seed).changed
            yield {"wobble": wobble, "share": share, "alarms": alarms / count, "trials": count}
    steps = [float(np.abs(tables[a] - tables[b]).mean()) for a, b in pairwise(shares)]
    yield {"mean change of a logit from share to share": steps}


def ask(
    table: np.ndarray, wobble: float, random: np.random.Generator
) -> list[list[dict[str, float]]]:
    """What a visit to an endpoint with such logits (prompts, v) brings: its top 5."""
    visit = []
    for logits in table:
        repeats = []
        for _ in range(REPEATS):
            noisy = logits + wobble * random.standard_normal(len(logits))
            shown = noisy - np.logaddexp.reduce(noisy)
            repeats.append({str(i): float(shown[i]) for i in np.argsort(-shown)[:5]})
        visit.append(repeats)
    return visit


def main() -> None:
    """Print one JSON object a line."""
    torch.set_num_threads(1)
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("what", choices=("size", "queries", "match", "watch"))
    parser.add_argument("--models", nargs="*", type=Path, default=[])
    parser.add_argument("--tiny", action="store_true", help="add a random model of every norm")
    parser.add_argument("--zoo", type=Path)
    parser.add_argument("--before", type=Path)
    parser.add_argument("--after", type=Path)
    parser.add_argument("--tokens", type=int, default=200)
    parser.add_argument("--prompts", type=int, default=4)
    parser.add_argument("--trials", type=int, default=100)
    options = parser.parse_args()
    try:
        if options.what == "size":
            scratch = Path(tempfile.mkdtemp(prefix="huref-heads-"))
            kinds = KINDS if options.tiny else ()
            tiny = [make_model(scratch / kind, kind) for kind in kinds]
            results = evaluate_size([*tiny, *options.models])
        elif options.what == "queries":
            results = evaluate_queries(options.models, options.tokens, options.prompts)
        elif options.what == "match":
            results = evaluate_match(options.zoo)
        else:
            results = evaluate_watch(options.before, options.after, options.trials)
        for figures in results:
            print(json.dumps(figures), flush=True)
    except HurefError as error:
        raise SystemExit(str(error)) from error
