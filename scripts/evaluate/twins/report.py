"""docs/measured/twins.md: verdicts by truth and family, and the p-values of the null hypothesis."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from scipy.stats import kstest, norm

from huref.lineage.calibration import exact_interval
from huref.lineage.descent import LEAST_LEARNED, LEVEL, score
from scripts.zoo.manifest import Models

Rows = Mapping[str, Mapping[str, Any]]
CHOSEN = ("llama/1", "gpt2/2", "gpt2/8")  # families on which constants were chosen
TRUTHS = {
    "shared initialisation": "twins, or a twin beside another's continuation",
    "descends": "ancestor and descendant",
    "siblings": "siblings",
}
VERDICTS = ("descends", "shared initialisation", "inconclusive", "unrelated", "contains parts")
BINS = 10
HEADING = """# Twins

Families of `configs/twins-zoo.yaml`: models of 0.2 to 1.5 million weights, trained from one
initialisation with several optimisers, lengths and rates (t1 to t6), and continuations of t1 (c1
brief, c2 as long and as hot as t1, c3 longer and hotter). Pairs of two t, or of another t and a c,
share an initialisation only. All pairs of each family are compared at full depth; written by
`python -m scripts.evaluate twins`. Constants of `huref/lineage/descent.py` were chosen on
{chosen}; the others are held out.

{models} models of {families} families: {list}.
"""
TEST = """The null hypothesis is *twins*; the score of `huref/lineage/descent.py` should then be
standard normal, and its p-value uniform. Each pair gives up to two p-values, one for each model
that learned at least {seen:.0%} of its leading directions. Pairs of a family have models in common,
so that the p-value of Kolmogorov and Smirnov is only a guide. *smallest* is the smallest p-value of
any pair, both directions counted; a pair can be *descends* from {level} down.
"""


def render(models: Models, rows: Mapping[str, Rows]) -> str:
    """The page, from the rows of each recipe."""
    names = list(dict.fromkeys(entry["initialisation"] for entry in models.values()))
    parts = [
        HEADING.format(
            chosen=", ".join(CHOSEN), models=len(models), families=len(names),
            list=", ".join(_family(models, name) for name in names),
        )
    ]  # fmt: skip
    for recipe, found in rows.items():
        parts += [f"## Recipe `{recipe}`\n", "\n".join(_verdicts(names, found)) + "\n"]
        parts += ["### The test of twins\n", TEST.format(seen=LEAST_LEARNED, level=LEVEL)]
        parts += ["\n".join(_tests(names, found)) + "\n", "### Pairs judged otherwise\n"]
        parts.append("\n".join(_wrong(found)) + "\n")
    return "\n".join(parts)


def _family(models: Models, name: str) -> str:
    of = [entry for entry in models.values() if entry["initialisation"] == name]
    weights = max(entry["parameters"] for entry in of)
    return f"`{name}` ({len(of)} models of {weights / 1e6:.2f} M weights)"


def _verdicts(names: Sequence[str], rows: Rows) -> Iterator[str]:
    yield "| family | truth | pairs | " + " | ".join(VERDICTS) + " |"
    yield "| --- | --- | ---: |" + " ---: |" * len(VERDICTS)
    for name in [*names, "held out"]:
        for truth, words in TRUTHS.items():
            some = [r for r in rows.values() if r["kin"] == truth and _is_in(r, name)]
            if some:
                counts = Counter(str(row["verdict"]) for row in some)
                cells = [str(counts[verdict]) for verdict in VERDICTS]
                yield f"| {name} | {words} | {len(some)} | " + " | ".join(cells) + " |"
    twins = [r for r in rows.values() if r["kin"] == "shared initialisation"]
    held = [row for row in twins if _is_in(row, "held out")]
    called = sum(row["verdict"] == "descends" for row in held)
    if held:
        high = exact_interval(called, len(held))[1]
        yield (
            f"\nOf {len(held)} held-out pairs of twins {called} are *descends* (95 %: up to "
            f"{high:.1%}, if pairs were independent)."
        )


def _is_in(row: Mapping[str, Any], name: str) -> bool:
    family: str = row["family"]
    return family not in CHOSEN if name == "held out" else family == name


def p_values(rows: Rows, name: str) -> list[float]:
    """p-values of twins, one for each model of each pair that has learned enough."""
    values = []
    for row in rows.values():
        figures = row["retention"]
        if figures is None or row["kin"] != "shared initialisation" or not _is_in(row, name):
            continue
        both = zip(figures["learned"], figures["further"], figures["error_of_further"], strict=True)
        values += [
            float(norm.sf(score(learned, 1 - further, error)))
            for learned, further, error in both
            if learned >= LEAST_LEARNED
        ]
    return values


def _tests(names: Sequence[str], rows: Rows) -> Iterator[str]:
    yield (
        "| family | p-values | "
        + " | ".join(f"to {(i + 1) / BINS:.1f}" for i in range(BINS))
        + (" | KS, two-sided | KS, too small | smallest |")
    )
    yield "| --- | ---: |" + " ---: |" * (BINS + 3)
    for name in [*names, "held out"]:
        values = p_values(rows, name)
        if not values:
            continue
        bins = Counter(min(int(value * BINS), BINS - 1) for value in values)
        uniform, small = (
            float(kstest(values, "uniform", alternative=side).pvalue)
            for side in ("two-sided", "greater")
        )
        pairs = [
            row["retention"]["p"]
            for row in rows.values()
            if row["kin"] == "shared initialisation" and row["retention"] and _is_in(row, name)
        ]
        cells = [str(bins[i]) for i in range(BINS)]
        figures = [f"{uniform:.2g}", f"{small:.2g}", f"{min(pairs):.2g}"]
        yield f"| {name} | {len(values)} | " + " | ".join([*cells, *figures]) + " |"
    found = [r["retention"]["p"] for r in rows.values() if r["kin"] != "shared initialisation"
             and r["retention"]]  # fmt: skip
    low = sum(p <= LEVEL for p in found)
    yield f"\nOf {len(found)} pairs of relatives {low} have a p-value of at most {LEVEL}."


def _wrong(rows: Rows) -> Iterator[str]:
    expected = {"siblings": "descends"}
    for key, row in rows.items():
        right = expected.get(row["kin"], row["kin"])
        if row["verdict"] != right and (row["kin"] != "shared initialisation"
                                        or row["verdict"] == "descends"):  # fmt: skip
            reason = row["why"].partition(": ")[0]
            yield f"- {key} ({row['kin']}): *{row['verdict']}*, {reason}"
    twins = [row for row in rows.values() if row["kin"] == "shared initialisation"]
    reasons = Counter(r["why"].partition(": ")[0].partition(" (")[0] for r in twins
                      if r["verdict"] == "inconclusive")  # fmt: skip
    for reason, count in reasons.most_common():
        yield f"- {count} pairs of twins are *inconclusive*: {reason}"
