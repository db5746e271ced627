"""Weight samples: some of a model's weights as they stand, at places that shapes alone decide.

Merge tools add up weights place by place, so shares of a merge are least squares on the same
places of all models, with nothing between them and the weights. A sample of a matrix is up to RUNS
runs of RUN adjacent numbers; the runs are drawn by a generator that the shape seeds, so that two
matrices of one shape give the same places. Embeddings and output head are sampled at the anchors'
rows, by string, so that a renumbered or extended vocabulary changes nothing.

Samples depend on the basis: a rotated or renumbered copy has other ones. What follows from them is
said of weights and never of origin alone (docs/maths.md, Mixtures and Components).
"""

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
import torch
from torch import Tensor

from huref.architecture.reader import ModelReader
from huref.architecture.resolved import ResolvedExperts, Stored

RUN = 32  # adjacent numbers; quantisers give at least as many one scale
RUNS = 64  # of a matrix
EXPERT_RUNS = 8  # of a matrix of one expert of a mixture
COLUMNS = 16  # of embeddings and output head, at every anchor
OUTSIDE = -1  # the block of a tensor outside the blocks
EMBEDDINGS, HEAD, NORM = "embeddings", "head", "norm"
_EXPERT = re.compile(r"(?:^|\.)experts\.(\d+)\.|\[(\d+)\]$")
_ROUTER = re.compile(r"(?:^|[._])(?:gate|router|classifier)(?:\.|_|$)(?:weight|wg|layer|linear)?")


@dataclass(frozen=True)
class Place:
    """A sampled tensor: its block or OUTSIDE, its name within the block, its part and its size.

    `part` is "attention", "ffn", "expert N", "router", "norm", "embeddings", "head" or another
    word for what lies outside the language model. `shape` is that of the whole tensor, as stored.
    """

    block: int
    role: str
    part: str
    shape: tuple[int, ...]
    count: int


@dataclass(frozen=True, eq=False)
class WeightSamples:
    """The samples of all tensors that were read, concatenated.

    Attributes:
        values: (numbers,) float32, which holds every stored value of 16 and of 32 bits exactly.
        places: of each tensor, in the order of `values`.
    """

    values: Tensor
    places: tuple[Place, ...]

    @cached_property
    def by_key(self) -> Mapping[tuple[int, str], int]:
        """Index of a place by its block and role."""
        return {(place.block, place.role): i for i, place in enumerate(self.places)}

    @cached_property
    def _starts(self) -> list[int]:
        return [0, *np.cumsum([place.count for place in self.places]).tolist()]

    def of(self, index: int) -> Tensor:
        """The numbers of one place, (count,) float32."""
        return self.values[self._starts[index] : self._starts[index + 1]]

    def find(self, block: int, role: str) -> Tensor | None:
        """The numbers of a tensor by its block and role, or None."""
        index = self.by_key.get((block, role))
        return None if index is None else self.of(index)

    @property
    def blocks(self) -> list[int]:
        """Indices of the blocks with samples, ascending."""
        return sorted({p.block for p in self.places if p.block != OUTSIDE})

    def to_json(self) -> list[list[object]]:
        """All places, as JSON."""
        return [[p.block, p.role, p.part, list(p.shape), p.count] for p in self.places]

    def fits(self) -> bool:
        """Whether numbers and places are consistent."""
        return (
            self.values.ndim == 1
            and all(place.count > 0 for place in self.places)
            and len(self.values) == sum(place.count for place in self.places)
            and bool(torch.isfinite(self.values).all())
        )


def parse_places(data: object) -> tuple[Place, ...]:
    """Places from the result of `to_json`.

    Raises:
        ValueError, TypeError: the data is something else.
    """
    if not isinstance(data, list):
        raise ValueError("the places of the samples have another form")
    return tuple(
        Place(int(block), str(role), str(part), tuple(map(int, shape)), int(count))
        for block, role, part, shape, count in data
    )


