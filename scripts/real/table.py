"""Compares the measured models by `huref.bench` and writes the tables of docs/measured/real.md.

    python -m scripts.real table [--cache DIR] [--recipe NAME...] [--kept]
                                 [--into docs/measured/real.md]

Models are compared as `huref compare` does it, with the records that `measure` kept in huref's
cache: all blocks are read of those on which a verdict hangs. The first recipe's tables are written
in full; of the others, the counts by relation and what was wrong. With --into they replace what
follows the line of the file that says so.

Compared pairs are kept in a journal, so a stopped run can be continued, and a child can be removed
once its pairs are in it: forty float32 copies of 135 million weights take 25 GB. With --kept only
pairs of the journal are shown.
"""

import datetime as dt
import json
import re
import subprocess
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from huref.api.bench import Bench, Score, bench
from huref.api.bench_journal import BenchJournal
from huref.api.cache import VERSION
from huref.api.pairs_file import ListedPair, PairList
from huref.files import replacing
from huref.recipe import load_recipe
from scripts import ROOT
from scripts.real.catalogue import Cache, cache_parser, open_cache, read_catalogue
from scripts.real.children import MANIFEST
from scripts.real.conversion import conversion_rows
from scripts.real.curves import curves
from scripts.real.measure import CONVERTED, measured_by, read_costs
from scripts.real.pairs import children_pairs, ladder_pairs, sibling_pairs, stranger_pairs
from scripts.zoo.manifest import read_manifest

JOURNAL = f"pairs-{VERSION}.jsonl"
MARK = "<!-- What follows is written by `python -m scripts.real table`. -->\n"


def by_relation(result: Bench) -> Iterator[str]:
    """Verdicts and directions by relation."""
    yield (
        "| relation | right | of | 95 % interval | wrong | inconclusive "
        "| direction right, wrong, silent |"
    )
    yield "| --- | ---: | ---: | ---: | ---: | ---: | ---: |"
    groups = [*result.relations.items(), ("all", result.score)]
    for relation, score in groups:
        yield _row(relation, score)


def _row(relation: str, score: Score) -> str:
    data = score.to_json()
    low, high = data["right_interval"]
    direction = ", ".join(map(str, data["direction"].values()))
    if not any(data["direction"].values()):
        direction = "-"
    return (
        f"| {relation} | {data['right']} | {data['of']} | {100 * low:.1f} to {100 * high:.1f} % | "
        f"{data['wrong']} | {data['inconclusive']} | {direction} |"
    )


def pair_rows(result: Bench) -> Iterator[str]:
    """Every pair with its figures."""
    yield "| a | b | expected | measured | ICS | retained | direction |"
    yield "| --- | --- | --- | --- | ---: | ---: | --- |"
    for pair in result.pairs:
        one = pair.measured
        names = [pair.listed.others[side] for side in ("a", "b")]
        cells = [*names, pair.listed.expected, pair.why, "-", "-", "-"]
        if one is not None:
            ics = "-" if one["ics"] is None else f"{one['ics'] + 0:.4f}"
            kept = (
                "-" if one["retained"] is None else " / ".join(f"{x:.3f}" for x in one["retained"])
            )
            verdict = one["verdict"] or "none"
            shown = verdict if pair.status == "right" else f"**{verdict}**"
            cells = [*names, pair.listed.expected, shown, ics, kept, pair.direction or "-"]
        yield "| " + " | ".join(cells) + " |"


def wrong_by_name(result: Bench) -> Iterator[str]:
    """Every wrong or inconclusive verdict and every wrong direction, with its reason."""
    for pair in result.pairs:
        names = " and ".join(pair.listed.others.values())
        if pair.status in ("wrong", "inconclusive"):
            assert pair.measured is not None
            why = re.sub(r"/\S*/", "", pair.why)  # models are named by their paths
            verdict = pair.measured["verdict"] or "no verdict"
            yield f"- {names}: expected {pair.listed.expected}, got {verdict}: {why}"
        if pair.direction == "wrong":
            yield f"- {names}: the child was found to be the older model"


def cost_rows(folder: Path, names: Iterable[str]) -> Iterator[str]:
    """Seconds, bytes and memory of models."""
    yield "| model | seconds of processor time | MB read | MB of weights | peak memory, MB |"
    yield "| --- | ---: | ---: | ---: | ---: |"
    for name in names:
        costs = read_costs(folder / f"{name}.json")
        if "error" in costs:
            yield f"| {name} | {costs['error']} | | | |"
            continue
        kinds = ("bytes_read", "bytes_total", "peak_bytes")
        figures = " | ".join(f"{costs[k] / 1e6:,.0f}" if k in costs else "-" for k in kinds)
        yield f"| {name} | {costs['processor_seconds']:.0f} | {figures} |"


