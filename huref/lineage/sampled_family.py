"""The sampled weights of a family, half-block by half-block, beside one of its models.

Blocks are aligned by the correlation of their samples, so that stacked and spliced models have for
each block the one of another model that it came from.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Literal

import numpy as np
import torch

from huref.invariants.record import Record
from huref.invariants.weight_samples import NORM, OUTSIDE, RUN, Place, WeightSamples

ALIGNED = 0.25  # correlation of two blocks' samples from which one may have come from the other
CLEARLY = 0.02  # by which another block must be nearer than the one of the same index
GROUPS = 16  # of adjacent numbers, of which the jackknife leaves out one at a time
SIGNIFICANT_BITS = {torch.bfloat16: 8, torch.float16: 11, torch.float32: 24}
Part = Literal["attention", "ffn"]


@dataclass(frozen=True, eq=False)
class Half:
    """One half of one block of a child, and the same places in other models.

    Attributes:
        block: index of the child's block.
        part: "attention" or "ffn".
        child: (n,) float64, the child's numbers.
        others: by index in the family, (n,) float64 of each model that has such a half.
        tensors: (n,) int, which of the half's matrices each number is from.
        groups: (n,) int, the jackknife's group of each number.
        scales: (matrices,) float64, by which the numbers of each matrix were divided.
        sources: by index in the family, the block that the numbers are from.
        rounding: squared distance that rounding to the child's type leaves of it, as expected.
    """

    block: int
    part: Part
    child: np.ndarray
    others: Mapping[int, np.ndarray]
    tensors: np.ndarray
    groups: np.ndarray
    scales: np.ndarray
    sources: Mapping[int, int]
    rounding: float

    def unscaled(self, numbers: np.ndarray) -> torch.Tensor:
        """(n,) float32, `child` or one of `others` as the checkpoint has it."""
        return torch.from_numpy(numbers * self.scales[self.tensors]).float()


class SampledFamily:
    """Records of one family whose weights were sampled.

    Args:
        records: each with samples.
        older: pairs (older, younger) of models whose direction was measured.
    """

    def __init__(self, records: Sequence[Record], older: Collection[tuple[str, str]] = ()):
        self.records = records
        self._older = frozenset(older)
        self._matrices = [_by_block(_samples(record)) for record in records]
        self._sources: dict[tuple[int, int], dict[int, int]] = {}
        self._dtypes: dict[int, torch.dtype] = {}

    def root_of(self, models: Sequence[int]) -> int | None:
        """The one of some models that all others and no other model of the family are younger than.

        None where that was not measured.
        """
        names = [self.records[model].model for model in models]
        for root, name in zip(models, names, strict=True):
            others = [other for other in names if other != name]
            if len(others) < 2 or not all((name, other) in self._older for other in others):
                continue
            before = [r.model for r in self.records if (r.model, name) in self._older]
            if not any(all((b, other) in self._older for other in others) for b in before):
                return root
        return None

    def contradicts(self, base: int, parents: Sequence[int]) -> bool:
        """Whether one of some parents was measured to be older than what would be their base."""
        name = self.records[base].model
        return any((self.records[parent].model, name) in self._older for parent in parents)

    def halves(self, child: int) -> list[Half]:
        """The half-blocks of a model beside those of all others, in the order of its blocks."""
        samples = _samples(self.records[child])
        return [
            half
            for block in samples.blocks
            for part in ("attention", "ffn")
            if (half := self._half(child, block, part)) is not None
        ]

    def _half(self, child: int, block: int, part: Part) -> Half | None:
        samples = _samples(self.records[child])
        chosen = [
            place
            for place in samples.places
            if place.block == block
            and place.part != NORM
            and (place.part == "attention") == (part == "attention")
            and len(place.shape) > 1
        ]
        if not chosen:
            return None
        numbers = [samples.of(samples.by_key[block, place.role]) for place in chosen]
        scales = [float(x.square().mean().sqrt()) or 1.0 for x in numbers]
        others, sources = {}, {}
        for index in range(len(self.records)):
            source = self.sources(child, index).get(block)
            if index == child or source is None:
                continue
            found = self._same_places(index, source, chosen)
            if found is not None:
                others[index], sources[index] = _join(found, scales), source
        sizes = [len(x) for x in numbers]
        tensors = np.repeat(np.arange(len(sizes)), sizes)
        runs = np.concatenate([np.arange(size) // RUN for size in sizes])
        own = _join([x.numpy() for x in numbers], scales)
        bits = self.significant_bits(child)
        rounding = sum(_rounding(x, bits) / s**2 for x, s in zip(numbers, scales, strict=True))
        return Half(
            block, part, own, others, tensors, runs % GROUPS, np.array(scales), sources, rounding
        )

    def dtype_of(self, model: int) -> torch.dtype:
        """The shortest type that holds the numbers of a model's matrices."""
        if model not in self._dtypes:
            samples = _samples(self.records[model])
            matrices = [samples.of(i) for i, p in enumerate(samples.places) if p.part != NORM]
            values = torch.cat(matrices)
            self._dtypes[model] = next(
                dtype for dtype in SIGNIFICANT_BITS if torch.equal(values.to(dtype).float(), values)
            )
        return self._dtypes[model]

    def significant_bits(self, model: int) -> int:
        """Bits of the significands of a model's numbers, by its matrices: 8, 11 or 24."""
        return SIGNIFICANT_BITS[self.dtype_of(model)]

    def _same_places(
        self, index: int, block: int, places: Sequence[Place]
    ) -> list[np.ndarray] | None:
        samples = _samples(self.records[index])
        found = []
        for place in places:
            at = samples.by_key.get((block, place.role))
            if at is None or samples.places[at].shape != place.shape:
                return None
            found.append(samples.of(at).numpy())
        return found

    def sources(self, child: int, other: int) -> dict[int, int]:
        """For each block of a child the block of another model that is nearest to it."""
        if (child, other) not in self._sources:
            self._sources[child, other] = self._align(child, other)
        return self._sources[child, other]

    def _align(self, child: int, other: int) -> dict[int, int]:
        mine, theirs = self._matrices[child], self._matrices[other]
        found = {}
        for block, (roles, x) in mine.items():
            fitting = {j: y for j, (other_roles, y) in theirs.items() if other_roles == roles}
            if not fitting:
                continue
            order = list(fitting)
            likeness = np.stack([fitting[j] for j in order]) @ x
            best = int(likeness.argmax())
            if likeness[best] < ALIGNED:
                continue
            same = order.index(block) if block in fitting else best
            stays = likeness[same] >= likeness[best] - CLEARLY
            found[block] = order[same if stays else best]
        return found


