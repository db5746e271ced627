"""The arithmetic of merging an adapter into one tensor of its base."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from math import prod

import torch
from torch import Tensor

from huref.errors import CheckpointError
from huref.loader.sources.adapter_settings import MERGE_FIRST, OLORA, PISSA
from huref.loader.sources.adapter_tensors import SideBySide
from huref.loader.tensors import Derived, renamed

GIVE_RIGHT_BASE = "give the base that it was trained on with --base"
EXACT = 1024  # smaller side of a matrix up to which all singular values are computed
OVERSAMPLING = 32  # more directions than wanted, so that the wanted ones converge
ITERATIONS = 12  # of the subspace iteration
MOST_ITERATIONS = 100  # that a setting may ask for
LARGEST_DIFFERENCE = 0.03  # of two runs of it, relative to the matrix; the ICS then stays at .999
# Matrices of single experts that one stacked parameter holds.
SINGLE_EXPERTS = {
    "gate_up_proj": (("gate_proj", "up_proj"), ("w1", "w3")),
    "down_proj": (("down_proj",), ("w2",)),
}


@dataclass(frozen=True)
class Merge:
    """How one tensor of the base is changed. Names of the adapter's tensors begin with "+".

    Attributes:
        name: the base's tensor.
        start: the tensor that is changed: the base's, or one of the adapter's that replaces it.
        a, b: the LoRA factors, (r, in) and (out, r); "" where nothing is added.
        magnitude: DoRA's magnitude vector, or "".
        tokens: rows that replace those of `token_ids`, or "".
        scale: what the product of the factors is multiplied by.
        factors_transposed: MLX's factors, (in, r) and (r, out).
        weight_transposed: the weight is (in, out).
        by_row: DoRA's norm is that of each row of the weight as it is stored.
        start_of_factors: PEFT's init_lora_weights.
        experts: number of experts in a stack; 0 for a matrix.
        expert, outputs: for an expert that is stored by itself, its index and the number of all,
            and the range of its outputs in the stacked factors.
        others: (role, name) of the tensors of an adapter of another kind than LoRA.
    """

    name: str
    start: str
    a: str = ""
    b: str = ""
    magnitude: str = ""
    tokens: str = ""
    token_ids: tuple[int, ...] = ()
    scale: float = 0.0
    factors_transposed: bool = False
    weight_transposed: bool = False
    by_row: bool = False
    start_of_factors: str = "true"
    experts: int = 0
    expert: tuple[int, int] | None = None
    outputs: tuple[int, int] = (0, 0)
    others: tuple[tuple[str, str], ...] = ()


def experts_by_themselves(
    prefix: str, parameter: str, names: Collection[str]
) -> list[tuple[str, ...]]:
    """The tensors of each single expert that together are a stacked parameter; [] for none."""
    for group in SINGLE_EXPERTS.get(parameter, ()):
        found: list[tuple[str, ...]] = []
        while all(f"{prefix}.{len(found)}.{part}.weight" in names for part in group):
            found.append(tuple(f"{prefix}.{len(found)}.{part}.weight" for part in group))
        if found:
            return found
    return []


def merge_matrix(both: SideBySide, merge: Merge) -> Derived:
    """A changed matrix, or an MLX stack of them.

    Raises:
        CheckpointError: the adapter's tensors do not fit the base's.
    """
    info = renamed(both.entry(merge.start), merge.name)
    if changed_by := merge.a or merge.tokens:  # named in errors about the numbers
        info = replace(info, file=both.entry(changed_by).file)
    named = {
        "a": merge.a, "b": merge.b, "magnitude": merge.magnitude, "tokens": merge.tokens
    }  # fmt: skip
    roles = [role for role, name in named.items() if name]
    if merge.a and not merge.expert:
        _require_fit(both, merge, info.shape)
    if merge.magnitude:
        _require_magnitude(both, merge, info.shape)
    if merge.tokens:
        rows = both.entry(merge.tokens).shape
        if len(rows) != 2 or rows != (len(merge.token_ids), info.shape[-1]):
            raise CheckpointError(
                f"it holds {list(rows)} numbers for {len(merge.token_ids)} tokens of "
                f"'{merge.name}', which has {list(info.shape)}",
                tensor=merge.tokens[1:],
                advice=GIVE_RIGHT_BASE,
            )
        if merge.token_ids and max(merge.token_ids) >= info.shape[0]:
            raise CheckpointError(
                f"it trains token {max(merge.token_ids)}, but '{merge.name}' has {info.shape[0]} "
                "rows",
                tensor=merge.tokens[1:],
                advice=GIVE_RIGHT_BASE,
            )

    def combine(parts: list[Tensor], rows: Sequence[int] | None) -> Tensor:
        given = dict(zip(roles, parts[1:], strict=True))
        weight = parts[0]
        if merge.a:
            weight = _add_product(merge, weight.float(), given["a"], given["b"], rows)
        if merge.magnitude:
            weight = _scale_to(merge, weight, given["magnitude"].float().flatten(), rows)
        if merge.tokens:
            weight = _replace_rows(merge, weight.float().clone(), given["tokens"].float(), rows)
        return weight

    needs_all = merge.start_of_factors.startswith((PISSA, OLORA)) or (
        bool(merge.magnitude) and merge.weight_transposed and not merge.by_row
    )
    return Derived(
        info,
        (merge.start, *(named[role] for role in roles)),
        lambda parts: combine(parts, None),
        by_rows=None if needs_all else (True, *(False for _ in roles)),
        combine_rows=combine,
    )


def _require_magnitude(both: SideBySide, merge: Merge, shape: tuple[int, ...]) -> None:
    magnitude = both.entry(merge.magnitude)
    by_column = merge.weight_transposed and not merge.by_row
    wanted = shape[-1:] if by_column else shape[:-1]
    if prod(magnitude.shape) != prod(wanted) or not wanted:
        raise CheckpointError(
            f"the magnitude of '{merge.name}', of shape {list(magnitude.shape)}, does not fit the "
            f"base's shape {list(shape)}",
            tensor=merge.magnitude[1:],
            advice=GIVE_RIGHT_BASE,
        )


def _require_fit(both: SideBySide, merge: Merge, shape: tuple[int, ...]) -> None:
    a, b = both.entry(merge.a).shape, both.entry(merge.b).shape
    if merge.factors_transposed:
        a, b = a[::-1], b[::-1]
    fits = len(a) == len(b) == len(shape) >= 2 and a[-2] == b[-1] and a[:-2] == b[:-2]
    size = (*a[:-2], b[-2], a[-1]) if fits else ()
    wanted = (*shape[:-2], shape[-1], shape[-2]) if merge.weight_transposed else shape
    if not fits or size != wanted:
        raise CheckpointError(
            f"the delta of '{merge.name}', of shape {list(b)} times {list(a)}, does not fit the "
            f"base's shape {list(shape)}",
            advice=GIVE_RIGHT_BASE,
        )


def _add_product(
    merge: Merge, weight: Tensor, a: Tensor, b: Tensor, rows: Sequence[int] | None
) -> Tensor:
    """W + s B A, or rows of it."""
    a, b = a.float(), b.float()
    if merge.expert is not None:
        index, count = merge.expert
        a = a.view(count, -1, a.shape[1])[index]
        b = b.view(b.shape[0], -1, count)[merge.outputs[0] : merge.outputs[1], :, index]
    if merge.factors_transposed:
        a, b = a.mT, b.mT
    if merge.start_of_factors.startswith((PISSA, OLORA)):
        weight = weight - _taken_out(merge, weight, rank=a.shape[0])
    if merge.weight_transposed:
        a, b = b.mT, a.mT
    chosen = slice(None) if rows is None else list(rows)
    # The first axis of the weight is that of b, or of both factors of a stack.
    if b.dim() == 3:
        return weight + merge.scale * (b[chosen] @ a[chosen])
    return weight + merge.scale * (b[chosen] @ a)


def _taken_out(merge: Merge, weight: Tensor, rank: int) -> Tensor:
    """The part of a weight with which PEFT filled the factors before training."""
    if merge.start_of_factors.startswith(OLORA):
        q, r = torch.linalg.qr(weight)
        leading: Tensor = merge.scale * (q[:, :rank] @ r[:rank])
        return leading
    if not merge.start_of_factors.startswith(f"{PISSA}_niter_"):
        return _principal(merge, weight, rank)
    found = [_by_iterations(merge, weight, rank, seed) for seed in (0, 1)]
    _require_same(merge, weight, *found)
    return found[0]


def _principal(merge: Merge, weight: Tensor, rank: int) -> Tensor:
    """The leading part of a singular value decomposition.

    Raises:
        CheckpointError: the singular values are too close for it to be found by iterations.
    """
    if min(weight.shape) <= EXACT or rank + OVERSAMPLING >= min(weight.shape):
        u, s, vh = torch.linalg.svd(weight, full_matrices=False)
        leading: Tensor = (u[:, :rank] * s[:rank]) @ vh[:rank]
        return leading
    found = _subspace(weight, rank, rank + OVERSAMPLING, ITERATIONS, seed=0)
    _require_same(
        merge, weight, found, _subspace(weight, rank, rank + OVERSAMPLING, 2 * ITERATIONS, seed=1)
    )
    return found


def _by_iterations(merge: Merge, weight: Tensor, rank: int, seed: int) -> Tensor:
    """What PEFT's `pissa_niter_N` took out, but for the numbers with which its iterations began."""
    count = merge.start_of_factors.removeprefix(f"{PISSA}_niter_")
    if not count.isascii() or not count.isdigit() or not 0 < int(count) <= MOST_ITERATIONS:
        raise CheckpointError(
            f"its init_lora_weights, {merge.start_of_factors[:40]!r}, states no number of "
            "iterations",
            advice=MERGE_FIRST,
        )
    return _subspace(weight, rank, rank, int(count), seed)


