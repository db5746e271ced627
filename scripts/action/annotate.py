"""Shows lines of `huref check --jsonl` on GitHub: as annotations and as the summary of the step.

Names and reasons are a stranger's text; escaped, they can neither be commands to the runner nor
markup in the summary.
"""

import json
import os
from pathlib import Path
from typing import Any

from huref.escape import markdown, terminal
from scripts import make_parser

LEVELS = {"contradicted": "error", None: "warning", "unreachable": "warning"}
WORDS = {None: "could not be read"}


def annotate(line: dict[str, Any]) -> str:
    """A workflow command for a model, or "" where there is nothing to say."""
    level = LEVELS.get(line["answer"])
    if level is None:
        return ""
    worst = [one for one in line["declared"] if one["status"] == line["answer"]]
    why = line["error"] or "; ".join(f"declares {one['base']}: {one['why']}" for one in worst)
    text = f"{line['model']}: {WORDS.get(line['answer'], line['answer'])}: {why}"
    escaped = terminal(text).replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")
    return f"::{level} title=huref check::{escaped}"


def summarise(lines: list[dict[str, Any]]) -> str:
    """All models as Markdown: declared against measured, and what the cards should say."""
    parts = ["## huref check", "", "| model | declared | result | why |", "|---|---|---|---|"]
    for line in lines:
        found = line["declared"] or [
            {"base": "-", "status": line["answer"] or "not read", "why": line["error"] or "-"}
        ]
        for one in found:
            cells = (line["model"], one["base"], one["status"], one["why"])
            parts.append("| " + " | ".join(markdown(str(cell)) for cell in cells) + " |")
    for line in lines:
        if line["answer"] == "contradicted" and line["suggested"]["base_model"]:
            quoted = [f"    {terminal(row)}" for row in line["suggested"]["yaml"].splitlines()]
            name = markdown(line["model"])
            parts += ["", f"What the weights of {name} support:", "", *quoted]
    return "\n".join(parts) + "\n"


def main() -> None:
    """Print the annotations of a report, and append its summary to $GITHUB_STEP_SUMMARY."""
    parser = make_parser(__doc__)
    parser.add_argument("report", type=Path, help="what `huref check --jsonl` printed")
    text = parser.parse_args().report.read_text("utf-8")
    lines = [json.loads(line) for line in text.splitlines()]
    for line in lines:
        if said := annotate(line):
            print(said)
    with Path(os.environ["GITHUB_STEP_SUMMARY"]).open("a", encoding="utf-8") as file:
        file.write(summarise(lines))


if __name__ == "__main__":
    main()
