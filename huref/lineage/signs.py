"""What signs of disguise do to a verdict: where blocks are left unread, "unrelated" is not said."""

from dataclasses import replace

from huref.invariants.record import Record
from huref.lineage.evidence import Evidence


def signs_of(record: Record) -> tuple[str, ...]:
    """The signs of disguise of a model, in words."""
    return () if record.function is None else tuple(s.words for s in record.function.signs)


def all_blocks_read(record: Record) -> bool:
    """Whether what the model does was measured in every block with attention."""
    if record.function is None or record.traits is None:
        return False
    return len(record.function.energy) >= record.traits.blocks


def with_signs(evidence: Evidence, a: Record, b: Record) -> Evidence:
    """Evidence whose reason names the signs of disguise of both models.

    Where a model with a sign has unread blocks, "unrelated" becomes "inconclusive".
    """
    disguised = [record for record in (a, b) if signs_of(record)]
    if not disguised or evidence.verdict in (None, "descends"):
        return evidence
    found = "; ".join(f"{record.model}: {', '.join(signs_of(record))}" for record in disguised)
    why = f"{evidence.why}; signs of disguise in {found}"
    verdict = evidence.verdict
    if verdict == "unrelated" and not all(map(all_blocks_read, disguised)):
        verdict = "inconclusive"
        why += "; --depth full reads the blocks that are left"
    return replace(evidence, verdict=verdict, why=why)
