"""Whether a sum of models is task arithmetic, by how it was rounded.

With weights a that sum to less than one, b + sum of a_p (w_p - b) and the mean of all w_p and b
are one number, so shares cannot tell which of them was computed. Rounding can: merge tools
subtract, weigh and add changes in the type of the weights, and each of these steps rounds; a mean
is added up in 32 bits and rounds once, or rounds each product. Each order is computed again here,
and the places where two of them differ show which one the child has.
"""

from collections.abc import Mapping, Sequence
from itertools import permutations

import numpy as np
import torch
from torch import Tensor

from huref.lineage.sampled_family import Half

FEWEST = 100  # places at which task arithmetic alone has the child's number, at least
CLEARLY = 2.0  # times as many places as those at which another order alone has it

# An order of arithmetic: the base whose changes are added up, or None for a mean; and its variant.
Order = tuple[int | None, object]


def base_by_rounding(
    halves: Sequence[Half], members: Sequence[int], dtype: torch.dtype
) -> int | None:
    """The base of which a child is the sum of changes, where its rounding shows that.

    Args:
        halves: of the child; those that do not have all members are passed over.
        members: indices in the family of the models whose sum it is.
        dtype: of the child.

    Returns:
        One of the members; None where another order explains the child's numbers as well.
    """
    agreeing: dict[Order, list[np.ndarray]] = {}
    for half in halves:
        if all(member in half.others for member in members):
            child = half.unscaled(half.child).to(dtype)
            for order, sums in _sums(half, members, dtype).items():
                agreeing.setdefault(order, []).append((sums == child).numpy())
    if not agreeing:
        return None
    same = {order: np.concatenate(parts) for order, parts in agreeing.items()}
    best = max(same, key=lambda order: int(same[order].sum()))
    return best[0] if _is_clear(same, best) else None


def _is_clear(same: Mapping[Order, np.ndarray], best: Order) -> bool:
    """Whether an order agrees clearly more often than those of other bases, where they differ."""
    for order, other in same.items():
        alone = int((same[best] & ~other).sum())
        instead = int((other & ~same[best]).sum())
        if order[0] != best[0] and alone < max(FEWEST, CLEARLY * instead):
            return False
    return True


def _sums(half: Half, members: Sequence[int], dtype: torch.dtype) -> dict[Order, Tensor]:
    """A half-block as each order of arithmetic gives it, each (n,) of `dtype`."""
    exact = [half.unscaled(half.others[member]) for member in members]
    parts = [part.to(dtype) for part in exact]
    shares = _shares(half, parts)
    weights = shares.to(dtype)
    products = [w * x for w, x in zip(weights, parts, strict=True)]
    sums: dict[Order, Tensor] = {
        (None, "once"): _mean(exact, _shares(half, exact), dtype),
        (None, "of the child's type"): _mean(parts, shares, dtype),
        (None, "products"): torch.stack(products).sum(0),
    }
    for base, origin in zip(members, parts, strict=True):
        changes = [w * (x - origin) for w, x in zip(weights, parts, strict=True) if x is not origin]
        for variant in _summands(changes, dtype):
            sums[base, variant] = origin + torch.stack([changes[i] for i in variant]).sum(0)
    return sums


def _summands(changes: Sequence[Tensor], dtype: torch.dtype) -> list[tuple[int, ...]]:
    """The orders of summands that may round differently; sums of 16 bits are made in 32."""
    if dtype != torch.float32:
        return [tuple(range(len(changes)))]
    return [order for order in permutations(range(len(changes))) if order[0] < order[1]]


def _mean(parts: Sequence[Tensor], shares: Tensor, dtype: torch.dtype) -> Tensor:
    """A sum in 64 bits, rounded once."""
    total = sum(w * x.double() for w, x in zip(shares, parts, strict=True))
    assert isinstance(total, Tensor)
    return total.to(dtype)


def _shares(half: Half, parts: Sequence[Tensor]) -> Tensor:
    """(parts,) float64, the shares that sum to one of which a half-block is the nearest sum.

    Solved without the normal equations: an error of 1e-6 in a share moves a number of 24 bits.
    """
    scales = half.scales[half.tensors]
    last = parts[-1].double().numpy() / scales
    apart = np.stack([part.double().numpy() / scales - last for part in parts[:-1]], axis=1)
    shares = np.linalg.lstsq(apart, half.child - last, rcond=None)[0]
    return torch.from_numpy(np.append(shares, 1 - shares.sum()))
