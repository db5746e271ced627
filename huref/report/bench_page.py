"""The results of `huref bench` as one self-contained HTML page."""

from collections.abc import Mapping
from typing import Any

from huref.api.bench import Bench
from huref.escape import printable
from huref.report import wording
from huref.report.html import render_html
from huref.report.palette import VERDICT_PAINTS

STATUS_WORDS = {
    "right": "as expected",
    "wrong": "wrong",
    "inconclusive": "undecided",
    "disputed": "disputed, not counted",
    "not measured": "not measured",
}


def render_bench(result: Bench) -> str:
    """The page. All names are escaped; the content security policy forbids requests."""
    return render_html(
        "bench",
        script_of="report",
        name=printable(result.path.name),
        recipe=result.recipe,
        result=result,
        score=result.score.to_json(),
        relations=[
            (printable(relation) or "–", score.to_json())
            for relation, score in result.relations.items()
        ],
        paint=_paint,
        words=STATUS_WORDS,
        percent=_percent,
        wording=wording,
        printable=printable,
    )


def _paint(measured: Mapping[str, Any] | None) -> str:
    """The CSS class of a verdict's badge."""
    verdict = None if measured is None else measured["verdict"]
    return VERDICT_PAINTS[verdict] if verdict else "none"


def _percent(interval: list[float]) -> str:
    low, high = interval
    return f"{100 * low:.1f} to {100 * high:.1f} %"
