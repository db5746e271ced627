"""docs/measured/lineage.md: the tables, and every pair that was judged wrongly, by name."""

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from huref.recipe import load_recipe
from scripts.evaluate.lineage.calibrating import Null
from scripts.evaluate.lineage.holding_out import choose_thresholds, retentions
from scripts.evaluate.lineage.measuring import RIVALS, Rows, key_of
from scripts.evaluate.lineage.report_held_out import held_out, noisy_twins
from scripts.evaluate.lineage.statistics import Rate, auc, tpr_at_fpr
from scripts.evaluate.lineage.table import table
from scripts.evaluate.lineage.truth import EXPECTED, Truth
from scripts.zoo.manifest import Models

VERDICTS = (
    "descends", "contains parts", "shared initialisation", "unrelated", "inconclusive", None,
)  # fmt: skip
LOWEST = -1e9  # score of a pair that a method cannot compare
FPR = 0.01
PATH = re.compile(r"/\S*/")  # of a model's folder on the machine that measured
COPY = 1e-3  # both retentions as close to 1: nothing was learned in between
COMMAND = "python -m scripts.evaluate lineage"


@dataclass(frozen=True)
class Evaluation:
    """Everything that was measured.

    Attributes:
        models: the zoo's manifest.
        pairs: the pairs of the sample, with the truth.
        sample: one in this many pairs of siblings and of unrelated descendants is in the sample.
        found: huref's result of each pair, by `key_of`.
        rivals: the rivals' scores, likewise.
        mixings: mixing shares that huref estimated.
        null: figures of independent pairs.
        missing: models of the config that were not made.
        others: pairs outside the sample that are known to be judged wrongly; measured as well.
        code: digest of huref's lineage code at the time of the measurement.
    """

    models: Models
    pairs: Sequence[Truth]
    sample: int
    found: Rows
    rivals: Rows
    mixings: Sequence[Rows]
    null: Null
    missing: Sequence[str] = ()
    others: Sequence[Truth] = ()
    code: str = ""

    def of(self, pair: Truth) -> Rows:
        """The result of huref on a pair."""
        result: Rows = self.found[key_of(pair)]
        return result

    def kin(self, *kinds: str) -> list[Truth]:
        """Pairs of the given kinships."""
        return [pair for pair in self.pairs if pair.kinship in kinds]

    def scores(self, method: str, pairs: Sequence[Truth]) -> list[float]:
        """A method's scores."""
        return [self.score(method, pair) for pair in pairs]

    def score(self, method: str, pair: Truth) -> float:
        """A method's score of a pair."""
        if method in RIVALS:
            return float(self.rivals[key_of(pair)][method])
        value = OURS[method](self.of(pair))
        return LOWEST if value is None else float(value)


def _minus_log10_p(result: Rows) -> float | None:
    return None if result["log10_p"] is None else -result["log10_p"]


OURS: dict[str, Callable[[Rows], float | None]] = {
    "huref: ICS": lambda result: result["ics"],
    "huref: units, -log10 p": _minus_log10_p,
}
METHODS = (*OURS, *RIVALS)


def detection(e: Evaluation) -> str:
    """AUC and TPR of every score against unrelated and distilled pairs, and against twins."""
    negatives, twins = e.kin("unrelated", "distilled"), e.kin("shared initialisation")
    descends, related = e.kin("descends"), e.kin("descends", "siblings")
    rows = []
    for method in METHODS:
        bad = e.scores(method, negatives)
        row: list[object] = [method]
        for good in (descends, related):
            scores = e.scores(method, good)
            row += [f"{auc(scores, bad):.4f}", f"{tpr_at_fpr(scores, bad, FPR):.3f}"]
        row.append(f"{auc(e.scores(method, descends), e.scores(method, twins)):.4f}")
        rows.append(row)
    head = [
        "score",
        "AUC",
        "TPR at 1 % FPR",
        "AUC with siblings",
        "TPR with siblings",
        "AUC over twins",
    ]
    return table(head, rows)


def confusion(e: Evaluation) -> str:
    """Verdicts by kinship."""
    rows = []
    for kin, expected in EXPECTED.items():
        if not (pairs := e.kin(kin)):
            continue
        counts = Counter(e.of(pair)["verdict"] for pair in pairs)
        right = Rate(counts[expected], len(pairs))
        rows.append([kin, len(pairs), *(counts[v] for v in VERDICTS), right])
    return table(["truth", "pairs", *(v or "none" for v in VERDICTS), "right"], rows)


def by_class(e: Evaluation) -> str:
    """Recall of `descends` and the lowest scores, by the steps between ancestor and descendant."""
    classes: dict[str, list[Truth]] = defaultdict(list)
    for pair in e.kin("descends"):
        classes[pair.how].append(pair)
    head = ["what was done", "pairs", "called descends", *(f"lowest {m}" for m in METHODS)]
    rows = []
    for how, pairs in sorted(classes.items(), key=lambda item: (item[0].count(" after "), item[0])):
        hits = sum(e.of(pair)["verdict"] == "descends" for pair in pairs)
        lowest = [_figure(min(e.scores(method, pairs))) for method in METHODS]
        rows.append([how, len(pairs), hits, *lowest])
    for kin in ("shared initialisation", "distilled", "unrelated"):
        if not e.kin(kin):
            continue
        highest = [_figure(max(e.scores(method, e.kin(kin)))) for method in METHODS]
        hits = sum(e.of(pair)["verdict"] == "descends" for pair in e.kin(kin))
        rows.append([f"*{kin}: highest*", len(e.kin(kin)), hits, *highest])
    return table(head, rows)


