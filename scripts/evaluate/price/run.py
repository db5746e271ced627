"""Measures the price of hiding: the perplexity of trained copies against what huref says of them.

    python -m scripts.evaluate price [BASE] [--budgets N...] [--out FOLDER] [--again]

A copy of BASE, by default the shipped zoo's llama-a, is pushed away from its source by gradient, or
has blocks redrawn and distilled, with a growing number of steps; once the blocks that the default
recipe reads, once all of them. The copy trains on source code that its source was trained on;
perplexity is measured on code that neither has seen. Copies and rows are kept under --out. Writes
docs/measured/price.md and price.svg.
"""

import math
from pathlib import Path
from typing import Any

import torch
import transformers
import yaml

from huref.attacks import Effort, attack
from huref.files import replacing
from scripts import ROOT, make_parser
from scripts.evaluate.attacks.measuring import SETTINGS, judge
from scripts.evaluate.lineage.measuring import digest_of_code, read_json, write_json
from scripts.evaluate.price.report import draw, render
from scripts.zoo.corpus import cut_windows, read_texts
from scripts.zoo.relations import load
from scripts.zoo.training import exact_token_loss

BASE = ROOT / "checkpoints" / "zoo" / "llama-a"
BUDGETS = {"gradient-push": (30, 100, 200, 400, 800), "distilled-blocks": (400, 1500)}
BLOCKS: dict[str, tuple[int, ...] | None] = {"blocks 1 and 2": (), "all blocks": None}
MEGABYTES = 3  # of text that the copy trains on
WINDOWS = 48  # of held-out text


def main() -> None:
    """The command line."""
    parser = make_parser(__doc__)
    parser.add_argument("base", nargs="?", type=Path, default=BASE)
    parser.add_argument("--budgets", nargs="+", type=int, help="steps, for both kinds")
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "price")
    parser.add_argument("--table", type=Path, default=ROOT / "docs" / "measured" / "price.md")
    parser.add_argument("--again", action="store_true", help="judge saved copies anew")
    options = parser.parse_args()
    transformers.utils.logging.disable_progress_bar()
    torch.set_num_threads(1)
    options.out.mkdir(parents=True, exist_ok=True)
    text = options.out / "text.txt"
    if not text.exists():
        config = yaml.safe_load((ROOT / "configs" / "zoo.yaml").read_text("utf-8"))
        domain = config["domains"]["code"]
        texts = read_texts(domain["kind"], tuple(domain["buckets"]), MEGABYTES)
        text.write_text("\n\n".join(texts), "utf-8")
    path = options.out / "rows.json"
    rows = {} if options.again else read_json(path)
    rows["source"] = {"perplexity": perplexity(options.base), "base": options.base.name}
    for kind, budgets in BUDGETS.items():
        for where, blocks in BLOCKS.items():
            for steps in options.budgets or budgets:
                key = f"{kind} {steps} {where}"
                if key not in rows:
                    copy = options.out / key.replace(" ", "-")
                    if not copy.exists():
                        attack(options.base, [kind], copy, effort=Effort(steps, blocks, text))
                    rows[key] = {"kind": kind, "steps": steps, "blocks": where} | measure(
                        options.base, copy
                    )
                    write_json(path, rows)
                    print(key, round(rows[key]["perplexity"], 2), *rows[key]["verdicts"].values())
    rows["code"] = f"{digest_of_code('invariants')} {digest_of_code('lineage')}"
    with replacing(options.table) as temporary:
        temporary.write_text(render(rows), "utf-8")
    with replacing(options.table.with_suffix(".svg")) as temporary:
        temporary.write_text(draw(rows), "utf-8")


def measure(base: Path, copy: Path) -> dict[str, Any]:
    """Perplexity of a copy, and verdict and ICS of the pair in each setting."""
    found = {
        setting: judge(base, copy, recipe, depth) for setting, (recipe, depth) in SETTINGS.items()
    }
    return {
        "perplexity": perplexity(copy),
        "verdicts": {key: value["verdict"] for key, value in found.items()},
        "ics": {key: value.get("ics") for key, value in found.items()},
        "carried": {key: value.get("carried") for key, value in found.items()},
        "retained": {key: value.get("retained") for key, value in found.items()},
    }


def perplexity(folder: Path) -> float:
    """Perplexity on source code that no model of the zoo was trained on."""
    config = yaml.safe_load((ROOT / "configs" / "zoo.yaml").read_text("utf-8"))
    buckets, domain = config["held_out"]["buckets"], config["domains"]["code"]
    model, tokenizer = load(folder)
    texts = read_texts(domain["kind"], tuple(buckets), config["held_out"]["megabytes"])
    end = int(tokenizer.eos_token_id)
    windows = cut_windows(tokenizer.backend_tokenizer, texts, config["defaults"]["context"], end)
    order = torch.randperm(len(windows), generator=torch.Generator().manual_seed(0))
    model.eval()
    with torch.no_grad():
        losses = [float(exact_token_loss(model, w[None])) for w in windows[order[:WINDOWS]]]
    return math.exp(sum(losses) / len(losses))
