"""What signs of disguise, and embeddings that are alike, do to a verdict."""

from dataclasses import replace

from huref.invariants.record import Record
from huref.lineage.embeddings import ALIKE, compare_embeddings
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

    Where blocks are unread, "unrelated" becomes "inconclusive" if a model has a sign, or if the
    embeddings of both are alike: blocks may have been replaced. Where all were read, models with
    such embeddings have these in common.
    """
    if evidence.verdict in (None, "descends"):
        return evidence
    disguised = [record for record in (a, b) if signs_of(record)]
    why, whole = evidence.why, all_blocks_read(a) and all_blocks_read(b)
    if disguised:
        found = "; ".join(f"{record.model}: {', '.join(signs_of(record))}" for record in disguised)
        why += f"; signs of disguise in {found}"
    alike = compare_embeddings(a, b)
    related = alike is not None and alike >= ALIKE
    if evidence.verdict != "unrelated" or not (disguised or related):
        return replace(evidence, why=why) if disguised else evidence
    if related:
        why = (
            f"their embeddings are alike (correlation {alike:.2f}; unrelated models stay below "
            f"0.4), their blocks are not: {why}"
        )
    if whole:
        return replace(evidence, verdict="contains parts" if related else "unrelated", why=why)
    return replace(evidence, verdict="inconclusive", why=f"{why}; --depth full reads all blocks")


def is_unsettled(evidence: Evidence, a: Record, b: Record) -> bool:
    """Whether the blocks that were left unread may change a verdict, for what was found so far."""
    if evidence.verdict not in ("inconclusive", "contains parts"):
        return False
    if all_blocks_read(a) and all_blocks_read(b):
        return False
    alike = compare_embeddings(a, b)
    return any(map(signs_of, (a, b))) or (alike is not None and alike >= ALIKE)
