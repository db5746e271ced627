"""Real models: pairs of the zoo, and its bases with changed anchors, by every code."""

from itertools import combinations
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from huref.architecture.reader import ModelReader
from huref.encoder.embeddings import CHANGED
from huref.encoder.synthetic import ics
from huref.invariants.anchors import Anchors, is_eligible
from huref.invariants.extract import extract_terms
from huref.invariants.terms import block_terms, flatten, whiten
from huref.loader.checkpoint import Checkpoint, open_checkpoint
from huref.recipe import Recipe, load_recipe
from scripts.evaluate.encoder.codes import Code

DRAWS = 3  # random choices of the changed anchors


def _with_anchors_changed(
    checkpoint: Checkpoint, anchors: Anchors, layers: tuple[int, ...], recipe: Recipe, seed: int
) -> Tensor:
    """Terms (2, 3, m, m) after other tokens were put into a fifth of the buckets."""
    generator = torch.Generator().manual_seed(seed)
    taken = set(anchors.ids)
    others = [
        token.id
        for token in checkpoint.vocabulary
        if token.kind == "normal" and is_eligible(token.text, "latin") and token.id not in taken
    ]
    fresh = iter(torch.randperm(len(others), generator=generator).tolist())
    changed = torch.rand(len(anchors), generator=generator) < CHANGED
    ids = [others[next(fresh)] if changed[i] else anchors.ids[i] for i in anchors.filled]
    reader = ModelReader(checkpoint)
    rows = reader.embeddings(ids)
    E = torch.zeros(len(anchors), rows.shape[1])
    E[anchors.filled] = rows
    whitened = whiten(E, recipe.damping)
    blocks = [block_terms(reader.read_block(i), whitened) for i in layers]
    return flatten(torch.stack(blocks), recipe.damping)


def _cosines(codes: dict[str, Code], a: Tensor, b: Tensor) -> dict[str, float]:
    return {
        name: float(torch.cosine_similarity(code(a[None])[0], code(b[None])[0], dim=0))
        for name, code in codes.items()
    }


@torch.no_grad()
def measure_zoo(folder: Path, codes: dict[str, Code]) -> list[dict[str, Any]]:
    """ICS, and cos z by every code, for pairs of models of the default recipe.

    ICS is computed over all positions, as the encoder reads terms; `huref compare` uses only shared
    anchors.

    Returns:
        Rows with "a", "b", "ics" and "cos"; "b" may describe a change of "a".
    """
    recipe = load_recipe()[0]
    terms: dict[str, Tensor] = {}
    rows: list[dict[str, Any]] = []
    for path in sorted(p.parent for p in folder.glob("*/config.json")):
        checkpoint = open_checkpoint(str(path))
        extract = extract_terms(checkpoint, recipe)
        if extract.recipe != recipe:
            continue  # a model of another recipe
        base = terms[path.name] = extract.terms
        if "-a-" in path.name:
            continue  # not a base
        for seed in range(DRAWS):
            after = _with_anchors_changed(checkpoint, extract.anchors, extract.layers, recipe, seed)
            row = {"a": path.name, "b": "a fifth of its anchors changed"}
            rows.append(row | {"ics": float(ics(base, after)), "cos": _cosines(codes, base, after)})
    latents = {
        name: {k: code(t[None])[0] for k, t in terms.items()} for name, code in codes.items()
    }
    for a, b in combinations(terms, 2):
        cosines = {
            name: float(torch.cosine_similarity(z[a], z[b], dim=0)) for name, z in latents.items()
        }
        rows.append({"a": a, "b": b, "ics": float(ics(terms[a], terms[b])), "cos": cosines})
    return rows
