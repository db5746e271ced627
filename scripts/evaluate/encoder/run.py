"""Measures the encoder and other codes; writes docs/measured/encoder-evaluation.md.

    huref train-encoder --config configs/encoder-paper.yaml --out /tmp/encoder-paper.safetensors
    python -m scripts.evaluate encoder --paper /tmp/encoder-paper.safetensors --work /tmp/evaluation

The work is cut into pieces, which are saved in the folder `--work` and reused. Repeat a command
that was interrupted or stopped by `--minutes` until it writes the report. A folder can be used for
one set of networks and numbers of orders only.
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
COUNTS = {  # sample sizes, with those of the committed report as defaults
    "mixtures": (20, "families of exact correlation"),
    "mixture-orders": (100, "orders of each one's anchors"),
    "families": (16, "other families, at correlated weights and after changes"),
    "orders": (160, "orders of each one's anchors, for the encoder at correlated weights"),
    "other-orders": (10, "orders after changes, and for inexpensive codes"),
    "strangers": (360, "independent models"),
    "stranger-orders": (14, "orders of each one's anchors"),
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
    """Record the owner of a folder's pieces. Raises SystemExit if it has another owner."""
    folder.mkdir(parents=True, exist_ok=True)
    record, text = folder / "owner.json", json.dumps(owner, indent=1)
    if record.exists() and record.read_text() != text:
        raise SystemExit(f"{folder} has pieces of other networks or orders; give an empty folder")
    record.write_text(text)


def complete_command(options: argparse.Namespace) -> str:
    """The complete command, with every sample size."""
    counts = " ".join(f"--{name} {vars(options)[name.replace('-', '_')]}" for name in COUNTS)
    paper = "--paper PAPER " if options.paper else ""
    return f"python -m scripts.evaluate encoder {paper}{counts} --work FOLDER"


def main() -> None:
    """Compute missing pieces; when all exist, write the report."""
    parser = make_parser(__doc__)
    parser.add_argument("--encoder", type=Path, default=Path("checkpoints/encoder.safetensors"))
    parser.add_argument("--paper", type=Path, help="an encoder trained by encoder-paper.yaml")
    parser.add_argument("--work", type=Path, required=True, help="folder of the pieces")
    parser.add_argument(
        "--minutes", type=float, default=float("inf"), help="start no piece after so many minutes"
    )
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