@lru_cache(maxsize=256)
def sampled_places(shape: tuple[int, ...], runs: int) -> Tensor:
    """Flat indices of a tensor's sampled numbers, (n,) int64, ascending; all of a small one."""
    size = int(np.prod(shape, dtype=np.int64))
    available = size // RUN
    if available <= runs:
        return torch.arange(size)
    random = np.random.default_rng([7, *shape])
    chosen = np.sort(random.choice(available, runs, replace=False, shuffle=False))
    return torch.from_numpy((chosen[:, None] * RUN + np.arange(RUN)).reshape(-1))


class Sampler:
    """Takes a sample of each tensor as it is read; see `Checkpoint.observe`."""

    def __init__(self) -> None:
        self._found: dict[str, tuple[tuple[int, ...], Tensor]] = {}
        self._tables: dict[str, tuple[tuple[int, ...], Tensor]] = {}

    def __call__(self, name: str, tensor: Tensor) -> None:
        """Sample one tensor, whole; "name[3]" is one matrix of a stack."""
        if name in self._found or not tensor.dtype.is_floating_point or not tensor.numel():
            return
        shape = tuple(tensor.shape)
        runs = EXPERT_RUNS if _EXPERT.search(name) else RUNS
        values = tensor.reshape(-1)[sampled_places(shape, runs)].float()
        if torch.isfinite(values).all():
            self._found[name] = shape, values.clone()

    @property
    def names(self) -> Collection[str]:
        """Names of the tensors that were seen."""
        return self._found.keys()

    def see_table(self, part: str, rows: Tensor, filled: list[int], m: int) -> None:
        """Sample embeddings or head rows (n, d) of the anchors in the buckets `filled` of m."""
        columns = np.random.default_rng([11, rows.shape[1]]).permutation(rows.shape[1])[:COLUMNS]
        table = torch.zeros(m, len(columns))
        table[filled] = rows[:, np.sort(columns).tolist()].float()
        if torch.isfinite(table).all():
            self._tables[part] = (m, int(rows.shape[1])), table.reshape(-1)

    def collect(self, reader: ModelReader, blocks: Iterable[int]) -> WeightSamples | None:
        """All samples, placed by the model's layout; None where nothing was read.

        Args:
            reader: of the model.
            blocks: indices of the blocks that were read.
        """
        parts: dict[str, tuple[int, str, str]] = {}
        for index in blocks:
            parts |= _parts_of_block(reader, index, self._found)
        places, values = [], []
        for part, (shape, sample) in self._tables.items():
            places.append(Place(OUTSIDE, part, part, shape, len(sample)))
            values.append(sample)
        for name, (shape, sample) in self._found.items():
            if name in parts:
                block, role, part = parts[name]
                places.append(Place(block, role, part, shape, len(sample)))
                values.append(sample)
        if not values:
            return None
        return WeightSamples(torch.cat(values), tuple(places))


def _parts_of_block(
    reader: ModelReader, index: int, found: Collection[str]
) -> dict[str, tuple[int, str, str]]:
    """Block, role and part of each seen tensor of one block and of the network that follows it."""
    parts: dict[str, tuple[int, str, str]] = {}
    resolved = reader.resolve(index)
    blocks = [resolved]
    while blocks[-1].ffn is None and blocks[-1].index + 1 < reader.block_count:
        blocks.append(reader.resolve(blocks[-1].index + 1))
    attention = set() if resolved.attention is None else _names(resolved.attention.tensors)
    for block in blocks:
        experts = isinstance(block.ffn, ResolvedExperts)
        norms = _names(block.norms.tensors)
        for name in found:
            if not name.startswith(block.start):
                continue
            role = name.removeprefix(block.start)
            expert = _EXPERT.search(name)
            if name in attention:
                part = "attention"
            elif name in norms or found_is_vector(role):
                part = NORM
            elif expert and experts:
                part = f"expert {expert[1] or expert[2]}"
            elif experts and _ROUTER.search(role) and not role.endswith("proj.weight"):
                part = "router"
            else:
                part = "ffn"
            parts[name] = index, role, part
    return parts


def found_is_vector(role: str) -> bool:
    """Whether a role is that of a gain or a bias, which is no evidence of an origin."""
    return role.endswith("bias") or "norm" in role.rpartition(".")[0].rpartition(".")[2]


def _names(roles: Mapping[str, Stored]) -> set[str]:
    return {name for stored in roles.values() for name in stored.names}
