"""Which parts two models have in common, part by part: `compare --components`.

What a figure is of is said with it. Terms, units and relations of embeddings do not depend on the
basis; sampled weights do, so weights that do not correlate are no proof of strangers, and a part
of which nothing else was measured is said to be unrelated "at the same places". Gains of norms are
left out: their vectors have cosines of 0.99 between strangers.
"""

from collections.abc import Iterator, Sequence

import numpy as np

from huref.invariants.record import Record
from huref.invariants.weight_samples import EMBEDDINGS, HEAD, NORM, OUTSIDE, Place, WeightSamples
from huref.lineage.component import Component, PartVerdict
from huref.lineage.embeddings import ALIKE, compare_embeddings
from huref.lineage.evidence import LayerMap

DEVIATIONS = 5.0  # of a correlation of independent numbers, 1 / sqrt(n)
RELATED = 0.1  # correlation of weights, at least, besides
# Of sketched terms: five deviations are 5 / 64, and two bases of the zoo that saw the same text in
# the same order have 0.081 in their first block, which acts on embeddings alone.
TERMS_BACKGROUND = 0.15
TERMS_RELATED = 0.2  # twins have 0.3
UNITS_BACKGROUND = 0.05  # share of units found twice; strangers have at most 0.016
EMBEDDINGS_BACKGROUND = 0.4
TOWERS = ("vision encoder", "audio encoder", "projector")


def compare_components(a: Record, b: Record, layer_map: LayerMap | None) -> tuple[Component, ...]:
    """All parts that both models hold: those beside the language model first, then its blocks.

    Args:
        a: record of one model, of full depth.
        b: likewise of the other.
        layer_map: which block of b comes from which of a.
    """
    return (*_towers(a, b), *_tables(a, b), *_blocks(a, b, layer_map))


def _towers(a: Record, b: Record) -> Iterator[Component]:
    if a.samples is None or b.samples is None:
        return
    parts = [_outside(record.samples) for record in (a, b) if record.samples is not None]
    for part in parts[0]:
        if part not in parts[1]:
            continue
        pairs = _matched(a.samples, b.samples, parts[0][part], parts[1][part])
        if not pairs:
            why = "no matrices of equal shape: the two cannot hold the same weights"
            yield Component(part, None, "unrelated", None, None, None, why)
        else:
            yield _by_weights(part, None, pairs)


def _outside(samples: WeightSamples) -> dict[str, list[int]]:
    """Places beside the language model, by part."""
    found: dict[str, list[int]] = {}
    for index, place in enumerate(samples.places):
        is_tower = place.block == OUTSIDE and place.part not in (EMBEDDINGS, HEAD)
        if is_tower and len(place.shape) > 1:
            found.setdefault(place.part, []).append(index)
    return {part: found[part] for part in sorted(found, key=_tower_order)}


def _tower_order(part: str) -> tuple[int, str]:
    return (TOWERS.index(part) if part in TOWERS else len(TOWERS)), part


