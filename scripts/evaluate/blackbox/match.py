"""Signatures and outputs of served models against the heads of known bases."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from huref.blackbox.heads import read_head
from huref.blackbox.match import HeadMatch, match_outputs, match_signature
from huref.blackbox.signature import collect_outputs, make_signature
from scripts.evaluate.blackbox.served import WAYS, Served, working_directory


def evaluate_match(zoo: Path) -> Iterator[dict[str, Any]]:
    """Match every model of a zoo with the heads of its bases; last, AUC of kin over strangers."""
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
    """Hidden size of a model or of an adapter's base."""
    folder = folder.resolve()
    with working_directory(folder):
        return int(read_head(str(folder)).weight.shape[1])


def find_ancestors(name: str, manifest: dict[str, Any]) -> set[str]:
    """The model and all its ancestors."""
    found = {name}
    for parent in manifest[name]["parents"]:
        found |= find_ancestors(parent, manifest)
    return found


def auc(pairs: list[tuple[bool, float]]) -> float:
    """Probability that kin score higher than strangers; ties count half."""
    kin = np.array([score for is_kin, score in pairs if is_kin])
    strange = np.array([score for is_kin, score in pairs if not is_kin])
    higher = (kin[:, None] > strange[None, :]) + 0.5 * (kin[:, None] == strange[None, :])
    return float(higher.mean())
