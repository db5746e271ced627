"""The evidence of one pair of records: every test that they allow, and what follows from it."""

from dataclasses import replace

from huref.invariants.published import PUBLISHED
from huref.invariants.record import Record
from huref.lineage.barcode_test import compare_barcodes
from huref.lineage.correspondence import Correspondence, compare_units
from huref.lineage.direction import find_direction
from huref.lineage.evidence import Evidence, LayerMap
from huref.lineage.layer_map import map_layers
from huref.lineage.similarity import Similarity
from huref.lineage.verdict import judge

# Thresholds were measured on whitened terms; unrelated models reach 0.3 and more on published ones.
NO_VERDICT = "the published terms give a similarity and no verdict; use the default recipe for one"


def find_evidence(a: Record, b: Record, similarity: Similarity, untested: str = "") -> Evidence:
    """What is known of a pair beyond its similarity, and the verdict.

    Args:
        a: record of one model.
        b: record of the other.
        similarity: of their terms.
        untested: why the units shall not be compared, where they shall not.
    """
    if similarity.ics is not None and a.recipe.terms == PUBLISHED:
        return Evidence(why=NO_VERDICT)
    if untested:
        return judge(similarity, None, untested)
    layer_map = _map(a, b)
    found = layer_map.pairs if layer_map else ()
    units = compare_units(a, b, found)
    if units is None:
        silent = [record.model for record in (a, b) if record.units is None]
        return judge(similarity, None, f"no unit features in {' and '.join(silent)}")
    if not units.found:
        without_tokens = compare_barcodes(a, b, found)
        if without_tokens is not None and without_tokens.found:
            units = without_tokens
    evidence = replace(judge(similarity, units), layer_map=layer_map)
    if evidence.verdict == "unrelated":
        evidence = replace(evidence, why=evidence.why + _unread(a, b))
    elif units.found:
        evidence = replace(evidence, why=evidence.why + _elsewhere(a, b, units, layer_map))
    if evidence.verdict == "descends":
        direction = find_direction(a, b, layer_map, units.retention)
        evidence = replace(evidence, direction=direction)
    return evidence


def _unread(a: Record, b: Record) -> str:
    """What a search of all blocks might still find, as in a splice, to be added to a reason."""
    for record in (a, b):
        if record.units is not None and record.traits is not None:
            read, blocks = len(record.units.layers), record.traits.blocks
            if read < blocks:
                return f"; {read} of {blocks} blocks were compared, --depth full compares all"
    return ""


def _elsewhere(a: Record, b: Record, units: Correspondence, layer_map: LayerMap | None) -> str:
    """Where some blocks of relatives are strangers, as in a splice, that, to be added to a reason.

    A model that lost blocks or grew some lacks a counterpart on one side only.
    """
    if layer_map is None:
        if not units.silent:
            return ""
        blocks = f"{units.silent} of {units.compared} blocks compared"
        return f"; in {blocks} no unit corresponds, --depth full shows which come from elsewhere"
    assert a.units is not None
    assert b.units is not None
    sources = set(layer_map.source)
    gone = [x for x in layer_map.a_layers if x not in sources and not a.units.is_idle(x)]
    both = zip(layer_map.b_layers, layer_map.source, strict=True)
    new = [y for y, source in both if source is None and not b.units.is_idle(y)]
    if not gone or not new:
        return ""
    first, second = (
        f"{len(lone)} of {len(blocks)}"
        for lone, blocks in ((gone, layer_map.a_layers), (new, layer_map.b_layers))
    )
    return f"; {first} blocks of the first and {second} of the second have no counterpart"


def _map(a: Record, b: Record) -> LayerMap | None:
    """Which block comes from which, where both records hold more blocks than the recipe's."""
    if a.units is None or b.units is None:
        return None
    if any(len(r.units.layers) <= len(r.layers or ()) for r in (a, b) if r.units is not None):
        return None
    return map_layers(a.units, b.units, a.barcodes, b.barcodes)
