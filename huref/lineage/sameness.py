"""Whether two models are one: the same weights, the same weights rounded, or the same function.

All three are told apart from a descendant that was trained on. Sampled weights that are equal at
all places are the same weights, in whatever files. Rounded weights differ from the others by what a
cast to another type or the grid of a quantiser leaves. The same function under other weights has
equal terms, which do not depend on the basis, while its weights differ by much more. All is said of
the blocks that were read of both: what changes later ones alone leaves the first ones equal.
"""

from typing import Literal

import numpy as np
import torch

from huref.invariants.record import Record
from huref.invariants.weight_samples import NORM, OUTSIDE, RUN
from huref.lineage.term_sums import RowSums

Same = Literal["weights", "quantised", "function"]
MOST_APART = 0.3  # rounding error, relative, of the coarsest grids that still run
LEVELS = 16  # values of a grid of four bits
RUNS_TRIED, RUNS_TESTED = 16, 256  # most pairs are no roundings, which a few runs show
ON_GRID = 0.5  # share of runs that lie on a grid, at least
EQUAL_TERMS = 5e-4  # 1 - r of terms of one function
MORE = 10.0  # times by which the weights of one function differ more than the terms
CASTS = (torch.bfloat16, torch.float16, torch.float8_e4m3fn, torch.float8_e5m2)
WORDS = {
    "weights": "the same weights",
    "quantised": "the same weights, rounded or quantised",
    "function": "the same function under other weights",
}


def compare_weights(a: Record, b: Record, sums: RowSums | None = None) -> Same | None:
    """Whether two models are one, and in which way; None where they are not, or it is not known.

    Args:
        a: record of one model.
        b: record of the other.
        sums: of records of which several pairs are looked at.
    """
    shared = _shared_anchors(a, b)
    if shared is None:
        return None
    pairs = _same_places(a, b)
    is_same = bool(pairs) and all(torch.equal(x, y) for x, y in pairs)
    if pairs and _equal_depth(a, b) and _equal_shapes(a, b):
        if is_same:
            return "weights"
        if _is_either_rounded(pairs):
            return "quantised"
    terms = _terms_apart(a, b, shared, sums or RowSums())
    others = _sketches_apart(a, b)
    if terms is None or others >= EQUAL_TERMS:
        return None
    terms = max(terms, others)
    if is_same:
        return "function"
    apart = _weights_apart(pairs) if pairs else 1.0
    return "function" if apart > MORE * terms + 1e-4 else None


def compared_blocks(a: Record, b: Record, same: Same) -> tuple[int, int] | None:
    """How many blocks `compare_weights` saw of both models, and of how many; None if not known."""
    if a.traits is None or b.traits is None:
        return None
    seen = []
    for record in (a, b):
        blocks = set(record.layers or ())
        if same == "function" and record.function is not None:
            blocks |= set(record.function.blocks.tolist())
        elif same != "function" and record.samples is not None:
            blocks = {p.block for p in record.samples.places if p.block != OUTSIDE}
        seen.append(blocks)
    of = max(a.traits.blocks, b.traits.blocks)
    # Weights are compared block by block under one index, functions in the order of what works.
    compared = min(map(len, seen)) if same == "function" else len(seen[0] & seen[1])
    return min(compared, of), of


def tell_blocks(seen: tuple[int, int] | None) -> str:
    """Of how many blocks it is said, where that is not all."""
    if seen is None or seen[0] == seen[1]:
        return ""
    return f" in the {seen[0]} of {seen[1]} blocks that were compared"


def _equal_depth(a: Record, b: Record) -> bool:
    return a.traits is None or b.traits is None or a.traits.blocks == b.traits.blocks


def _equal_shapes(a: Record, b: Record) -> bool:
    """Whether matrices of one name have one shape, and routed experts are in both or in neither."""
    if a.samples is None or b.samples is None:
        return False
    shapes, experts = [], []
    for samples in (a.samples, b.samples):
        inner = [p for p in samples.places if p.block != OUTSIDE and p.part != NORM]
        shapes.append({(place.block, place.role): place.shape for place in inner})
        experts.append(any(place.part.startswith("expert ") for place in inner))
    both = shapes[0].keys() & shapes[1].keys()
    return experts[0] == experts[1] and all(shapes[0][key] == shapes[1][key] for key in both)


def _shared_anchors(a: Record, b: Record) -> list[int] | None:
    """The buckets of equal anchors; None where terms cannot be compared."""
    if a.terms is None or b.terms is None or a.anchors is None or b.anchors is None:
        return None
    shared = a.anchors.shared(b.anchors)
    return shared if a.terms.shape == b.terms.shape and len(shared) > 1 else None


