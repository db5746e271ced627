"""What distance, sameness and components add to the evidence of a pair, and to its reason."""

from dataclasses import replace

from huref.invariants.record import Record
from huref.lineage.component import tell_towers
from huref.lineage.components import compare_components
from huref.lineage.evidence import Evidence
from huref.lineage.moved import measure_moved
from huref.lineage.sameness import WORDS, compare_weights, compared_blocks, tell_blocks
from huref.lineage.term_sums import RowSums


def with_distance(
    evidence: Evidence, a: Record, b: Record, sums: RowSums | None = None
) -> Evidence:
    """Evidence of descent with `same` and `moved`; any other as it is.

    Args:
        evidence: of the pair.
        a: record of one model.
        b: record of the other.
        sums: of records of which several pairs are looked at.
    """
    if evidence.verdict != "descends":
        return evidence
    blocks = () if evidence.layer_map is None else evidence.layer_map.pairs
    same = compare_weights(a, b, sums)
    moved = measure_moved(a, b, blocks, sums)
    if same is None:
        return replace(evidence, moved=moved)
    seen = compared_blocks(a, b, same)
    words = WORDS[same] + tell_blocks(seen)
    return replace(
        evidence, moved=moved, same=same, same_blocks=seen, why=f"{words}: {evidence.why}"
    )


def with_components(evidence: Evidence, a: Record, b: Record) -> Evidence:
    """Evidence with all parts. A part beside the language model that both hold is said first.

    Models whose language models are unrelated have such a part in common: "contains parts".
    """
    components = compare_components(a, b, evidence.layer_map)
    common, apart = tell_towers(components)
    verdict, why = evidence.verdict, evidence.why
    shared = f"the {_join(common)} of both {_verb(common)} of one origin" if common else ""
    if common and verdict == "unrelated":
        verdict, why = "contains parts", f"{shared}, the language models are not: {why}"
    elif common and verdict in ("inconclusive", None):
        why = f"{shared}; of the language models: {why}"
    elif apart and verdict == "descends":
        why = f"the language models are of one origin, the {_join(apart)} not: {why}"
    return replace(evidence, verdict=verdict, why=why, components=components)


def _join(parts: list[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def _verb(parts: list[str]) -> str:
    return "is" if len(parts) == 1 else "are"
