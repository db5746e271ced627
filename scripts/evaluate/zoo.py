"""Measures all pairs of a zoo: ICS of raw and of whitened terms for every block, and cos z.

    python -m scripts.evaluate zoo [checkpoints/zoo]

Raw terms use the anchors' embeddings without whitening, as HuRef published them; huref compares
whitened terms. The zoo's manifest, which has the true relations, is printed below the table.
"""

import json
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path

import torch
from torch import Tensor

from huref.api.open import open_record
from huref.architecture.reader import ModelReader
from huref.errors import HurefError
from huref.invariants.anchors import Anchors, choose_anchors
from huref.invariants.terms import block_terms, pearson, whiten
from huref.lineage.similarity import compare_records
from huref.loader.checkpoint import open_checkpoint
from huref.recipe import load_recipe
from scripts import make_parser


def all_terms(folder: Path, m: int) -> tuple[Anchors, list[Tensor]]:
    """Anchors, and the raw and the whitened terms (blocks, 3, m, m)."""
    checkpoint = open_checkpoint(str(folder))
    reader = ModelReader(checkpoint)
    anchors = choose_anchors(checkpoint.vocabulary, m)
    rows = reader.embeddings([anchors.ids[i] for i in anchors.filled])
    E = torch.zeros(m, rows.shape[1])
    E[anchors.filled] = rows
    blocks = [reader.read_block(i) for i in range(reader.block_count)]
    raw = torch.stack([block_terms(block, E) for block in blocks])
    white = whiten(E)
    return anchors, [raw, torch.stack([block_terms(block, white) for block in blocks])]


def per_block(a: Tensor, b: Tensor, shared: list[int]) -> list[float]:
    """ICS of blocks with the same index, over the shared anchors."""
    count = min(len(a), len(b))
    x, y = (terms[:count][:, :, shared][:, :, :, shared] for terms in (a, b))
    result: list[float] = pearson(x, y).mean(dim=1).tolist()
    return result


def figures(values: list[float]) -> str:
    """Format correlations."""
    return " ".join(f"{value:+.3f}" for value in values)


def rows_of(zoo: Path) -> Iterator[list[str]]:
    """One row per pair of models: names, raw and whitened ICS per block, ICS, cos z."""
    names = sorted(p.parent.name for p in zoo.glob("*/config.json"))
    m = load_recipe()[0].m
    terms = {name: all_terms(zoo / name, m) for name in names}
    records = {name: open_record(str(zoo / name)) for name in names}
    for a, b in combinations(names, 2):
        (anchors, of_a), (others, of_b) = terms[a], terms[b]
        shared = anchors.shared(others)
        raw, white = (per_block(x, y, shared) for x, y in zip(of_a, of_b, strict=True))
        pair = compare_records(records[a], records[b])
        ends = [figures([x]) if x is not None else "-" for x in (pair.ics, pair.latent_cosine)]
        yield [a, b, str(pair.shared_anchors), figures(raw), figures(white), *ends]


def main() -> None:
    """Print the table and the manifest."""
    parser = make_parser(__doc__)
    parser.add_argument("zoo", nargs="?", type=Path, default=Path("checkpoints/zoo"))
    options = parser.parse_args()
    head = ["a", "b", "shared anchors", "raw ICS by block", "whitened ICS by block", "ICS", "cos z"]
    print("| " + " | ".join(head) + " |")
    print("|" + " --- |" * len(head))
    try:
        for row in rows_of(options.zoo):
            print("| " + " | ".join(row) + " |", flush=True)
    except HurefError as error:
        raise SystemExit(str(error)) from error
    manifest = options.zoo / "manifest.json"
    if manifest.is_file():
        print(json.dumps(json.loads(manifest.read_text("utf-8")), indent=1))
