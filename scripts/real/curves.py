"""How each statistic moves with the size of the models: the tables of the ladder."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from huref.api.open import open_record
from huref.lineage.table import Pair, build_table

KINDS = {
    "other": "base and a stranger",
    "twin": "base and its twin (same initialisation, other order of the text)",
    "sft": "base and a fine-tune",
    "cpt": "base and a continued pretraining of half its length at half its rate",
    "hot": "base and a continued pretraining of its length at its rate",
    "merge": "base and a merge of fine-tune and continued pretraining",
}
HEAD = (
    "rung", "weights", "tokens of the base", "ICS", "units", "log10 p", "retained", "carried",
    "shares", "older", "verdict",
)  # fmt: skip


def curves(measured: Mapping[str, Path], ladder: Mapping[str, Any], recipe: str) -> Iterator[str]:
    """A table for each kind of pair, with a row for each rung."""
    rungs = list(dict.fromkeys(name.partition("-")[0] for name in ladder))
    for kind, words in KINDS.items():
        rows = [
            _row(rung, kind, measured, ladder, recipe)
            for rung in rungs
            if {f"{rung}-base", f"{rung}-{kind}"} <= set(measured)
        ]
        if not rows:
            continue
        yield from (f"### {words[0].upper()}{words[1:]}", "")
        yield "| " + " | ".join(HEAD) + " |"
        yield "| --- |" + " ---: |" * (len(HEAD) - 2) + " --- |"
        yield from rows
        yield ""


def _row(
    rung: str, kind: str, measured: Mapping[str, Path], ladder: Mapping[str, Any], recipe: str
) -> str:
    base = f"{rung}-base"
    names = (base, f"{rung}-{kind}")
    records = [open_record(str(measured[name]), recipe, cache=True) for name in names]
    cells = [rung, f"{ladder[base]['parameters'] / 1e6:.1f} M", f"{ladder[base]['tokens']:,}"]
    return "| " + " | ".join([*cells, *figures(build_table(records).pairs[0])]) + " |"


def figures(pair: Pair) -> list[str]:
    """The statistics of a pair in which a is the base, as cells of a table."""
    one, retention = pair.to_json(), pair.evidence.retention
    units, shares = one["units"], one["shares"]
    older = {None: "-", pair.a: "base", pair.b: "the other"}
    return [
        "-" if one["ics"] is None else f"{one['ics'] + 0:.3f}",
        "-" if units is None else f"{units['matched']} of {units['of']}",
        "-" if one["log10_p"] is None else f"{one['log10_p']:.0f}",
        "-" if retention is None else f"{retention.of_a:.3f}, {retention.of_b:.3f}",
        "-" if retention is None else f"{retention.carried:.3f}",
        "-" if shares is None else f"{shares['of_a_in_b']:.2f}, {shares['of_b_in_a']:.2f}",
        older[one["older"]],
        one["verdict"] or "none",
    ]