def _figure(value: float) -> str:
    if value == LOWEST:
        return "-"
    return f"{value + 0.0:.0f}" if abs(value) >= 10 else f"{value + 0.0:.3f}"


def shortfalls(e: Evaluation, pairs: Sequence[Truth]) -> str:
    """Every pair with a wrong verdict, by name."""
    head = ["a", "b", "truth", "should be", "is", "why"]
    results = ((pair, e.of(pair)) for pair in pairs)
    rows = [
        [p.a, p.b, p.how, p.expected, found["verdict"] or "none", PATH.sub("", found["why"])]
        for p, found in results
        if found["verdict"] != p.expected
    ]
    return table(head, rows) if rows else "None."


def direction(e: Evaluation) -> str:
    """How often the parent was named, and how often wrongly."""
    everyone = e.kin("descends")
    merged = [pair for pair in everyone if "merge" in pair.how]
    pairs = [pair for pair in everyone if pair not in merged]
    named, wrong = _named(e, pairs)
    copies = [pair for pair in pairs if _is_copy(e, pair)]
    mixed, younger = _named(e, merged)
    others = [p for p in e.pairs if p.kinship != "descends" and e.of(p)["parent"] is not None]
    kinds = Counter(pair.kinship for pair in others)
    elsewhere = ", ".join(f"{count} {kind}" for kind, count in kinds.items())
    lines = [
        f"Of {len(pairs)} pairs of ancestor and descendant, merges aside, a parent is named in "
        f"{len(named)}, wrongly in {len(wrong)} ({Rate(len(wrong), len(named))}). {len(copies)} "
        "are copies with the same function, or nearly the same (both retentions within 0.001 of "
        "1): nothing was learned in between, and only structural changes could show which came "
        f"first. A merge is a mean and nearer to the root than its parents: of {len(merged)} pairs "
        f"with a merge, one model is named in {len(mixed)}, the merge as the older one in "
        f"{len(younger)}; in a table with all its parents the mixture is found and they come "
        f"first. A model is also named in {len(others)} pairs where neither descends from the "
        f"other ({elsewhere or 'none'}); there it can only mean the model nearer to the common "
        "origin, which is not checked here."
    ]
    lines += [f"- wrong: {p.b} is named as the parent of {p.a} ({p.how})" for p in wrong]
    return "\n".join(lines)


def _named(e: Evaluation, pairs: Sequence[Truth]) -> tuple[list[Truth], list[Truth]]:
    """Pairs with an older model, and those where the descendant is named as older."""
    named = [pair for pair in pairs if e.of(pair)["parent"] is not None]
    return named, [pair for pair in named if e.of(pair)["parent"] != pair.a]


def _is_copy(e: Evaluation, pair: Truth) -> bool:
    retained = e.of(pair)["retained"]
    return retained is not None and max(abs(value - 1) for value in retained) < COPY


def mixing(e: Evaluation) -> str:
    """Estimated and true shares of merges."""
    rows = []
    estimates = {(m["child"], frozenset(m["parents"])): m for m in e.mixings}
    for name, entry in e.models.items():
        if "shares" not in entry:
            continue
        found = estimates.get((name, frozenset(entry["parents"])))
        truth = ", ".join(
            f"{p} {s:.2f}" for p, s in zip(entry["parents"], entry["shares"], strict=True)
        )
        if found is None or found["shares"] is None:
            rows.append([name, entry["method"], truth, "null", "-", "-"])
            continue
        order = [found["parents"].index(parent) for parent in entry["parents"]]
        shares = [found["shares"][i] for i in order]
        error = max(abs(s - t) for s, t in zip(shares, entry["shares"], strict=True))
        inside = all(
            found["low"][i] <= t <= found["high"][i]
            for i, t in zip(order, entry["shares"], strict=True)
        )
        estimate = ", ".join(f"{s:.2f}" for s in shares)
        rows.append(
            [name, entry["method"], truth, estimate, f"{error:.3f}", "yes" if inside else "no"]
        )
    wrong = [m for m in e.mixings if "shares" not in e.models[m["child"]]]
    text = table(
        ["merge", "method", "true shares", "estimate", "largest error", "interval holds"], rows
    )
    names = ", ".join(f"{m['child']} from {' + '.join(m['parents'])}" for m in wrong)
    return text + f"\n\nMixtures reported of models that are no merges: {names or 'none'}."