def _terms_apart(a: Record, b: Record, shared: list[int], sums: RowSums) -> float | None:
    """1 minus the smallest correlation of the terms on shared anchors; None from EQUAL_TERMS on."""
    largest = 0.0
    for products, of_a, of_b in (x.sum(axis=1) for x in sums.of_pair(a, b, shared)):
        apart = 1 - products / max(np.sqrt(of_a.clip(0) * of_b.clip(0)), 1e-300)
        largest = max(largest, float(apart))
        if largest >= EQUAL_TERMS:
            return None
    return largest


def _sketches_apart(a: Record, b: Record) -> float:
    """1 minus the smallest correlation of sketched terms, of all blocks that were read of both."""
    if a.function is None or b.function is None:
        return 0.0
    largest = 0.0
    for x, y in zip(a.function.terms, b.function.terms, strict=False):
        p, q = (part.double().flatten(1).numpy() for part in (x, y))
        norms = np.linalg.norm(p, axis=1) * np.linalg.norm(q, axis=1)
        used = norms > 0
        cosines = (p * q).sum(axis=1)[used] / norms[used]
        largest = max([largest, *(1 - cosines).tolist()])
    return largest


def _same_places(a: Record, b: Record) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """The samples of the matrices of blocks that both models hold, place by place."""
    if a.samples is None or b.samples is None:
        return []
    found = []
    for index, place in enumerate(a.samples.places):
        other = b.samples.by_key.get((place.block, place.role))
        if place.block == OUTSIDE or place.part == NORM or other is None:
            continue
        if b.samples.places[other].shape == place.shape:
            found.append((a.samples.of(index), b.samples.of(other)))
    return found


def _weights_apart(pairs: list[tuple[torch.Tensor, torch.Tensor]]) -> float:
    """1 minus the mean cosine of the samples of each matrix."""
    cosines = [
        float(x.double() @ y.double() / (x.norm() * y.norm()).clamp(min=1e-30)) for x, y in pairs
    ]
    return 1 - float(np.mean(cosines))


def _is_either_rounded(pairs: list[tuple[torch.Tensor, torch.Tensor]]) -> bool:
    return _is_rounded(pairs) or _is_rounded([(y, x) for x, y in pairs])


def _is_rounded(pairs: list[tuple[torch.Tensor, torch.Tensor]]) -> bool:
    """Whether the second numbers are the first ones, cast to another type or put on a grid."""
    if any(all(torch.equal(x.to(kind).float(), y) for x, y in pairs) for kind in CASTS):
        return True
    x, y = (torch.cat([pair[i] for pair in pairs]).double().numpy() for i in (0, 1))
    if np.linalg.norm(x - y) > MOST_APART * np.linalg.norm(x):
        return False
    runs = [
        (p[: len(p) // RUN * RUN].view(-1, RUN), q[: len(q) // RUN * RUN].view(-1, RUN))
        for p, q in pairs
    ]
    first, second = (torch.cat([run[i] for run in runs]).double().numpy() for i in (0, 1))
    step = max(len(first) // RUNS_TESTED, 1)
    first, second = first[::step], second[::step]
    if _mean_levels(second) <= LEVELS < _mean_levels(first):
        return True
    few = slice(None, None, max(len(first) // RUNS_TRIED, 1))
    if _share_on_grid(first[few], second[few]) < ON_GRID / 2:
        return False
    return _share_on_grid(first, second) >= ON_GRID > _share_on_grid(second, first)


def _mean_levels(runs: np.ndarray) -> float:
    """Mean number of different values in runs (n, RUN)."""
    changes = np.diff(np.sort(runs, axis=1), axis=1) != 0
    return float(1 + changes.sum(axis=1).mean())


def _share_on_grid(before: np.ndarray, after: np.ndarray) -> float:
    return float(np.mean([_on_grid(p, q) for p, q in zip(before, after, strict=True)]))


def _on_grid(before: np.ndarray, after: np.ndarray) -> bool:
    """Whether numbers are multiples of one step, and within half of it of what they were."""
    error = np.abs(after - before).max()
    if error <= 0:
        return False
    steps = error * np.linspace(1.9, 2.8, 1200)
    from_zero = after[None] / steps[:, None]
    off = np.abs(from_zero - np.round(from_zero)).max(axis=1)
    return bool(off.min() < 0.1)
