"""Measurements of all pairs of a zoo, saved so that an interrupted run can be resumed.

Records and the rivals' scores are measured again for models that changed. Evidence, which is what
is being evaluated, is measured again whenever huref's lineage code or a record changed.
"""

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tqdm import tqdm

import huref
from huref.api.open import open_record
from huref.invariants.record import load_record
from huref.lineage.mixing import find_mixings
from huref.lineage.table import build_table
from huref.recipe import load_recipe
from scripts.evaluate.lineage.truth import Truth
from scripts.rivals.awm import awm_score
from scripts.rivals.intrinsic import intrinsic_score
from scripts.rivals.plain import parameter_cosine
from scripts.rivals.published import published_ics
from scripts.rivals.weights import Weights, read_weights
from scripts.zoo.manifest import ancestors

RIVALS: dict[str, Callable[[Weights, Weights], float]] = {
    "raw ICS as published": published_ics,
    "parameter cosine": parameter_cosine,
    "AWM": awm_score,
    "intrinsic": intrinsic_score,
}
MANY_MODELS = ("tree", "newick", "neighbour_joining", "build_forest", "mixing", "screening")
Rows = dict[str, Any]


def model_path(zoo: Path, name: str) -> Path:
    """The path that huref opens: the model's folder, or its GGUF file."""
    file = zoo / name / "model.gguf"
    return file if file.exists() else zoo / name


def read_json(path: Path) -> Rows:
    """A JSON object, or an empty one where there is no file."""
    if not path.exists():
        return {}
    content: Rows = json.loads(path.read_text("utf-8"))
    return content


def write_json(path: Path, content: object) -> None:
    """Write JSON atomically."""
    partial = path.with_name(f".{path.name}")
    partial.write_text(json.dumps(content, indent=0) + "\n", "utf-8")
    partial.replace(path)


def digest_of_code(package: str) -> str:
    """Digest of the source of one of huref's packages, without modules on more than two models."""
    modules = (Path(huref.__file__).parent / package).glob("*.py")
    digest = hashlib.sha256()
    for path in sorted(modules):
        if path.stem not in MANY_MODELS:
            digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def make_records(zoo: Path, models: Rows, out: Path) -> dict[str, Path]:
    """A record of every model by the default recipe, with the units of all blocks."""
    folder, state = out / "records", out / "records.json"
    folder.mkdir(parents=True, exist_ok=True)
    code = f"{digest_of_code('invariants')} {load_recipe()[0].digest}"
    known = read_json(state)
    paths = {name: folder / f"{name}.safetensors" for name in models}
    for name in tqdm(models, desc="records", disable=None):
        stamp = f"{models[name]['recipe']} {code}"
        if known.get(name) != stamp or not paths[name].exists():
            open_record(str(model_path(zoo, name)), depth="full").save(paths[name])
            known[name] = stamp
            write_json(state, known)
    return paths


def rival_scores(
    zoo: Path, models: Rows, pairs: Sequence[Truth], out: Path, deadline: float
) -> Rows:
    """Scores of the rivals, {"a b": {rival: score}}; stops with SystemExit after the deadline."""
    path = out / "rivals.json"
    known = read_json(path)
    stamps = {pair: f"{models[pair.a]['recipe']} {models[pair.b]['recipe']}" for pair in pairs}
    missing = [p for p in pairs if known.get(key_of(p), {}).get("stamp") != stamps[p]]
    names = dict.fromkeys(name for pair in missing for name in (pair.a, pair.b))
    weights = {name: read_weights(str(model_path(zoo, name))) for name in names}
    for done, pair in enumerate(tqdm(missing, desc="rivals", disable=None), start=1):
        one, other = weights[pair.a], weights[pair.b]
        scores: Rows = {name: score(one, other) for name, score in RIVALS.items()}
        known[key_of(pair)] = {**scores, "stamp": stamps[pair]}
        late = time.monotonic() > deadline
        if late or done % 250 == 0 or done == len(missing):
            write_json(path, known)
        if late and done < len(missing):
            raise SystemExit(f"time is up: {len(missing) - done} pairs are not scored")
    return known


def key_of(pair: Truth) -> str:
    """The key of a pair in the saved files."""
    return " ".join(sorted((pair.a, pair.b)))


def evidence(pairs: Sequence[Truth], paths: dict[str, Path], out: Path, deadline: float) -> Rows:
    """Results of huref on every pair, {"a b": ...}; stops with SystemExit after the deadline."""
    path = out / "evidence.json"
    made, code = read_json(out / "records.json"), digest_of_code("lineage")
    known = read_json(path)
    stamps = {key_of(p): f"{code} {made[p.a]} {made[p.b]}" for p in pairs}
    missing = [p for p in pairs if known.get(key_of(p), {}).get("stamp") != stamps[key_of(p)]]
    missing.sort(key=lambda pair: pair.kinship == "unrelated")  # the many unrelated pairs come last
    records = {n: load_record(paths[n]) for n in {n for p in missing for n in (p.a, p.b)}}
    for done, pair in enumerate(tqdm(missing, desc="evidence", disable=None), start=1):
        [found] = build_table([records[pair.a], records[pair.b]]).pairs
        direction = found.evidence.direction
        known[key_of(pair)] = found.to_json() | {
            "a": pair.a,
            "b": pair.b,
            "parent": None if direction is None else {"a": pair.a, "b": pair.b}[direction.older],
            "stamp": stamps[key_of(pair)],
        }
        late = time.monotonic() > deadline
        if late or done % 250 == 0 or done == len(missing):
            write_json(path, known)
        if late and done < len(missing):
            raise SystemExit(f"time is up: {len(missing) - done} pairs are not compared")
    return known


def mixings(models: Rows, paths: dict[str, Path]) -> list[Rows]:
    """Mixing shares that huref estimates in tables of a base with all its descendants."""
    found: list[Rows] = []
    merged = [name for name in models if "shares" in models[name]]
    for base in (name for name in models if not models[name]["parents"]):
        family = [name for name in models if base in ancestors(models, name)]
        if not set(merged) & set(family):
            continue
        records = [load_record(paths[name]) for name in family]
        named = dict(zip((record.model for record in records), family, strict=True))
        found += [
            asdict(mixing)
            | {"child": named[mixing.child], "parents": [named[p] for p in mixing.parents]}
            for mixing in find_mixings(records)
        ]
    return found