def _subspace(weight: Tensor, rank: int, width: int, count: int, seed: int) -> Tensor:
    """The leading part of a matrix by `count` iterations of a subspace of some width."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        u, s, v = torch.svd_lowrank(weight, q=width, niter=count)
    leading: Tensor = (u[:, :rank] * s[:rank]) @ v.T[:rank]
    return leading


def _require_same(merge: Merge, weight: Tensor, a: Tensor, b: Tensor) -> None:
    """Raise CheckpointError where the result depends on the numbers that iterations began with."""
    difference = float((a - b).norm() / weight.norm().clamp_min(1e-30))
    if difference > LARGEST_DIFFERENCE:
        raise CheckpointError(
            f"the part of '{merge.name}' with which {merge.start_of_factors[:40]!r} began cannot "
            f"be found again: two runs differ by {100 * difference:.0f} % of the matrix",
            advice=MERGE_FIRST,
        )


def _scale_to(
    merge: Merge, weight: Tensor, magnitude: Tensor, rows: Sequence[int] | None
) -> Tensor:
    if merge.weight_transposed and not merge.by_row:
        factors: Tensor = magnitude / torch.linalg.vector_norm(weight, dim=0)
        return weight * factors
    if rows is not None:
        magnitude = magnitude[list(rows)]
    factors = magnitude / torch.linalg.vector_norm(weight, dim=-1)
    return weight * factors[..., None]


def _replace_rows(
    merge: Merge, weight: Tensor, tokens: Tensor, rows: Sequence[int] | None
) -> Tensor:
    if rows is None:
        weight[list(merge.token_ids)] = tokens
        return weight
    place = {token: index for index, token in enumerate(merge.token_ids)}
    for position, row in enumerate(rows):
        if row in place:
            weight[position] = tokens[place[row]]
    return weight


def merge_experts(both: SideBySide, merge: Merge) -> Derived:
    """A stack of experts, (experts, in, out) or (experts, out, in), with PEFT's factors added.

    PEFT stores the factors of all experts as (experts * r, in) and (out, r * experts).
    """
    info = renamed(both.entry(merge.start), merge.name)

    def combine(parts: list[Tensor], rows: Sequence[int] | None) -> Tensor:
        a = parts[1].float().view(merge.experts, -1, parts[1].shape[1])  # (experts, r, in)
        b = parts[2].float().view(parts[2].shape[0], -1, merge.experts).permute(2, 0, 1)
        if rows is not None:
            a, b = a[list(rows)], b[list(rows)]
        delta = b @ a
        return parts[0].float() + merge.scale * (delta.mT if merge.weight_transposed else delta)

    return Derived(
        info,
        (merge.start, merge.a, merge.b),
        lambda parts: combine(parts, None),
        by_rows=(True, False, False),
        combine_rows=combine,
    )
