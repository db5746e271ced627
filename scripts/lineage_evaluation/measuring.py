"""Measurements of all pairs of a zoo, kept on disk so that a second run goes on.

Records and the rivals' scores are made again where the zoo made a model again. Evidence is made
again whenever huref or a record changed: it is what is being evaluated.
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from itertools import combinations
from pathlib import Path
from typing import Any

from rivals.awm import awm_score
from rivals.intrinsic import intrinsic_score
from rivals.plain import parameter_cosine
from rivals.published import published_ics
from rivals.weights import Weights, read_weights
from tqdm import tqdm

import huref
from huref.models import open_record
from lineage_evaluation.truth import Truth, groups

RIVALS: dict[str, Callable[[Weights, Weights], float]] = {
    "raw ICS as published": published_ics,
    "parameter cosine": parameter_cosine,
    "AWM": awm_score,
    "intrinsic": intrinsic_score,
}
Rows = dict[str, Any]


def model_path(zoo: Path, name: str) -> Path:
    """What huref is given: the folder, or the one file in it."""
    file = zoo / name / "model.gguf"
    return file if file.exists() else zoo / name


def read_json(path: Path) -> Rows:
    """A JSON object, or an empty one where there is no file."""
    if not path.exists():
        return {}
    content: Rows = json.loads(path.read_text("utf-8"))
    return content


def write_json(path: Path, content: object) -> None:
    """Write JSON, whole or not at all."""
    partial = path.with_name(f".{path.name}")
    partial.write_text(json.dumps(content, indent=0) + "\n", "utf-8")
    partial.replace(path)


def digest_of_code(*packages: str) -> str:
    """Digest of the source of some of huref's packages."""
    root = Path(huref.__file__).parent
    digest = hashlib.sha256()
    for package in packages:
        for path in sorted((root / package).glob("*.py")):
            digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def make_records(zoo: Path, models: Rows, out: Path) -> dict[str, Path]:
    """A record of every model with the units of all blocks, by the default recipe."""
    folder, state = out / "records", out / "records.json"
    folder.mkdir(parents=True, exist_ok=True)
    code = digest_of_code("invariants")
    known = read_json(state)
    paths = {name: folder / f"{name}.safetensors" for name in models}
    for name in tqdm(models, desc="records", disable=None):
        stamp = f"{models[name]['recipe']} {code}"
        if known.get(name) != stamp or not paths[name].exists():
            open_record(str(model_path(zoo, name)), depth="full").save(paths[name])
            known[name] = stamp
            write_json(state, known)
    return paths


def rival_scores(zoo: Path, models: Rows, pairs: Sequence[Truth], out: Path) -> Rows:
    """Scores of the rivals, {"a b": {rival: score}}."""
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
        if done % 500 == 0 or done == len(missing):
            write_json(path, known)
    return known


def key_of(pair: Truth) -> str:
    """The pair's name in the files here."""
    return " ".join(sorted((pair.a, pair.b)))


def evidence(records: dict[str, Path], models: Rows, out: Path) -> Rows:
    """What `huref.compare` says: "pairs", {"a b": ...}, and "mixings"."""
    path = out / "evidence.json"
    known = read_json(path)
    made = read_json(out / "records.json")
    stamp = {"code": digest_of_code("lineage"), "records": {name: made[name] for name in records}}
    if known.get("stamp") == stamp:
        return known
    pairs: Rows = {}
    mixings: list[Rows] = []
    for group in groups(models):
        table = huref.compare([str(records[name]) for name in group])
        for (a, b), pair in zip(combinations(group, 2), table.pairs, strict=True):
            said = pair.evidence.direction
            parent = None if said is None else {"a": a, "b": b}[said.parent]
            found = pair.to_json() | {"a": a, "b": b, "parent": parent}
            pairs[" ".join(sorted((a, b)))] = found
        names = dict(zip(table.models, group, strict=True))
        mixings += [
            asdict(mixing)
            | {"child": names[mixing.child], "parents": [names[p] for p in mixing.parents]}
            for mixing in table.mixings
        ]
    result: Rows = {"stamp": stamp, "pairs": pairs, "mixings": mixings}
    write_json(path, result)
    return result
