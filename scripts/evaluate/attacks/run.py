"""Measures what huref and other methods say about attacked copies and framed models.

    python -m scripts.evaluate attacks [BASE...] [--dtypes float32 bfloat16] [--only KIND...]
                                       [--out FOLDER] [--minutes N] [--again]

Every kind of `huref attack`, alone and combined, is applied to each base, in each dtype; the copy
is compared with the base. A framed model is --host with parts of a base whose shape it has. Rows
are saved under --out, so that an interrupted run can be resumed; --again measures them anew.
Writes docs/measured/attacks.md.
"""

import math
import time
from pathlib import Path

import torch
import transformers

from huref.attacks.opening import open_editable
from huref.files import replacing
from scripts import ROOT, make_parser
from scripts.evaluate.attacks.cases import DTYPES, all_kinds, cases_of
from scripts.evaluate.attacks.measuring import measure_case, measure_pair
from scripts.evaluate.attacks.report import render
from scripts.evaluate.lineage.measuring import digest_of_code, read_json, write_json

ZOO = ROOT / "checkpoints" / "zoo"
BASES = ("llama-a", "qwen-c", "mistral-d")
BESIDE = ("llama-a-finetune", "llama-a-continued", "llama-a-twin", "llama-b")


def main() -> None:
    """The command line."""
    parser = make_parser(__doc__)
    parser.add_argument("bases", nargs="*", type=Path, default=[ZOO / name for name in BASES])
    parser.add_argument("--host", type=Path, default=ZOO / "llama-b", help="an unrelated model")
    parser.add_argument("--dtypes", nargs="+", default=list(DTYPES), choices=list(DTYPES))
    parser.add_argument("--only", nargs="+", default=[], metavar="KIND", choices=all_kinds())
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "attacks")
    parser.add_argument("--table", type=Path, default=ROOT / "docs" / "measured" / "attacks.md")
    parser.add_argument("--minutes", type=float, default=math.inf)
    parser.add_argument("--again", action="store_true", help="measure saved rows anew")
    options = parser.parse_args()
    transformers.utils.logging.disable_progress_bar()
    torch.set_num_threads(1)
    deadline = time.monotonic() + 60 * options.minutes
    options.out.mkdir(parents=True, exist_ok=True)
    path = options.out / "rows.json"
    rows = {} if options.again else read_json(path)
    code = f"{digest_of_code('invariants')} {digest_of_code('lineage')}"
    for name in BESIDE:
        if f"beside {name}" not in rows:
            pair = measure_pair(ZOO / "llama-a", ZOO / name)
            rows[f"beside {name}"] = pair | {"case": name, "base": "llama-a", "code": code}
            write_json(path, rows)
    for base in options.bases:
        host = options.host if _same_shape(base, options.host) else None
        for case in cases_of(base, host, options.dtypes, options.only):
            if case.key in rows:
                continue
            if time.monotonic() > deadline:
                raise SystemExit("time is up; run again to go on")
            rows[case.key] = measure_case(case) | {"code": code}
            write_json(path, rows)
            found = rows[case.key]["huref"]
            print(case.key, *(row["verdict"] for row in found.values()), sep=" | ", flush=True)
    with replacing(options.table) as temporary:
        temporary.write_text(render(rows), "utf-8")


def _same_shape(base: Path, host: Path) -> bool:
    """Whether parts of one fit into the other."""
    one, two = (open_editable(str(folder)) for folder in (base, host))
    shapes = [{role: w.shape for role, w in m.blocks[0].weights.items()} for m in (one, two)]
    return base != host and shapes[0] == shapes[1] and len(one.blocks) == len(two.blocks)