def _samples(record: Record) -> WeightSamples:
    assert record.samples is not None
    return record.samples


def _rounding(numbers: torch.Tensor, bits: int) -> float:
    """Expected squared error of rounding: a twelfth of the squared unit in the last place."""
    exponents = torch.frexp(numbers[numbers != 0].double()).exponent.double()
    return float(torch.exp2(2 * (exponents - bits)).sum() / 12)


def _by_block(samples: WeightSamples) -> dict[int, tuple[tuple[object, ...], np.ndarray]]:
    """For each block the names and shapes of its matrices, and their samples with norm one."""
    found: dict[int, tuple[tuple[object, ...], np.ndarray]] = {}
    indexed = sorted(enumerate(samples.places), key=lambda item: (item[1].block, item[1].role))
    for block, group in groupby(indexed, key=lambda item: item[1].block):
        chosen = [(i, p) for i, p in group if p.part != NORM and len(p.shape) > 1]
        if block == OUTSIDE or not chosen:
            continue
        parts = [samples.of(i).numpy().astype(np.float64) for i, _ in chosen]
        joined = np.concatenate([x / max(float(np.linalg.norm(x)), 1e-30) for x in parts])
        key = tuple((p.role, p.shape) for _, p in chosen)
        found[block] = key, joined / max(float(np.linalg.norm(joined)), 1e-30)
    return found


def _join(parts: Sequence[np.ndarray], scales: Sequence[float]) -> np.ndarray:
    """Numbers of several matrices, each divided by the child's root mean square of it."""
    return np.concatenate(
        [np.asarray(x, dtype=np.float64) / scale for x, scale in zip(parts, scales, strict=True)]
    )
