"""All tests of one pair of records, and the verdict that follows from them."""

from collections.abc import Iterator
from dataclasses import replace

from huref.invariants.published import PUBLISHED
from huref.invariants.record import Record
from huref.lineage.barcode_test import compare_barcodes
from huref.lineage.correspondence import Correspondence, compare_blocks, compare_units
from huref.lineage.counterparts import measure_shares
from huref.lineage.direction import UNSETTLED, find_direction
from huref.lineage.evidence import Evidence, LayerMap
from huref.lineage.layer_map import map_layers
from huref.lineage.relation_test import compare_relations
from huref.lineage.signs import all_blocks_read
from huref.lineage.similarity import Similarity
from huref.lineage.verdict import HALF, judge, weigh_shares

# Thresholds were measured on whitened terms; unrelated models reach 0.3 and more on published ones.
NO_VERDICT = "the published terms give a similarity but no verdict; use the default recipe for one"


def find_evidence(a: Record, b: Record, similarity: Similarity, not_compared: str = "") -> Evidence:
    """Run all tests that two records allow.

    Args:
        a: record of one model.
        b: record of the other.
        similarity: of their terms.
        not_compared: why the hidden units are not to be compared; "" compares them.
    """
    if similarity.ics is not None and a.recipe.terms == PUBLISHED:
        return Evidence(why=NO_VERDICT)
    if not_compared:
        return judge(similarity, None, not_compared)
    layer_map = _map_layers(a, b)
    mapped = layer_map.pairs if layer_map else ()
    units = compare_units(a, b, mapped)
    if units is None:
        without_units = [record.model for record in (a, b) if record.units is None]
        reason = f"no features of hidden units are known of {' and '.join(without_units)}"
        return judge(similarity, None, reason)
    if not units.found:
        for compare in (compare_barcodes, compare_relations):
            found = compare(a, b, mapped)
            if found is not None and found.found:
                units = found
                break
    whole = all(_reads_every_block(record) for record in (a, b))
    evidence = judge(similarity, units)
    if units.found and evidence.verdict == "inconclusive" and whole and layer_map is not None:
        for more in _in_more_blocks(a, b, units, layer_map):
            judged = judge(similarity, more)
            if judged.verdict != "inconclusive":
                units, evidence = more, judged
                break
    evidence = replace(evidence, layer_map=layer_map)
    if units.found:
        blocks = layer_map.pairs if layer_map is not None else units.blocks
        shares = measure_shares(a, b, blocks or units.blocks)
        evidence = weigh_shares(evidence, shares, whole)
    if evidence.verdict == "unrelated":
        evidence = replace(evidence, why=evidence.why + _unread_blocks(a, b))
    elif units.found:
        evidence = replace(evidence, why=evidence.why + _foreign_blocks(a, b, units, layer_map))
    if evidence.verdict == "descends":
        direction = find_direction(a, b, units.retention)
        why = evidence.why if direction else f"{evidence.why}; {UNSETTLED}"
        evidence = replace(evidence, direction=direction, why=why)
    return evidence


def _in_more_blocks(
    a: Record, b: Record, units: Correspondence, layer_map: LayerMap
) -> Iterator[Correspondence]:
    """The test in all blocks, then in those that it was not made in.

    Only where they compute half of a model or more. Whoever knows which blocks the recipe reads can
    change those alone until nothing can be told from them.
    """
    others = [pair for pair in layer_map.pairs if pair not in units.blocks]
    for pairs in (layer_map.pairs, others) if others else ():
        found = compare_blocks(a, b, pairs)
        if found is None or not found.found or found.retention is None:
            continue
        shares = measure_shares(a, b, found.blocks)
        if shares is not None and shares.larger >= HALF:
            yield found


def _reads_every_block(record: Record) -> bool:
    """Whether the units of all blocks were measured; unknown numbers of blocks count as all.

    Blocks that undo each other were read, though their units are left out.
    """
    if record.function is not None and record.traits is not None:
        return all_blocks_read(record)
    if record.units is None or record.traits is None:
        return True
    return len(record.units.layers) >= record.traits.blocks


def _unread_blocks(a: Record, b: Record) -> str:
    """A clause on blocks that were not compared, for the reason of "unrelated"; or ""."""
    for record in (a, b):
        if record.units is not None and record.traits is not None:
            read, blocks = len(record.units.layers), record.traits.blocks
            if read < blocks:
                return f"; {read} of {blocks} blocks were compared, --depth full compares all"
    return ""


def _foreign_blocks(a: Record, b: Record, units: Correspondence, layer_map: LayerMap | None) -> str:
    """A clause on blocks that come from unrelated models, as in a splice; or "".

    A model that only lost blocks, or only gained some, has unmatched blocks on one side alone and
    gets no such clause.
    """
    if layer_map is None:
        if not units.unmatched_blocks:
            return ""
        return (
            f"; no hidden unit corresponds in {units.unmatched_blocks} of {units.compared_blocks} "
            "compared blocks, --depth full shows which blocks come from another model"
        )
    assert a.units is not None
    assert b.units is not None
    sources = set(layer_map.source)
    only_a = [x for x in layer_map.a_layers if x not in sources and not a.units.is_idle(x)]
    both = zip(layer_map.b_layers, layer_map.source, strict=True)
    only_b = [y for y, source in both if source is None and not b.units.is_idle(y)]
    if not only_a or not only_b:
        return ""
    of_a, of_b = (
        f"{len(alone)} of {len(blocks)}"
        for alone, blocks in ((only_a, layer_map.a_layers), (only_b, layer_map.b_layers))
    )
    return f"; {of_a} blocks of the first model and {of_b} of the second have no counterpart"


def _map_layers(a: Record, b: Record) -> LayerMap | None:
    """Which block comes from which, where both records hold more blocks than the recipe's."""
    if a.units is None or b.units is None:
        return None
    if any(len(r.units.layers) <= len(r.layers or ()) for r in (a, b) if r.units is not None):
        return None
    codes, relations = (a.barcodes, b.barcodes), (a.relations, b.relations)
    return map_layers(a.units, b.units, *codes, *relations)
