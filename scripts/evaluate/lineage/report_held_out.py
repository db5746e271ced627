"""The part of docs/measured/lineage.md on thresholds that were chosen on other families."""

from collections.abc import Sequence

from huref.lineage.verdict import DESCENT_RETENTION, TWIN_RETENTION
from scripts.evaluate.lineage.holding_out import (
    KIN,
    Fold,
    choose_thresholds,
    families_of,
    halves,
    hold_out,
    rate_of,
    retentions,
)
from scripts.evaluate.lineage.measuring import Rows, key_of
from scripts.evaluate.lineage.table import table
from scripts.evaluate.lineage.truth import Truth
from scripts.zoo.manifest import Models


def held_out(models: Models, pairs: Sequence[Truth], found: Rows) -> str:
    """Thresholds of each fold, rates over all folds, and every pair that was not judged right."""
    families = families_of(models, pairs)
    everything = choose_thresholds(retentions(pairs, found))
    splits = {
        "half of the families from the other half": halves(families),
        "each family from all others": [[family] for family in families],
    }
    twin, relative = everything.gap
    parts = [
        f"{len(families)} families: {', '.join(families)}. Over all of them 99 % of twins have a "
        f"larger retention of at most {twin:.3f}, 99 % of relatives one of at least "
        f"{relative:.3f}; the quartiles of that gap are {everything.twin:.3f} and "
        f"{everything.descent:.3f}. huref uses {TWIN_RETENTION} and {DESCENT_RETENTION}, the "
        "quartiles by the recipe `static-1`. The tables below take thresholds by the same rule "
        "from other families than those they judge."
    ]
    for name, groups in splits.items():
        folds = hold_out(models, pairs, found, groups)
        parts += [f"### {name.capitalize()}", _thresholds(folds), _rates(folds)]
        wrong = [one for kin in KIN for one in rate_of(folds, kin)[1]]
        rows = [[p.a, p.b, p.how, p.expected, verdict or "none"] for p, verdict in wrong]
        parts.append(table(["a", "b", "truth", "should be", "is"], rows) if rows else "None wrong.")
    return "\n\n".join(parts)


def noisy_twins(pairs: Sequence[Truth], found: Rows) -> str:
    """A known limit of the retention, and the cost of a rule against it."""
    relatives = [p for p in pairs if p.kinship in ("descends", "siblings")]
    both = [retained for p in relatives if (retained := found[key_of(p)]["retained"]) is not None]
    alike = [r for r in both if max(r) >= DESCENT_RETENTION and min(r) <= TWIN_RETENTION]
    return (
        "A known limit: noise as large as a twin's weights raises one of the pair's two "
        f"retentions, and can raise it above {DESCENT_RETENTION}, the threshold of descent; the "
        f"other one stays below {TWIN_RETENTION}. {len(alike)} of {len(relatives)} relatives here "
        "have two such retentions, long continuations among them, so a rule on these figures "
        "that rejects the noisy twin would reject them too, and there is none. Noise acts on "
        "these figures as another initialisation does."
    )


def _thresholds(folds: Sequence[Fold]) -> str:
    rows = [
        [
            ", ".join(fold.families),
            f"{fold.thresholds.twin:.3f}",
            f"{fold.thresholds.descent:.3f}",
            sum(len(verdicts) for verdicts in fold.verdicts.values()),
        ]
        for fold in folds
    ]
    return table(["measured on", "twins up to", "descent from", "pairs"], rows)


def _rates(folds: Sequence[Fold]) -> str:
    rows = []
    for kin in KIN:
        rate, wrong = rate_of(folds, kin)
        unclear = sum(verdict == "inconclusive" for _, verdict in wrong)
        rows.append([kin, rate, unclear, len(wrong) - unclear])
    return table(["truth", "right", "inconclusive", "wrong"], rows)
