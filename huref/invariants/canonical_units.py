"""Canonical units: what no input reaches is left out, and units with equal gates are one.

Splitting a unit, or adding parts that cancel, changes nothing of what a network computes. Units
of a gated network whose gate vectors are equal have the same activation a, and together write
a x sum(u d^T). The function depends on that matrix alone; its singular vectors, as many as are
needed, are the canonical units. Mixtures that are dense in disguise are one network. See
docs/maths.md, Function.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from huref.architecture.block import Attention, FeedForward, LatentAttention, Mixture
from huref.architecture.reader import ModelReader
from huref.invariants.block_use import UnitUse
from huref.invariants.canonical_heads import HeadWeights
from huref.invariants.reproducible import one_thread, row_norms

SAME = 0.995  # cosine of gates that are equal but for rounding, loud unwritten directions included
SAME_LENGTH = 0.05  # relative difference of their lengths
SKETCH = 64  # projections in which candidates are looked for
CANCELLED = 0.005  # of the norms of a group's parts: what rounding leaves of parts that cancel
RANK = 0.1  # singular values below this share of the first are rounding noise
NUMBERS = 2**24  # cosines that are held at once
EVEN = 1e-3  # norm of a router, less its mean over experts, over the root of the width
MOST_DENSE = 2**28  # numbers in up of a mixture that is read as one dense network


@dataclass(frozen=True)
class EqualUnits:
    """Sets of a network's units that have equal gates.

    Attributes:
        groups: of each set the units' indices in the original network.
        ranks: how much of a set's share each of its canonical units has, none where the set
            cancels; these take the places of the first of the set.
    """

    groups: tuple[tuple[int, ...], ...] = ()
    ranks: tuple[Tensor, ...] = ()

    @property
    def removed(self) -> int:
        """Number of units that were superfluous."""
        return sum(len(group) for group in self.groups) - sum(len(rank) for rank in self.ranks)

    def merge_shares(self, shares: Tensor) -> Tensor:
        """Shares of the canonical units, from those of the original ones."""
        shares = shares.clone()
        keep = torch.ones(len(shares), dtype=torch.bool)
        for group, rank in zip(self.groups, self.ranks, strict=True):
            shares[list(group[: len(rank)])] = float(shares[list(group)].sum()) * rank
            keep[list(group[len(rank) :])] = False
        return shares[keep]


@dataclass(frozen=True)
class MergedNetwork:
    """A network whose units with equal gates are merged.

    Attributes:
        network: the canonical network.
        use: what its units do.
        equal: the units that were merged.
    """

    network: FeedForward
    use: UnitUse
    equal: EqualUnits


def sketch_columns(gate: Tensor) -> Tensor:
    """Unit vectors (units, SKETCH) whose products are about the cosines of columns (d, units)."""
    draw = torch.Generator().manual_seed(0)
    sketch: Tensor = (torch.randn(SKETCH, len(gate), generator=draw) @ gate).T
    return torch.nn.functional.normalize(sketch, dim=1, eps=1e-30)


def find_parallel(
    gate: Tensor, any_length: bool = False, opposite: bool = False, biased: bool = False
) -> list[list[int]]:
    """Groups of two or more equal columns of a gate (d, units); a zero column is in none.

    With `any_length` columns of one direction are equal, with `opposite` also those of opposite
    direction. With `biased` the last row is a bias: however large, the others must be equal too.
    """
    length = row_norms(gate.T)
    parts = [gate, gate[:-1]] if biased else [gate]

    def cosine(i: int, j: int) -> float:
        cosines = [
            float(
                part[:, i] @ part[:, j] / (part[:, i].norm() * part[:, j].norm()).clamp(min=1e-30)
            )
            for part in parts
        ]
        return min(map(abs, cosines)) if opposite else min(cosines)

    sketch = sketch_columns(gate)
    floor = 1e-6 * float(length.median())
    parent = list(range(gate.shape[1]))

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    least = 1 - 10 * (1 - SAME)
    rows = max(NUMBERS // max(len(sketch), 1), 1)
    for start in range(0, len(sketch), rows):
        near = (sketch[start : start + rows] @ sketch[start:].T).triu_(1)
        if opposite:
            near.abs_()
        if float(near.max()) <= least:
            continue
        for i, j in ((near > least).nonzero() + start).tolist():
            if min(length[i], length[j]) <= floor:
                continue
            close = abs(float(length[i] - length[j])) < SAME_LENGTH * float(length[i])
            if (any_length or close) and cosine(i, j) > SAME:
                parent[root(j)] = root(i)
    groups: dict[int, list[int]] = {}
    for i in range(len(parent)):
        groups.setdefault(root(i), []).append(i)
    return [group for group in groups.values() if len(group) > 1]


def merge_equal_units(
    network: FeedForward, use: UnitUse, homogeneous: bool = False
) -> MergedNetwork:
    """A network whose units all have different gates; the first of a group keeps its place.

    Without a gate the activation is that of up, and units with equal up are one, whose down is the
    sum. A bias counts as one more input.

    Args:
        network: dense, or one expert.
        use: what its units do.
        homogeneous: whether act(c x) = c act(x) for c > 0, as ReLU; gates then need only the same
            direction.
    """
    up = _with_bias(network, "up", network.up)
    key = gate_columns(network)
    groups = find_parallel(key, homogeneous, biased=len(key) > len(network.up))
    if not groups:
        return MergedNetwork(network, use, EqualUnits())
    keep = torch.ones(network.up.shape[1], dtype=torch.bool)
    new_up, down, ranks = up.clone(), network.down.clone(), []
    for group in groups:
        lengths = key[:, group].norm(dim=0)
        downs = network.down[group]
        if homogeneous:
            downs = downs * (lengths / lengths[0])[:, None]
        parts = downs.norm(dim=1)
        if network.gate is None:
            down[group[0]] = downs.sum(dim=0)
            cancelled = float(down[group[0]].norm()) <= CANCELLED * float(parts.sum())
            ranks.append(torch.ones(0 if cancelled else 1))
        else:
            # sum u d^T = U D; from thin factors, without the (d, d) product
            with one_thread():
                q_u, r_u = torch.linalg.qr(up[:, group])
                q_d, r_d = torch.linalg.qr(downs.T)
                left, size, right = torch.linalg.svd(r_u @ r_d.T)
            parts = parts * up[:, group].norm(dim=0)
            rank = int((size > RANK * size[0]).sum())
            if float(size[0]) <= CANCELLED * float(parts.sum()):
                rank = 0
            for place, unit in enumerate(group[:rank]):
                scale = size[place].sqrt()
                new_up[:, unit] = q_u @ left[:, place] * scale
                down[unit] = q_d @ right[place] * scale
            squares = size[:rank].square()
            ranks.append(squares / squares.sum().clamp(min=1e-30))
        keep[group[len(ranks[-1]) :]] = False
    if not keep.any():  # a network that writes nothing keeps one unit that writes nothing
        first = groups[0][0]
        keep[first], ranks[0] = True, torch.ones(1)
        down[first] = 0.0
    merged = _kept(network, new_up, down, keep)
    equal = EqualUnits(tuple(tuple(group) for group in groups), tuple(ranks))
    shares = None if use.shares is None else equal.merge_shares(use.shares)
    return MergedNetwork(merged, UnitUse(use.active[keep], shares), equal)


def gate_columns(network: FeedForward) -> Tensor:
    """What the activation is taken of, gate or else up, (d, units), with a bias as a last row."""
    if network.gate is None:
        return _with_bias(network, "up", network.up)
    return _with_bias(network, "gate", network.gate)


def _with_bias(network: FeedForward, role: str, weight: Tensor) -> Tensor:
    """A matrix (d, units) with its bias, if it has one, as one more row."""
    bias = network.biases.get(role)
    return weight if bias is None else torch.cat([weight, bias[None]])


def _kept(network: FeedForward, up: Tensor, down: Tensor, keep: Tensor) -> FeedForward:
    """The kept units of a network with new up (d, or d + 1 with the bias, units) and down."""
    width = len(network.up)
    gate = None if network.gate is None else network.gate[:, keep]
    biases = {role: bias[keep] for role, bias in network.biases.items() if role != "down"}
    if "up" in biases:
        biases["up"] = up[width, keep]
    if "down" in network.biases:
        biases["down"] = network.biases["down"]
    return FeedForward(up[:width, keep], gate, down[keep], biases)


def without_directions(network: FeedForward, unused: Tensor) -> FeedForward:
    """A network that does not read some directions of the stream, orthonormal rows (n, d)."""
    gate = None if network.gate is None else _without(network.gate, unused)
    return replace(network, up=_without(network.up, unused), gate=gate)


def attention_without(
    attention: Attention | LatentAttention, unused: Tensor
) -> Attention | LatentAttention:
    """Attention that does not read some directions of the stream, orthonormal rows (n, d)."""
    if isinstance(attention, LatentAttention):
        q_a = None if attention.q_a is None else _without(attention.q_a, unused)
        q_b = attention.q_b if q_a is not None else _without(attention.q_b, unused)
        kv_a, k_rope = (_without(W, unused) for W in (attention.kv_a, attention.k_rope))
        return replace(attention, q_a=q_a, q_b=q_b, kv_a=kv_a, k_rope=k_rope)
    q_a = None if attention.q_a is None else _without(attention.q_a, unused)
    q = attention.q if q_a is not None else _without(attention.q, unused)
    k, v = _without(attention.k, unused), _without(attention.v, unused)
    return replace(attention, q_a=q_a, q=q, k=k, v=v)


def _without(weight: Tensor, unused: Tensor) -> Tensor:
    return weight - unused.T @ (unused @ weight)


def used_attention(
    attention: Attention | LatentAttention, weights: HeadWeights
) -> Attention | LatentAttention:
    """Attention whose heads count as in the terms, for barcodes.

    Where queries or keys pass a norm, W_q W_k^T is kept.
    """
    if isinstance(attention, LatentAttention) or attention.v_norm is not None:
        return attention
    heads = attention.heads
    o = attention.o.reshape(heads, -1, attention.o.shape[1]) * weights.vo[:, None, None]
    plain = attention.q_norm is None and attention.k_norm is None and attention.q_a is None
    q = attention.q.reshape(len(attention.q), heads, -1)
    if plain:
        q = q * weights.qk[:, None]
    return replace(attention, q=q.flatten(1), o=o.flatten(0, 1))


def as_dense(reader: ModelReader, index: int, ffn: FeedForward | Mixture) -> FeedForward | Mixture:
    """A mixture that weighs the same experts alike for all tokens, as a dense network."""
    if isinstance(ffn, FeedForward) or ffn.count == 1:
        return ffn
    router = reader.read_router(index)
    weights = None if router is None else router.constant(EVEN)
    if weights is None or len(weights) != ffn.count:
        return ffn
    first, *others = weights.nonzero().flatten().tolist() or [0]
    network = ffn.read(first)
    if network.up.numel() * (1 + len(others)) > MOST_DENSE or network.biases:
        return ffn
    experts = [network, *(ffn.read(expert) for expert in others)]
    downs = [
        expert.down * weights[number]
        for number, expert in zip([first, *others], experts, strict=True)
    ]
    if ffn.shared is not None:
        experts, downs = [*experts, ffn.shared], [*downs, ffn.shared.down]
    if any(expert.gate is None for expert in experts):
        return ffn
    gates = [expert.gate for expert in experts if expert.gate is not None]
    return FeedForward(
        torch.cat([expert.up for expert in experts], dim=1),
        torch.cat(gates, dim=1),
        torch.cat(downs),
    )
