"""Measures the encoder and what it is compared with; writes a table beside the checkpoint.

    huref train-encoder --config configs/encoder-paper.yaml --out /tmp/encoder-paper.safetensors
    python -m scripts.evaluate encoder --paper /tmp/encoder-paper.safetensors --work /tmp/evaluation

The work is cut into pieces, kept in the folder `--work`; those that are there are not made
again, so a command that was interrupted, or stopped by `--minutes`, is repeated until the table
appears. A folder belongs to one set of networks and orders.
"""

import argparse
import json
import time
from functools import partial
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from huref.encoder import load_encoder
from scripts import make_parser
from scripts.evaluate.encoder.codes import Code, make_codes
from scripts.evaluate.encoder.pieces import (
    CHUNK,
    Work,
    measure_family,
    measure_mixtures,
    measure_strangers,
)
from scripts.evaluate.encoder.real import measure_zoo
from scripts.evaluate.encoder.table import to_markdown

KINDS = ("mixtures", "families", "strangers", "zoo")
COUNTS = {  # what a table is made of, with the numbers that the committed one has
    "mixtures": (20, "families of exact correlation"),
    "mixture-orders": (100, "of each one's anchors"),
    "families": (16, "other families, at correlated weights and accidents"),
    "orders": (160, "of each one's anchors, for the encoder at correlated weights"),
    "other-orders": (10, "after accidents, and for codes that cost little"),
    "strangers": (360, "independent models"),
    "stranger-orders": (14, "of each one's anchors"),
}


def plan(options: argparse.Namespace, codes: dict[str, Code]) -> dict[str, list[Work]]:
    """All pieces, by kind."""
    folder: Path = options.work
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
        "zoo": [Work(folder / "zoo.pt", partial(measure_zoo, options.zoo, codes))],
    }


def claim(folder: Path, owner: dict[str, Any]) -> None:
    """Say what the pieces in a folder are made of; others are not mixed in."""
    folder.mkdir(parents=True, exist_ok=True)
    said, text = folder / "owner.json", json.dumps(owner, indent=1)
    if said.exists() and said.read_text() != text:
        raise SystemExit(f"{folder}: holds pieces of other networks or orders; name an empty one")
    said.write_text(text)


def complete_command(options: argparse.Namespace) -> str:
    """The command that makes the table from nothing, with every number in it."""
    counts = " ".join(f"--{name} {vars(options)[name.replace('-', '_')]}" for name in COUNTS)
    paper = "--paper PAPER " if options.paper else ""
    return f"python -m scripts.evaluate encoder {paper}{counts} --work FOLDER"


def main() -> None:
    """Command line."""
    parser = make_parser(__doc__)
    parser.add_argument("--encoder", type=Path, default=Path("checkpoints/encoder.safetensors"))
    parser.add_argument("--paper", type=Path, help="an encoder trained by encoder-paper.yaml")
    parser.add_argument("--work", type=Path, required=True, help="a folder for the pieces")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="stop after so long")
    parser.add_argument("--only", choices=KINDS)
    for name, (default, meaning) in COUNTS.items():
        parser.add_argument(f"--{name}", type=int, default=default, help=f"{meaning} [{default}]")
    parser.add_argument("--zoo", type=Path, default=Path("checkpoints/zoo"))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("docs/measured/encoder-evaluation.md"))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    deadline = time.monotonic() + 60 * options.minutes
    orders = (options.orders, options.other_orders)
    codes = make_codes(
        options.encoder, options.paper, orders, options.stranger_orders, options.mixture_orders
    )
    made = load_encoder(options.encoder)
    paper = load_encoder(options.paper) if options.paper else None
    owner = {"encoder": made.digest, "paper": paper.digest if paper else ""}
    amounts = {name: vars(options)[name.replace("-", "_")] for name in COUNTS if "orders" in name}
    claim(options.work, owner | amounts)
    pieces = plan(options, codes)
    wanted = [options.only] if options.only else list(pieces)
    missing = [work for kind in wanted for work in pieces[kind] if not work.path.exists()]
    for work in tqdm(missing, unit="piece", disable=None):
        if time.monotonic() >= deadline:
            return
        work.run()
    if options.only:
        return
    found = {kind: [torch.load(work.path) for work in works] for kind, works in pieces.items()}
    chunks = found["strangers"]
    latents = {name: torch.cat([chunk[name] for chunk in chunks]) for name in chunks[0]}
    about = {"command": complete_command(options), "digest": made.digest}
    if paper:
        config, steps = paper.metadata["config"], paper.metadata["steps"]
        about["paper"] = f"`{paper.digest[:12]}`, {steps} of {config['steps']} steps"
    report = to_markdown(about, found["mixtures"], found["families"], latents, found["zoo"][0])
    options.out.write_text(report)
