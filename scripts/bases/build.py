"""Builds the registry of public bases from a list of Hub ids. The Hub must be reachable.

A repeated run continues where the last one stopped and measures models that were added to the
list; models that are in the registry are not read again. Gated models need `hf auth login` and an
accepted licence. Models that you may not read are listed at the end and cost one request each.

    python -m scripts.bases build --out bases
    python -m scripts.bases build --out bases --family Qwen --family Gemma
    HF_ENDPOINT=http://127.0.0.1:8080 python -m scripts.bases build --out /tmp/bases

`huref identify MODEL --registry bases` searches the result.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

from scripts import ROOT, make_parser

LIST = ROOT / "configs" / "bases.txt"


def read_families(path: Path) -> dict[str, list[str]]:
    """Lines of a list of models by family. A comment after an empty line is a family's name."""
    families: dict[str, list[str]] = {}
    family, after_gap = "", True
    for line in path.read_text("utf-8").splitlines():
        heading = re.fullmatch(r"# ([^(;:]+?)(?: \(.*\))?", line)
        if heading and after_gap:
            family = heading[1]
        elif line.strip() and not line.startswith("#"):
            families.setdefault(family, []).append(line)
        after_gap = not line.strip()
    return families


def main() -> None:
    """Measure the listed models of the chosen families with `huref fleet`."""
    parser = make_parser(__doc__)
    parser.add_argument("--out", required=True, help="the registry; created if it does not exist")
    parser.add_argument("--list", type=Path, default=LIST, help="file of Hub ids, one per line")
    parser.add_argument("--family", action="append", help="measure only this family; repeatable")
    parser.add_argument(
        "--workers", type=int, default=2, help="models measured at a time (2 GB each)"
    )
    parser.add_argument("--engine", default="threads", help="see huref fleet --help")
    arguments = parser.parse_args()
    families = read_families(arguments.list)
    unknown = set(arguments.family or ()) - set(families)
    if unknown:
        parser.error(f"no family {', '.join(sorted(unknown))}; known: {', '.join(families)}")
    chosen = [line for name in arguments.family or families for line in families[name]]
    command = [sys.executable, "-m", "huref", "fleet", "-", "--out", arguments.out]
    command += ["--workers", str(arguments.workers), "--engine", arguments.engine]
    command += ["--picture", f"{arguments.out.rstrip('/')}.png"]
    result = subprocess.run(command, input="\n".join(chosen), text=True, env=os.environ)
    sys.exit(result.returncode)
