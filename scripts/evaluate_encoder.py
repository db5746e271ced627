"""Measures the encoder and what it is compared with; writes a table beside the checkpoint.

    python scripts/evaluate_encoder.py --work /tmp/evaluation --minutes 7

The work is cut into pieces, kept in the folder `--work`; those that are there are not made
again, so the command is repeated until the table appears. A folder belongs to one encoder.
"""

import argparse
import time
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from encoder_evaluation.codes import Code, make_codes
from encoder_evaluation.pieces import (
    CHUNK,
    SEED,
    WIDTHS,
    Work,
    measure_family,
    measure_strangers,
)
from encoder_evaluation.real import measure_zoo
from encoder_evaluation.table import to_markdown
from torch import Tensor
from tqdm import tqdm

from huref.encoder import load_encoder
from huref.encoder.embeddings import EmbeddingPool


@cache
def embeddings() -> EmbeddingPool:
    """Whitened when the first piece needs them."""
    return EmbeddingPool(24, 512, WIDTHS, seed=SEED)


def family(index: int, codes: dict[str, Code]) -> dict[str, Any]:
    """A piece: one family at every point."""
    return measure_family(index, embeddings(), codes)


def unrelated(chunk: int, orders: int, codes: dict[str, Code]) -> dict[str, Tensor]:
    """A piece: independent models."""
    return measure_strangers(chunk, embeddings(), orders, codes)


def plan(options: argparse.Namespace, codes: dict[str, Code]) -> dict[str, list[Work]]:
    """All pieces, by kind."""
    folder: Path = options.work
    orders: int = options.stranger_orders
    return {
        "families": [
            Work(folder / f"family-{i:03}.pt", partial(family, i, codes))
            for i in range(options.families)
        ],
        "strangers": [
            Work(folder / f"strangers-{i:03}.pt", partial(unrelated, i, orders, codes))
            for i in range(options.strangers // CHUNK)
        ],
        "zoo": [Work(folder / "zoo.pt", partial(measure_zoo, options.zoo, codes))],
    }


def claim(folder: Path, digest: str) -> None:
    """Say whose the pieces in a folder are; another encoder's are not mixed in."""
    folder.mkdir(parents=True, exist_ok=True)
    owner = folder / "encoder.txt"
    if owner.exists() and owner.read_text() != digest:
        raise SystemExit(f"{folder}: holds pieces of another encoder; name an empty folder")
    owner.write_text(digest)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--encoder", type=Path, default=Path("checkpoints/encoder.safetensors"))
    parser.add_argument("--paper", type=Path, help="an encoder trained by encoder-paper.yaml")
    parser.add_argument("--ablation", type=Path, help="a folder that ablate_encoder.py filled")
    parser.add_argument("--work", type=Path, required=True, help="a folder for the pieces")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="stop after so long")
    parser.add_argument("--only", choices=("families", "strangers", "zoo"), help="no table then")
    parser.add_argument("--families", type=int, default=60)
    parser.add_argument("--orders", type=int, default=34, help="of each family's anchors")
    parser.add_argument("--strangers", type=int, default=1440, help="independent models")
    parser.add_argument("--stranger-orders", type=int, default=4)
    parser.add_argument("--zoo", type=Path, default=Path("checkpoints/zoo"))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("checkpoints/encoder-evaluation.md"))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    deadline = time.monotonic() + 60 * options.minutes
    codes = make_codes(
        options.encoder, options.ablation, options.paper, options.families, options.orders
    )
    digest = load_encoder(options.encoder).digest
    claim(options.work, digest)
    pieces = plan(options, codes)
    wanted = [options.only] if options.only else list(pieces)
    missing = [work for kind in wanted for work in pieces[kind] if not work.path.exists()]
    for work in tqdm(missing, unit="piece", disable=None):
        if time.monotonic() >= deadline:
            return
        work.run()
    if options.only:
        return
    made = {kind: [torch.load(work.path) for work in pieces[kind]] for kind in pieces}
    command = (
        f"python scripts/evaluate_encoder.py --families {options.families} --orders "
        f"{options.orders} --strangers {options.strangers} --work FOLDER"
    )
    chunks = made["strangers"]
    latents = {name: torch.cat([chunk[name] for chunk in chunks]) for name in chunks[0]}
    about = {"command": command, "digest": digest}
    options.out.write_text(to_markdown(about, made["families"], latents, made["zoo"][0]))


if __name__ == "__main__":
    main()
