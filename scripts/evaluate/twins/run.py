"""Measures whether descent is told from a shared initialisation, on families made for it.

    python -m scripts.zoo make --config configs/twins-zoo.yaml --out runs/twins-zoo
    python -m scripts.evaluate twins [runs/twins-zoo] [--out FOLDER] [--minutes N]

All pairs of each family are compared, by both recipes. The limits of huref/lineage/verdict.py were
chosen on the families of CHOSEN; the others judge them. Records and pairs are saved under --out, so
that an interrupted run can be resumed; pairs are measured again whenever huref's rules changed.
Writes docs/measured/twins.md.
"""

import math
import time
from itertools import combinations
from pathlib import Path
from typing import Any

import torch

from huref.api.open import open_record
from huref.files import replacing
from huref.invariants.record import Record, load_record
from huref.lineage.descent import twins_p
from huref.lineage.table import build_table
from scripts import ROOT, make_parser
from scripts.evaluate.lineage.measuring import digest_of_code, read_json, write_json
from scripts.evaluate.twins.report import render
from scripts.zoo.manifest import Models, kinship, read_manifest

RECIPES = ("default", "static-1")


def main() -> None:
    """The command line."""
    parser = make_parser(__doc__)
    parser.add_argument("zoo", nargs="?", type=Path, default=ROOT / "runs" / "twins-zoo")
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "twins")
    parser.add_argument("--table", type=Path, default=ROOT / "docs" / "measured" / "twins.md")
    parser.add_argument("--minutes", type=float, default=math.inf)
    options = parser.parse_args()
    torch.set_num_threads(1)
    deadline = time.monotonic() + 60 * options.minutes
    models = read_manifest(options.zoo)["models"]
    if not models:
        raise SystemExit(f"there is no zoo in {options.zoo}; the command above makes one")
    rows = {}
    for recipe in RECIPES:
        rows[recipe] = measure(models, recipe, options.zoo, options.out, deadline)
    with replacing(options.table) as temporary:
        temporary.write_text(render(models, rows), "utf-8")


def measure(
    models: Models, recipe: str, zoo: Path, out: Path, deadline: float
) -> dict[str, dict[str, Any]]:
    """What huref finds for every pair of each family, by "a b"; stops after the deadline."""
    path = out / f"{recipe}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    known = read_json(path)
    code = f"{digest_of_code('invariants')} {digest_of_code('lineage')}"
    for family in families(models).values():
        records: dict[str, Record] = {}
        for a, b in combinations(family, 2):
            key = f"{a} {b}"
            stamp = f"{code} {models[a]['recipe']} {models[b]['recipe']}"
            if known.get(key, {}).get("stamp") == stamp:
                continue
            if time.monotonic() > deadline:
                raise SystemExit("time is up; run again to go on")
            for name in (a, b):
                if name not in records:
                    records[name] = _record(zoo / name, recipe, models[name]["recipe"], out)
            known[key] = _compare(records[a], records[b], models, (a, b)) | {"stamp": stamp}
        write_json(path, known)
    return {key: row for key, row in known.items() if all(n in models for n in key.split())}


def families(models: Models) -> dict[str, list[str]]:
    """Models by the initialisation that they come from."""
    found: dict[str, list[str]] = {}
    for name, entry in models.items():
        found.setdefault(entry["initialisation"], []).append(name)
    return found


def _record(folder: Path, recipe: str, made: str, out: Path) -> Record:
    """A record with the units of all blocks, made once for each state of the code."""
    kept = out / "records" / recipe / f"{folder.name}-{made}-{digest_of_code('invariants')}"
    path = kept.with_name(kept.name + ".safetensors")
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        open_record(str(folder), recipe, depth="full").save(path)
    return load_record(path)


def _compare(a: Record, b: Record, models: Models, names: tuple[str, str]) -> dict[str, Any]:
    [pair] = build_table([a, b]).pairs
    retention = pair.evidence.retention
    figures = None
    if retention is not None:
        figures = {
            "of": [retention.of_a, retention.of_b],
            "error": [retention.error_of_a, retention.error_of_b],
            "learned": [retention.learned_a, retention.learned_b],
            "further": [retention.further_a, retention.further_b],
            "error_of_further": [retention.error_of_further_a, retention.error_of_further_b],
            "p": twins_p(retention),
            "carried": retention.carried,
        }
    older = pair.evidence.direction
    return {
        "family": models[names[0]]["initialisation"],
        "kin": kinship(models, *names),
        "verdict": pair.evidence.verdict,
        "why": pair.why,
        "ics": pair.similarity.ics,
        "units": None if pair.evidence.units is None else pair.evidence.units.matched,
        "retention": figures,
        "older": None if older is None else dict(zip("ab", names, strict=True))[older.older],
    }
