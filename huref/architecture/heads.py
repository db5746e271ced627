"""Where the heads lie in fused tensors, and how they are taken apart and joined."""

import torch
from torch import Tensor

from huref.architecture.layout import AttentionForm

CODEGEN_PARTS = 4  # CodeGen's qkv_proj is sharded for four accelerators


def split_heads(
    form: AttentionForm, fused: Tensor, heads: int, kv_heads: int
) -> tuple[Tensor, Tensor, Tensor]:
    """q, k, v (in, ...) from a fused matrix (in, (heads + 2 kv_heads) * head_dim)."""
    width = len(fused)
    if form.split == "gate_first":
        gate_dim = fused.shape[1] // (2 * heads + 2 * kv_heads)
        fused = fused[:, heads * gate_dim :]
    head_dim = fused.shape[1] // (heads + 2 * kv_heads)
    if form.split in ("contiguous", "gate_first"):
        end = heads * head_dim
        middle = end + kv_heads * head_dim
        return fused[:, :end], fused[:, end:middle], fused[:, middle:]
    if form.split == "groups":  # per key-value head: its queries, its key, its value
        by_group = fused.reshape(width, kv_heads, heads // kv_heads + 2, head_dim)
        q, k, v = by_group[:, :, :-2], by_group[:, :, -2], by_group[:, :, -1]
    else:  # codegen: four parts, each [q | v | k]
        parts = fused.reshape(width, CODEGEN_PARTS, 3, -1)
        q, v, k = parts[:, :, 0], parts[:, :, 1], parts[:, :, 2]
    return q.flatten(1), k.flatten(1), v.flatten(1)


def join_heads(
    form: AttentionForm, q: Tensor, k: Tensor, v: Tensor, *, heads: int, kv_heads: int
) -> Tensor:
    """The inverse of `split_heads`, for the splits "contiguous" and "groups".

    Args:
        form: how the fused matrix is cut.
        q: (in, heads * head_dim).
        k: (in, kv_heads * head_dim).
        v: the same shape as k.
        heads: query heads.
        kv_heads: key-value heads.

    Raises:
        ValueError: another split, which no layout has whose models are written back.
    """
    if form.split == "contiguous":
        return torch.cat([q, k, v], dim=1)
    if form.split != "groups":
        raise ValueError(f"cannot join heads as {form.split}")
    shape = (len(q), kv_heads, -1, q.shape[1] // heads)
    return torch.cat([part.reshape(shape) for part in (q, k, v)], dim=2).flatten(1)


def drop_output_gate(q: Tensor, heads: int, head_dim: int | None = None) -> Tensor:
    """The queries of a matrix in which each head's output gate follows its queries.

    (in, heads * (head_dim + gate)) -> (in, heads * head_dim). The gate is as large as the head
    where `head_dim` is not given.
    """
    by_head = q.reshape(len(q), heads, -1)
    return by_head[:, :, : head_dim or by_head.shape[2] // 2].flatten(1)


def join_o(first: Tensor, second: Tensor) -> Tensor:
    """Return o (blocks * n, d) from two factors, of which the first is block-diagonal.

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
