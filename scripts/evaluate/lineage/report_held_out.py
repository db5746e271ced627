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
    """Thresholds of each fold, verdicts of all folds together, and by name what falls short."""
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
        f"{relative:.3f}; the quartiles of that gap, {everything.twin:.3f} and "
        f"{everything.descent:.3f}, are what ships. What follows takes the same rule's thresholds "
        "from other families than those it judges."
    ]
    for name, groups in splits.items():
        folds = hold_out(models, pairs, found, groups)
        parts += [f"### {name.capitalize()}", _thresholds(folds), _rates(folds)]
        wrong = [one for kin in KIN for one in rate_of(folds, kin)[1]]
        rows = [[p.a, p.b, p.how, p.expected, verdict or "none"] for p, verdict in wrong]
        parts.append(table(["a", "b", "truth", "should be", "is"], rows) if rows else "None wrong.")
    return "\n\n".join(parts)


def noisy_twins(pairs: Sequence[Truth], found: Rows) -> str:
    """The known limit of the retentions, and what a rule against it would cost."""
    relatives = [p for p in pairs if p.kinship in ("descends", "siblings")]
    held = [retained for p in relatives if (retained := found[key_of(p)]["retained"]) is not None]
    alike = [r for r in held if max(r) >= DESCENT_RETENTION and min(r) <= TWIN_RETENTION]
    return (
        "A known limit: noise as large as a twin's own weights raises one of the pair's two "
        f"retentions, and can lift it above {DESCENT_RETENTION}, where descent begins; the other "
        f"one stays below {TWIN_RETENTION}. So do those of {len(alike)} of {len(relatives)} "
        "relatives here, long continuations among them: a rule on these figures that doubted the "
        "noisy twin would doubt them too, and there is none. What noise there is cannot be told "
        "from a fresh draw."
    )


def _thresholds(folds: Sequence[Fold]) -> str:
    rows = [
        [
            ", ".join(fold.families),
            f"{fold.thresholds.twin:.3f}",
            f"{fold.thresholds.descent:.3f}",
            sum(len(said) for said in fold.said.values()),
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