def failed_rows(folder: Path) -> Iterator[str]:
    """Models that could not be measured, with the error."""
    for path in sorted(folder.glob("*.json")):
        if error := read_costs(path).get("error"):
            yield f"- {path.stem}: {error.splitlines()[-1]}"


def training_rows(cache: Cache, ladder: Mapping[str, Any]) -> Iterator[str]:
    """How long making the children and the ladder took."""
    path = cache.root / MANIFEST
    made = json.loads(path.read_text("utf-8")) if path.exists() else {}
    seconds = sum(entry["processor_seconds"] for entry in made.values())
    yield f"{len(made)} children took {seconds / 60:.0f} minutes of processor time to make."
    if ladder:
        minutes = sum(entry["seconds"] for entry in ladder.values()) / 60
        yield f"{len(ladder)} models of the ladder took {minutes:.0f} minutes beside other work."


def measure_pairs(
    pairs: Iterable[ListedPair], title: str, recipe: str, whole: bool, journal: Path, kept: bool
) -> Iterator[str]:
    """A section: counts by relation, what was wrong, and every pair if it is to be whole."""
    rows = tuple(pairs)
    yield from (f"## {title}", "")
    if kept:
        known = BenchJournal(journal, load_recipe(recipe)[0].digest, resume=True).pairs
        rows, all_rows = tuple(row for row in rows if (row.id_a, row.id_b) in known), len(rows)
        yield from (f"Measured: {len(rows)} of {all_rows} pairs.", "")
    if not rows:
        yield from ("Nothing of this kind is measured yet.", "")
        return
    result = bench(PairList(Path(title), rows), recipe=recipe, journal=journal, resume=True)
    yield from by_relation(result)
    wrong = list(wrong_by_name(result))
    yield from ("", "Wrong or inconclusive:" if wrong else "None is wrong or inconclusive.", "")
    yield from ([*wrong, ""] if wrong else [])
    if whole:
        yield from pair_rows(result)
        yield ""


def read_ladder(cache: Cache) -> dict[str, Any]:
    """The manifest's entries of the ladder's models."""
    models = read_manifest(cache.ladder)["models"]
    return {name: entry | {"name": name} for name, entry in models.items()}


def render(cache: Cache, recipes: Iterable[str], kept: bool) -> str:
    """All tables; with `kept` of the pairs alone that were compared before."""
    ladder = read_ladder(cache)
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True
    ).stdout.strip()
    lines = [
        f"Measured on {dt.date.today().isoformat()} at commit {commit}.",
        *training_rows(cache, ladder),
        "",
        "## Conversion",
        "",
        *conversion_rows(cache),
        "",
    ]
    for place, recipe in enumerate(recipes):
        lines += _render_recipe(cache, ladder, recipe, not place, kept)
    return "\n".join(lines).rstrip() + "\n"


def _render_recipe(
    cache: Cache, ladder: Mapping[str, Any], recipe: str, whole: bool, kept: bool
) -> Iterator[str]:
    measured, costs = measured_by(cache, recipe), cache.costs(recipe)
    public = [
        name + part for name in read_catalogue() for part in ("", CONVERTED)
        if name + part in measured
    ]  # fmt: skip
    of = f" (recipe {recipe})"
    yield from (f"## Costs{of}", "", f"{len(measured)} models were measured.", "")
    yield from (*cost_rows(costs, public), "")
    if failed := list(failed_rows(costs)):
        yield from ("Refused, or not read:", "", *failed, "")
    sections = {
        "Children of public models": children_pairs(measured),
        "Siblings": sibling_pairs(measured),
        "Strangers": stranger_pairs(measured, ladder),
        "A ladder of sizes": ladder_pairs(measured, ladder),
    }
    for title, pairs in sections.items():
        every = whole and title == "Children of public models"
        yield from measure_pairs(pairs, title + of, recipe, every, costs / JOURNAL, kept)
    yield from (f"## How the statistics move with size{of}", "", *curves(measured, ladder, recipe))


def main() -> None:
    """Print the tables, or write them."""
    parser = cache_parser(__doc__)
    parser.add_argument("--recipe", nargs="+", default=["default"], metavar="NAME")
    parser.add_argument("--kept", action="store_true", help="only pairs of the journal")
    parser.add_argument("--into", type=Path, help="a file that has the line of the tables")
    options = parser.parse_args()
    text = render(open_cache(options.cache), options.recipe, options.kept)
    if options.into is None:
        print(text)
        return
    head, mark, _ = options.into.read_text("utf-8").partition(MARK)
    if not mark:
        parser.error(f"{options.into} has no line {MARK.strip()}")
    with replacing(options.into) as temporary:
        temporary.write_text(f"{head}{MARK}\n{text}", "utf-8")
