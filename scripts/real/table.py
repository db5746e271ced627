"""Compares the measured models by `huref.bench` and prints the tables of docs/measured/real.md.

python -m scripts.real table [--cache DIR] [--out FILE]
"""

import datetime as dt
import json
import subprocess
from collections.abc import Iterable, Iterator, Mapping
from itertools import combinations, product
from pathlib import Path
from typing import Any, Literal

from huref.api.bench import Bench, Score, bench
from huref.api.pairs_file import ListedPair, PairList
from huref.lineage.evidence import Verdict
from scripts import ROOT
from scripts.real.catalogue import Cache, cache_parser, read_catalogue
from scripts.real.children import read_children, root_of
from scripts.real.measure import CONVERTED
from scripts.real.strangers import SUFFIX
from scripts.zoo.manifest import ancestors, kinship, read_manifest

UNRELATED: Verdict = "unrelated"
EXPECTED = {"descends": "descends", "siblings": "descends", "distilled": UNRELATED}


def children_pairs(measured: Mapping[str, Path]) -> Iterator[ListedPair]:
    """Each child beside its parents and its public base; converted models beside their files."""
    children = read_children()
    for name in read_catalogue():
        if name in measured and name + CONVERTED in measured:
            yield _pair(measured, name, name + CONVERTED, "converted", "descends")
    for name, spec in children.items():
        for older in dict.fromkeys([*spec["from"], root_of(name, children)]):
            older = older if older in children else older + CONVERTED
            if name in measured and older in measured:
                expected = spec.get("expected", "descends")
                parent = expected == "descends"
                yield _pair(measured, older, name, spec["relation"], expected, parent)


def stranger_pairs(measured: Mapping[str, Path], ladder: Mapping[str, Any]) -> Iterator[ListedPair]:
    """All pairs of public models, of random models with both, of public models with a ladder."""
    public = [name for name in read_catalogue() if name in measured]
    random = [name + SUFFIX for name in read_catalogue() if name + SUFFIX in measured]
    bases = [n for n, entry in ladder.items() if not entry["parents"] and n in measured]
    for a, b in combinations(public, 2):
        yield _pair(measured, a, b, "two public models", UNRELATED)
    for a, b in [*product(public, random), *combinations(random, 2)]:
        yield _pair(measured, a, b, "a random model of a public shape", UNRELATED)
    for a, b in product(public, bases):
        yield _pair(measured, a, b, "a public model and the ladder", UNRELATED)


def ladder_pairs(measured: Mapping[str, Path], ladder: Mapping[str, Any]) -> Iterator[ListedPair]:
    """Each base of a rung beside the other models of its rung."""
    for name in ladder:
        rung, _, kind = name.partition("-")
        base = f"{rung}-base"
        if name == base or name not in measured or base not in measured:
            continue
        relation = kinship(ladder, base, name)
        expected = EXPECTED.get(relation, relation)
        is_parent = base in ancestors(ladder, name)
        yield _pair(measured, base, name, f"ladder: {kind}", expected, is_parent)


def _pair(
    measured: Mapping[str, Path], a: str, b: str, relation: str, expected: str, parent: bool = False
) -> ListedPair:
    others = {"a": a, "b": b}
    older: Literal["a", "b"] | None = "a" if parent else None
    return ListedPair(0, str(measured[a]), str(measured[b]), relation, expected, older, {}, others)


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
            yield f"- {names}: expected {pair.listed.expected}; {pair.why}"
        if pair.direction == "wrong":
            yield f"- {names}: the child was found to be the older model"


def cost_rows(cache: Cache, names: Iterable[str]) -> Iterator[str]:
    """Seconds, bytes and memory of models."""
    yield "| model | seconds of processor time | MB read | MB of weights | peak memory, MB |"
    yield "| --- | ---: | ---: | ---: | ---: |"
    for name in names:
        path = cache.records / f"{name}.json"
        costs: dict[str, Any] = {"error": "not measured"}
        if path.exists():
            costs = json.loads(path.read_text("utf-8"))
        if "error" in costs:
            yield f"| {name} | {costs['error']} | | | |"
            continue
        megabytes = (costs[key] / 1e6 for key in ("bytes_read", "bytes_total", "peak_bytes"))
        figures = " | ".join(f"{value:,.0f}" for value in megabytes)
        yield f"| {name} | {costs['processor_seconds']:.0f} | {figures} |"


def measure_pairs(pairs: Iterable[ListedPair], title: str) -> Iterator[str]:
    """A section: counts by relation, what was wrong, and every pair."""
    rows = tuple(pairs)
    yield from (f"## {title}", "")
    if not rows:
        yield from ("Nothing of this kind is measured yet.", "")
        return
    result = bench(PairList(Path(title), rows))
    yield from by_relation(result)
    wrong = list(wrong_by_name(result))
    yield from ("", "Wrong or inconclusive:" if wrong else "None is wrong or inconclusive.", "")
    yield from ([*wrong, ""] if wrong else [])
    yield from pair_rows(result)
    yield ""


def render(cache: Cache) -> str:
    """All tables."""
    measured = {path.stem: path for path in sorted(cache.records.glob("*.safetensors"))}
    ladder = {
        name: entry | {"name": name}
        for name, entry in read_manifest(cache.ladder)["models"].items()
    }
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True
    ).stdout.strip()
    public = [
        name + part for name in read_catalogue() for part in ("", CONVERTED, SUFFIX)
        if name + part in measured
    ]  # fmt: skip
    lines = [
        f"Measured on {dt.date.today().isoformat()} at commit {commit} by "
        f"`python -m scripts.real table`: {len(measured)} models.",
        "",
        "## Costs",
        "",
        *cost_rows(cache, public),
        "",
        *measure_pairs(children_pairs(measured), "Children of public models"),
        *measure_pairs(stranger_pairs(measured, ladder), "Strangers"),
        *measure_pairs(ladder_pairs(measured, ladder), "A ladder of sizes"),
    ]
    return "\n".join(lines).rstrip() + "\n"


def main() -> None:
    """Print the tables, or write them."""
    parser = cache_parser(__doc__)
    parser.add_argument("--out", type=Path, help="write them here")
    options = parser.parse_args()
    text = render(Cache(options.cache))
    if options.out:
        options.out.write_text(text, "utf-8")
    else:
        print(text)