def calibration(e: Evaluation) -> str:
    """Figures of independent pairs."""
    null = e.null
    unrelated = e.kin("unrelated", "distilled")
    related = sum(e.of(p)["verdict"] in ("descends", "shared initialisation") for p in unrelated)
    rows: list[list[object]] = [
        ["independent pairs called related", null.called_related],
        ["independent pairs without a clear verdict", null.inconclusive],
        [
            "all unrelated pairs called related (not independent of each other)",
            Rate(related, len(unrelated)),
        ],
        ["ICS of independent pairs: mean, spread, highest", _spread(null.ics)],
        [
            f"order test, randomised p uniform on {len(null.order)} pairs of blocks (KS)",
            f"p = {null.order_uniform:.2f}; smallest {null.order.min():.2g}",
        ],
        [
            "reported p, no smaller than uniform (KS, one-sided)",
            f"p = {null.reported_not_too_small:.2f}; smallest {null.reported.min():.2g}",
        ],
        [
            "units on which two matchings agree, as a share: mean, spread, highest",
            _spread(null.agreements),
        ],
    ]
    return table(["figure", "value"], rows)


def _spread(values: np.ndarray) -> str:
    return f"{values.mean():.4f}, {values.std():.4f}, {values.max():.4f}"


def sections(e: Evaluation) -> Iterator[tuple[str, str]]:
    """Headings and texts of the sections."""
    bases = [n for n, m in e.models.items() if not m["parents"]]
    strangers = [n for n in bases if e.models[n].get("role") == "stranger"]
    descendants = [n for n, m in e.models.items() if m["parents"]]
    classes = {e.models[n]["architecture"] for n in e.models}
    yield (
        "",
        f"{len(e.models)} models of {len(classes)} classes, by `python -m scripts.zoo make` from "
        f"`configs/lineage-zoo.yaml`: {len(bases) - len(strangers)} bases (with twins and "
        f"distilled students), {len(descendants)} descendants, and {len(strangers)} "
        f"strangers that serve the calibration alone. {len(e.pairs):,} pairs: all of an ancestor "
        f"and a descendant, all of two bases, and one in {e.sample} of the others. `{COMMAND}` "
        "measures and writes this file; nothing in it is edited by hand, and all figures come from "
        f"one state of `huref/lineage` (digest `{e.code}`), at full depth, by the recipe "
        f"`{load_recipe()[0].name}`. The models are tiny and were trained "
        "for a minute or less. The p-values of the order test are exact and need no calibration. "
        "The retention separates descent from a shared initialisation by two thresholds, chosen "
        "on all of these models; *Held out* judges every pair by thresholds from other families."
        "\n\n"
        f"In the config but not made for this table: {', '.join(e.missing) or 'nothing'}.",
    )
    yield (
        "Detection",
        "Positives are all pairs of an ancestor and a descendant; negatives all unrelated pairs, "
        "distilled students included. Siblings descend from one trained model. Twins were trained "
        "independently from one initialisation. A pair that a method cannot compare scores lowest. "
        "The rivals are implemented from their papers in `scripts/rivals`; raw ICS uses 512 shared "
        "tokens instead of 4,096.\n\n" + detection(e),
    )
    yield (
        "Verdicts",
        confusion(e)
        + "\n\nThat `gemma2` and `qwen3` bases of one seed share an initialisation was "
        "not planned: the verdict showed it, and the shapes in the config confirm it (the same "
        "seed gives both the same initial weights).",
    )
    yield (
        "Wrong verdicts",
        f"{shortfalls(e, e.pairs)}\n\nKnown wrong verdicts on pairs outside the sample, which "
        f"are not in the figures above:\n\n{shortfalls(e, e.others)}\n\n"
        + noisy_twins(e.pairs, e.found),
    )
    yield "Held out", held_out(e.models, e.pairs, e.found)
    yield "By what was done", by_class(e)
    yield (
        "Calibration",
        "Independent pairs are pairs of bases (strangers and students among them) with different "
        "seeds. Intervals are Clopper and Pearson's, here and above; pairs of one family depend on "
        "each other, so the intervals of related pairs are too narrow.\n\n" + calibration(e),
    )
    yield "Which of two is the parent", direction(e)
    yield "Shares of merges", mixing(e)


def render(e: Evaluation) -> str:
    """The whole file."""
    parts = ["# Lineage verdicts, measured"]
    parts += [f"## {title}\n\n{text}" if title else text for title, text in sections(e)]
    return "\n\n".join(parts) + "\n"


def calibration_file(e: Evaluation) -> dict[str, Any]:
    """configs/lineage.json, which `huref.lineage.calibration` cites."""
    null, thresholds = e.null, choose_thresholds(retentions(e.pairs, e.found))
    low, high = null.called_related.interval
    return {
        "independent_pairs": null.called_related.n,
        "called_related": null.called_related.k,
        "inconclusive": null.inconclusive.k,
        "interval": [round(low, 6), round(high, 6)],
        "retention": {
            "twins": round(thresholds.gap[0], 4),
            "relatives": round(thresholds.gap[1], 4),
            "shared_initialisation": round(thresholds.twin, 4),
            "descends": round(thresholds.descent, 4),
        },
        "recipe": load_recipe()[0].name,
        "command": COMMAND,
    }