def _matched(
    a: WeightSamples, b: WeightSamples, of_a: Sequence[int], of_b: Sequence[int]
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Samples of matrices of one name and shape; where no names agree, of one shape in order."""
    by_name = {(_key(b.places[j])): j for j in of_b}
    pairs = [(i, by_name[_key(a.places[i])]) for i in of_a if _key(a.places[i]) in by_name]
    if not pairs:
        in_order: dict[tuple[int, ...], list[int]] = {}
        for j in of_b:
            in_order.setdefault(b.places[j].shape, []).append(j)
        pairs = [
            (i, waiting.pop(0)) for i in of_a if (waiting := in_order.get(a.places[i].shape, []))
        ]
    return [(a.of(i).double().numpy(), b.of(j).double().numpy()) for i, j in pairs]


def _key(place: Place) -> tuple[str, tuple[int, ...]]:
    return place.role, place.shape


def _by_weights(
    part: str, block: int | None, pairs: Sequence[tuple[np.ndarray, np.ndarray]]
) -> Component:
    """A part by the correlation of its sampled weights, each matrix centred by itself."""
    numbers = sum(len(x) for x, _ in pairs)
    if all(np.array_equal(x, y) for x, y in pairs):
        why = f"equal at all {numbers:,} sampled places"
        return Component(part, block, "same weights", 1.0, _noise(numbers), "weights", why)
    figure = sum(_correlate(x, y) * len(x) for x, y in pairs) / numbers
    background = max(_noise(numbers), 0.02)
    why = (
        f"correlation {figure:.3f} of {numbers:,} sampled weights; strangers below {background:.2f}"
    )
    if figure >= max(RELATED, background):
        return Component(part, block, "related", figure, background, "weights", why)
    if figure < background:
        why += "; weights in another basis would not correlate either"
        return Component(part, block, "unrelated", figure, background, "weights", why)
    return Component(part, block, None, figure, background, "weights", f"{why}; undecided")


def _noise(numbers: int) -> float:
    return DEVIATIONS / float(np.sqrt(max(numbers, 1)))


def _correlate(x: np.ndarray, y: np.ndarray) -> float:
    x, y = x - x.mean(), y - y.mean()
    return float(x @ y / max(float(np.linalg.norm(x) * np.linalg.norm(y)), 1e-300))


def _tables(a: Record, b: Record) -> Iterator[Component]:
    """Embeddings and output head, on the shared anchors."""
    alike = compare_embeddings(a, b)
    for part in (EMBEDDINGS, HEAD):
        pair = _rows(a, b, part)
        if pair is not None and np.array_equal(*pair):
            yield _by_weights(part, None, [pair])
        elif part == EMBEDDINGS and alike is not None:
            background = EMBEDDINGS_BACKGROUND
            why = (
                f"correlation {alike:.3f} of the relations between the anchors' rows; strangers "
                f"and models of one initialisation below {background}"
            )
            verdict: PartVerdict | None = "related" if alike >= ALIKE else None
            verdict = "unrelated" if alike < background else verdict
            yield Component(part, None, verdict, alike, background, "embeddings", why)
        elif pair is not None:
            yield _by_weights(part, None, [pair])


def _rows(a: Record, b: Record, part: str) -> tuple[np.ndarray, np.ndarray] | None:
    """The sampled columns of a table at the shared anchors; None where widths differ."""
    if a.samples is None or b.samples is None or a.anchors is None or b.anchors is None:
        return None
    i, j = (s.by_key.get((OUTSIDE, part)) for s in (a.samples, b.samples))
    if i is None or j is None or a.samples.places[i].shape != b.samples.places[j].shape:
        return None
    shared = a.anchors.shared(b.anchors)
    m = a.samples.places[i].shape[0]
    if len(shared) < 2 or len(a.anchors.tokens) != m:
        return None
    x, y = (
        s.of(k).view(m, -1)[shared].double().numpy() for s, k in ((a.samples, i), (b.samples, j))
    )
    return x.reshape(-1), y.reshape(-1)


def _blocks(a: Record, b: Record, layer_map: LayerMap | None) -> Iterator[Component]:
    if a.samples is None or b.samples is None:
        return
    source = {} if layer_map is None else dict(layer_map.pairs)
    for block in a.samples.blocks:
        other = source.get(block, block)
        if other not in b.samples.blocks:
            continue
        yield from _halves(a, b, block, other, layer_map)
        parts = {p.part for p in a.samples.places if p.block == block}
        for part in sorted(parts - {"attention", "ffn", NORM}, key=_natural):
            pairs = _in_block(a.samples, b.samples, block, other, part)
            if pairs:
                yield _by_weights(part, block, pairs)


def _natural(part: str) -> tuple[str, int]:
    word, _, number = part.partition(" ")
    return word, int(number) if number.isdigit() else -1


def _in_block(
    a: WeightSamples, b: WeightSamples, block: int, other: int, part: str
) -> list[tuple[np.ndarray, np.ndarray]]:
    found = []
    for index, place in enumerate(a.places):
        if (place.block, place.part) != (block, part) or len(place.shape) < 2:
            continue
        at = b.by_key.get((other, place.role))
        if at is not None and b.places[at].shape == place.shape:
            found.append((a.of(index).double().numpy(), b.of(at).double().numpy()))
    return found


def _halves(
    a: Record, b: Record, block: int, other: int, layer_map: LayerMap | None
) -> Iterator[Component]:
    assert a.samples is not None
    assert b.samples is not None
    terms = _sketched_terms(a, b, block, other)
    for part, chosen in (("attention", (0, 1)), ("ffn", (2,))):
        pairs = _in_block(a.samples, b.samples, block, other, part)
        if pairs and all(np.array_equal(x, y) for x, y in pairs):
            yield _by_weights(part, block, pairs)
            continue
        if part == "ffn" and layer_map is not None and (block, other) in layer_map.pairs:
            i, j = layer_map.a_layers.index(block), layer_map.b_layers.index(other)
            share = float(layer_map.share[i, j])
            why = f"{100 * share:.0f} % of the hidden units correspond; of strangers at most 2 %"
            yield Component(part, block, "related", share, UNITS_BACKGROUND, "units", why)
            continue
        if terms is not None:
            figure = float(np.mean([terms[k] for k in chosen]))
            why = f"correlation {figure:.3f} of terms; strangers below {TERMS_BACKGROUND:.2f}"
            verdict: PartVerdict | None = "related" if figure >= TERMS_RELATED else None
            verdict = "unrelated" if figure < TERMS_BACKGROUND else verdict
            yield Component(part, block, verdict, figure, TERMS_BACKGROUND, "terms", why)
        elif pairs:
            yield _by_weights(part, block, pairs)


def _sketched_terms(a: Record, b: Record, block: int, other: int) -> list[float] | None:
    """Correlations of the sketched terms of two blocks: qk, vo, ffn."""
    if a.function is None or b.function is None:
        return None
    rows = a.function.blocks.tolist(), b.function.blocks.tolist()
    if block not in rows[0] or other not in rows[1]:
        return None
    x = a.function.terms[rows[0].index(block)].double().numpy()
    y = b.function.terms[rows[1].index(other)].double().numpy()
    return [_correlate(p.reshape(-1), q.reshape(-1)) for p, q in zip(x, y, strict=True)]
