"""docs/measured/attacks.md: the tables, and by name what gets through."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from huref.attacks import INEXACT
from scripts.evaluate.attacks.measuring import RIVALS, SETTINGS

HEADS = {
    "default": "`function-1`, default depth",
    "default full": "`function-1`, full depth",
    "static-1": "`static-1`, default depth",
}
NAMES = {"published": "HuRef", "awm": "AWM", "cosine": "cosine", "intrinsic": "intrinsic"}
Rows = Mapping[str, Mapping[str, Any]]
HEADING = """# Attacks

Every kind of `huref attack`, alone and combined, applied to small trained models of the shipped zoo
and judged by huref and by published methods on the same copies; written by `python -m
scripts.evaluate attacks`. *logits* is the largest difference from the logits of the model that the
copy computes, over their standard deviation: rounding leaves 1e-6 in float32 and 1e-2 in bfloat16,
more where parts that cancel are loud. Kinds with a star are not exact in float32 either.

Recipes are called by their names in `configs/recipes/`. The right answer about a copy is
*descends*; about a model that carries parts of another (`graft`, `foreign-units`, `parasite`),
anything but *descends*. *ICS* is by `function-1` and by `static-1`; *cos z* is the cosine of the
latents by `function-1`, from which dogs are drawn. The last columns are scores of other methods
between source and copy: HuRef's ICS as published (arXiv 2312.04828), AWM (arXiv 2510.06738), the
cosine of all tensors of one name and shape, and the intrinsic fingerprint (arXiv 2507.03014),
written from the papers in `scripts/rivals/`; - where the method has no answer. The first table says
what they give for pairs that nobody disguised.
"""


def render(rows: Rows) -> str:
    """The page."""
    parts = [HEADING, "## Undisguised pairs\n", _beside(rows)]
    measured = [row for row in rows.values() if "dtype" in row]
    for base, dtype in dict.fromkeys((row["base"], row["dtype"]) for row in measured):
        some = [row for row in measured if row["base"] == base and row["dtype"] == dtype]
        parts += [f"## {base}, {dtype}\n", "\n".join(_table(some)) + "\n"]
    parts += ["## How many are found\n", "\n".join(_summary(measured)) + "\n"]
    parts += ["## What gets through, by name\n", "\n".join(_wrong(measured)) + "\n"]
    codes = sorted({row["code"] for row in rows.values()})
    parts.append(f"Digests of huref's invariants and lineage when measured: {'; '.join(codes)}.\n")
    return "\n".join(parts)


def _beside(rows: Rows) -> str:
    lines = [_head("pair")]
    for row in rows.values():
        if "dtype" not in row:
            lines.append(_line(f"{row['base']}, {row['case']}", "", row))
    return "\n".join(lines) + "\n"


def _table(rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    yield _head("what was done")
    for row in rows:
        star = "*" if any(kind in INEXACT for kind in row["kinds"]) else ""
        name = f"framed by {row['case']}" if row["framing"] else row["case"]
        logits = "-" if row["logits"] is None else f"{row['logits']:.0e}"
        yield _line(name + star, logits, row)


def _head(first: str) -> str:
    ours = [*(HEADS[setting] for setting in SETTINGS), "ICS", "cos z"]
    cells = [first, "logits", *ours, *(NAMES[rival] for rival in RIVALS)]
    return "| " + " | ".join(cells) + " |\n" + "| --- " * len(cells) + "|"


def _line(name: str, logits: str, row: Mapping[str, Any]) -> str:
    verdicts = [_verdict(row["huref"][setting]) for setting in SETTINGS]
    ics = " / ".join(_number(row["huref"][s].get("ics")) for s in ("default", "static-1"))
    scores = [_number(row["rivals"][rival]) for rival in RIVALS]
    cosine = _number(row["huref"]["default"].get("latent_cosine"))
    return "| " + " | ".join([name, logits, *verdicts, ics, cosine, *scores]) + " |"


def _verdict(found: Mapping[str, Any]) -> str:
    return str(found["verdict"]) + (", the copy is older" if found.get("copy_is_older") else "")


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value + 0.0:.2f}"


def _is_right(row: Mapping[str, Any], setting: str) -> bool:
    found: str = row["huref"][setting]["verdict"]
    return (found == "descends") != bool(row["framing"])


def _summary(rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Counts of right answers by setting, dtype and whether a copy is disguised or framed."""
    yield "| setting | copies found | *unrelated* without a sign | framings not *descends* |"
    yield "| --- | --- | --- | --- |"
    copies = [row for row in rows if not row["framing"]]
    framed = [row for row in rows if row["framing"]]
    for setting in SETTINGS:
        right, held = (sum(_is_right(r, setting) for r in some) for some in (copies, framed))
        silent = sum(
            row["huref"][setting]["verdict"] == "unrelated"
            and "signs of disguise" not in row["huref"][setting].get("why", "")
            for row in copies
        )
        cells = [f"{right} of {len(copies)}", str(silent), f"{held} of {len(framed)}"]
        yield f"| {HEADS[setting]} | " + " | ".join(cells) + " |"


def _wrong(rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    for setting in SETTINGS:
        missed: dict[str, list[str]] = {}
        for row in rows:
            if not _is_right(row, setting):
                what = f"{row['case']} ({row['base']}, {row['dtype']})"
                missed.setdefault(str(row["huref"][setting]["verdict"]), []).append(what)
        yield f"- {HEADS[setting]}: " + (
            "; ".join(f"*{verdict}*: {', '.join(names)}" for verdict, names in missed.items())
            or "nothing"
        )
