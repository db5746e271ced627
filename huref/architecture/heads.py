"""How many heads a block has, and where each of them lies in fused tensors."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from huref.architecture.config_values import config_ints, look_up
from huref.architecture.layout import Heads
from huref.errors import CheckpointError

CODEGEN_PARTS = 4  # CodeGen's qkv_proj was cut for four accelerators, and stays so


def split_heads(
    spec: Heads, fused: Tensor, heads: int, kv_heads: int
) -> tuple[Tensor, Tensor, Tensor]:
    """q, k, v (in, ...) from a fused matrix (in, (heads + 2 kv_heads) * head_dim)."""
    width = len(fused)
    if spec.split == "gate_first":
        fused = fused[:, heads * gated_head_dim(fused.shape[1], heads, kv_heads) :]
    head_dim = fused.shape[1] // (heads + 2 * kv_heads)
    if spec.split in ("contiguous", "gate_first"):
        end = heads * head_dim
        middle = end + kv_heads * head_dim
        return fused[:, :end], fused[:, end:middle], fused[:, middle:]
    if spec.split == "groups":  # per key-value head: its queries, its key, its value
        by_group = fused.reshape(width, kv_heads, heads // kv_heads + 2, head_dim)
        q, k, v = by_group[:, :, :-2], by_group[:, :, -2], by_group[:, :, -1]
    else:  # codegen: four parts, each [q | v | k]
        parts = fused.reshape(width, CODEGEN_PARTS, 3, -1)
        q, v, k = parts[:, :, 0], parts[:, :, 1], parts[:, :, 2]
    return q.flatten(1), k.flatten(1), v.flatten(1)


def join_heads(
    spec: Heads, q: Tensor, k: Tensor, v: Tensor, *, heads: int, kv_heads: int
) -> Tensor:
    """The inverse of `split_heads`, for contiguous tensors and groups.

    Args:
        spec: how the fused matrix is cut.
        q: (in, heads * head_dim).
        k: (in, kv_heads * head_dim).
        v: the same shape.
        heads: query heads.
        kv_heads: key-value heads.

    Raises:
        ValueError: another way of cutting, which no layout that is written back has.
    """
    if spec.split == "contiguous":
        return torch.cat([q, k, v], dim=1)
    if spec.split != "groups":
        raise ValueError(f"cannot join heads as {spec.split}")
    shape = (len(q), kv_heads, -1, q.shape[1] // heads)
    return torch.cat([part.reshape(shape) for part in (q, k, v)], dim=2).flatten(1)


def gated_head_dim(columns: int, heads: int, kv_heads: int) -> int:
    """A head's size in a matrix of an output gate, q, k and v."""
    return columns // (2 * heads + 2 * kv_heads)


def ungated(q: Tensor, heads: int, head_dim: int | None = None) -> Tensor:
    """The queries of a matrix in which each head's output gate follows its queries.

    (in, heads * (head_dim + gate)) -> (in, heads * head_dim); the gate has a head's size where
    `head_dim` is not given.
    """
    by_head = q.reshape(len(q), heads, -1)
    return by_head[:, :, : head_dim or by_head.shape[2] // 2].flatten(1)


def join_o(first: Tensor, second: Tensor) -> Tensor:
    """Return o (blocks * n, d) from two factors, of which the first acts on blocks of heads.

    Args:
        first: (blocks, n, rank).
        second: (blocks * rank, d).
    """
    return torch.bmm(first, second.reshape(len(first), first.shape[2], -1)).flatten(0, 1)


def reorder_o(o: Tensor, heads: int) -> Tensor:
    """Put the heads of o in order, where it reads head j of the first and second half in turn.

    (heads * head_dim, d), rows reordered.
    """
    return o.reshape(heads // 2, 2, -1, o.shape[1]).transpose(0, 1).flatten(0, 2)


class HeadCounts:
    """Query heads and key-value heads of a block, checked against its tensors' shapes."""

    def __init__(self, spec: Heads, config: Mapping[str, Any], index: int, model: str):
        self._config, self._index, self._model = config, index, model
        self._spec = spec
        self.heads = config_ints(config, spec.heads, model, index)[0]
        self._candidates = config_ints(config, spec.kv_heads, model, index)

    def head_dim(self, width: int, columns: int | None = None) -> int:
        """The config's head size; where there is none, that of q's columns, or width / heads."""
        keys = [k for k in self._spec.head_dim if look_up(self._config, k, self._index) is not None]
        if keys:
            return config_ints(self._config, tuple(keys), self._model, self._index)[0]
        return (width if columns is None else columns) // self.heads

    def kv_heads(
        self,
        name: str,
        shape: Sequence[int],
        width: int,
        fixed: int,
        each: int,
        size: int | None = None,
    ) -> int:
        """The first candidate that gives a tensor of (in, out) `shape` its columns.

        Args:
            name: of the tensor, for the message.
            shape: (in, out).
            width: of the residual stream.
            fixed: heads in it whatever the number of key-value heads.
            each: heads in it per key-value head.
            size: of a head, where it is known from another tensor.

        Raises:
            CheckpointError: no candidate does.
        """
        size = size or self.head_dim(width)
        for count in self._candidates:
            if tuple(shape) == (width, (fixed + each * count) * size) and self.heads % count == 0:
                return count
        counts = " or ".join(dict.fromkeys(map(str, self._candidates)))
        raise CheckpointError(
            f"{self._model}: '{name}' has shape {list(shape)} (in, out), which does not go with "
            f"config.json ({self.heads} heads of {size}, {counts} key-value heads, width {width}); "
            "config and weights do not belong together"
        )

    def check(self, name: str, shape: Sequence[int], expected: Sequence[int]) -> None:
        """Raise CheckpointError when a tensor has not the (in, out) shape it should have."""
        if tuple(shape) != tuple(expected):
            raise CheckpointError(
                f"{self._model}: '{name}' has shape {list(shape)} (in, out), but config.json "
                f"({self.heads} heads) asks for {list(expected)}; config and weights do not belong "
                "together"
            )
