"""Measures the encoder and what it is compared with; writes a table beside the checkpoint.

    python scripts/evaluate_encoder.py --work /tmp/evaluation --minutes 7

The work is cut into pieces, kept in the folder `--work`; those that are there are not made
again, so the command is repeated until the table appears. A folder belongs to one encoder.
"""

import argparse
import time
from functools import partial
from pathlib import Path
from typing import Any

import torch
from encoder_evaluation.codes import Code, make_codes, make_late_codes
from encoder_evaluation.pieces import (
    CHUNK,
    Work,
    measure_family,
    measure_mixtures,
    measure_strangers,
)
from encoder_evaluation.real import measure_zoo
from encoder_evaluation.table import to_markdown
from tqdm import tqdm

from huref.encoder import load_encoder

KINDS = ("mixtures", "families", "strangers", "late", "late-mixtures", "zoo")


def plan(
    options: argparse.Namespace, codes: dict[str, Code], late: dict[str, Code]
) -> dict[str, list[Work]]:
    """All pieces, by kind."""
    folder: Path = options.work
    some = range(min(options.families, options.late_families) if late else 0)
    return {
        "mixtures": [
            Work(folder / f"mixtures-{i:03}.pt", partial(measure_mixtures, i, codes))
            for i in range(options.mixtures)
        ],
        "families": [
            Work(folder / f"family-{i:03}.pt", partial(measure_family, i, codes))
            for i in range(options.families)
        ],
        "strangers": [
            Work(folder / f"strangers-{i:03}.pt", partial(measure_strangers, i, codes))
            for i in range(options.strangers // CHUNK)
        ],
        "late": [Work(folder / f"late-{i:03}.pt", partial(measure_family, i, late)) for i in some],
        "late-mixtures": [
            Work(folder / f"late-mixtures-{i:03}.pt", partial(measure_mixtures, i, late))
            for i in range(options.late_mixtures if late else 0)
        ],
        "zoo": [Work(folder / "zoo.pt", partial(measure_zoo, options.zoo, codes | late))],
    }


def together(families: list[dict[str, Any]], late: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Families with the latents of the late codes, where there are some."""
    for family, more in zip(families, late, strict=False):
        family["latents"] |= more["latents"]
    return families


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
    parser.add_argument("--work", type=Path, required=True, help="a folder for the pieces")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="stop after so long")
    parser.add_argument("--only", choices=KINDS)
    parser.add_argument("--partial", action="store_true", help="a table of the pieces made so far")
    parser.add_argument("--families", type=int, default=24)
    parser.add_argument("--late-families", type=int, default=12, help="for --paper")
    parser.add_argument("--mixtures", type=int, default=40, help="families of exact correlation")
    parser.add_argument("--mixture-orders", type=int, default=50)
    parser.add_argument("--late-mixtures", type=int, default=40, help="for --paper")
    parser.add_argument("--late-mixture-orders", type=int, default=5)
    parser.add_argument("--orders", type=int, default=84, help="of each family's anchors")
    parser.add_argument("--strangers", type=int, default=360, help="independent models")
    parser.add_argument("--stranger-orders", type=int, default=14)
    parser.add_argument("--zoo", type=Path, default=Path("checkpoints/zoo"))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("checkpoints/encoder-evaluation.md"))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    deadline = time.monotonic() + 60 * options.minutes
    codes = make_codes(
        options.encoder,
        options.families,
        options.orders,
        options.stranger_orders,
        options.mixture_orders,
    )
    late = make_late_codes(options.paper, options.late_families, options.late_mixture_orders)
    digest = load_encoder(options.encoder).digest
    claim(options.work, digest)
    pieces = plan(options, codes, late)
    wanted = [options.only] if options.only else list(pieces)
    missing = [work for kind in wanted for work in pieces[kind] if not work.path.exists()]
    for work in tqdm([] if options.partial else missing, unit="piece", disable=None):
        if time.monotonic() >= deadline:
            return
        work.run()
    if options.only:
        return
    made = {
        kind: [torch.load(work.path) for work in works if work.path.exists()]
        for kind, works in pieces.items()
    }
    chunks, families = made["strangers"], together(made["families"], made["late"])
    latents = {name: torch.cat([chunk[name] for chunk in chunks]) for name in chunks[0]}
    command = (
        f"python scripts/evaluate_encoder.py --mixtures {len(made['mixtures'])} --families "
        f"{len(families)} --orders {options.orders} --strangers {CHUNK * len(chunks)} --work FOLDER"
    )
    zoo = made["zoo"][0] if made["zoo"] else []
    about = {"command": command, "digest": digest}
    mixtures = [*made["mixtures"], *made["late-mixtures"]]
    options.out.write_text(to_markdown(about, mixtures, families, latents, zoo))


if __name__ == "__main__":
    main()
