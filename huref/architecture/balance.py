"""Factors that neighbouring matrices share, moved so that neither is near the ends of float32.

A unit's up may be multiplied by c and its down divided by c without any effect, and so may a head's
queries and keys, and its values and output. With c of 1e25 the model runs as before, while squares
of its weights overflow. Where the largest weights of both sides differ by more than LIMIT, they are
brought to one size, by powers of two: no product changes by a bit.
"""

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from huref.architecture.block import Attention, FeatureNorm, FeedForward, LatentAttention

LIMIT = 8  # binary orders of magnitude; SmolLM2-135M has 6.8, small models have 3


def balance_network(network: FeedForward, homogeneous: bool = False) -> FeedForward:
    """A network whose units have up and down of one size.

    Args:
        network: dense, or one expert.
        homogeneous: whether act(c x) = c act(x) for c > 0; without a gate, up may be rescaled only
            then.
    """
    if network.gate is None and not homogeneous:
        return network
    factor = _factors(_largest(network.up, 0), _largest(network.down, 1))
    if factor is None:
        return network
    biases = _scaled(network.biases, "up", factor)
    return replace(
        network, up=network.up * factor, down=network.down / factor[:, None], biases=biases
    )


def balance_attention(
    attention: Attention | LatentAttention, planes: Tensor | None = None
) -> Attention | LatentAttention:
    """Attention whose queries and keys, and values and output, are of one size.

    Args:
        attention: of one block. Where norms act on queries and keys, their gains are balanced.
        planes: of each feature of a head the number of its rotary plane, (head_dim,) int64; the
            features of a plane get one factor. None where none are rotated.
    """
    if isinstance(attention, LatentAttention):
        return _balance_latent(attention)
    kv_heads, group = attention.kv_heads, attention.heads // attention.kv_heads
    if attention.v_norm is None:
        of_o = _largest(attention.o, 1).view(kv_heads, group, -1).amax(dim=1)
        factor = _factors(_largest(attention.v, 0).view(kv_heads, -1), of_o)
        if factor is not None:
            of_group = factor.repeat_interleave(group, dim=0).flatten()
            attention = replace(
                attention,
                v=attention.v * factor.flatten(),
                o=attention.o / of_group[:, None],
                biases=_scaled(attention.biases, "v", factor.flatten()),
            )
    if attention.q_norm is not None and attention.k_norm is not None:
        return _balance_gains(attention, attention.q_norm, attention.k_norm, planes)
    if attention.q_norm is None and attention.k_norm is None:
        of_q = _largest(attention.q, 0).view(kv_heads, group, -1).amax(dim=1)
        of_k = _largest(attention.k, 0).view(kv_heads, -1)
        factor = _factors(*(_over_planes(some, planes) for some in (of_q, of_k)))
        if factor is not None:
            of_group = factor.repeat_interleave(group, dim=0).flatten()
            biases = _scaled(attention.biases, "q", of_group)
            attention = replace(
                attention,
                q=attention.q * of_group,
                k=attention.k / factor.flatten(),
                biases=_scaled(biases, "k", 1 / factor.flatten()),
            )
    return attention


def _balance_gains(
    attention: Attention, q_norm: FeatureNorm, k_norm: FeatureNorm, planes: Tensor | None
) -> Attention:
    """As `balance_attention`, of the gains of the norms of queries and keys, if they have any."""
    if q_norm.gain is None or k_norm.gain is None:
        return attention
    size = attention.k.shape[1] // attention.kv_heads
    q, k = (gain.reshape(-1, size) for gain in (q_norm.gain, k_norm.gain))
    heads = len(k) if len(q) % len(k) == 0 else 1  # one gain for all heads, or one each
    of_q, of_k = (x.abs().view(heads, -1, size).amax(dim=1) for x in (q, k))
    factor = _factors(*(_over_planes(some, planes) for some in (of_q, of_k)))
    if factor is None:
        return attention
    new_q = (q.view(heads, -1, size) * factor[:, None]).view_as(q_norm.gain)
    new_k = (k.view(heads, -1, size) / factor[:, None]).view_as(k_norm.gain)
    return replace(
        attention, q_norm=replace(q_norm, gain=new_q), k_norm=replace(k_norm, gain=new_k)
    )


def _balance_latent(attention: LatentAttention) -> LatentAttention:
    """As `balance_attention`; of queries and keys what is not rotated."""
    heads = attention.heads
    factor = _factors(_largest(attention.v_b, 0), _largest(attention.o, 1))
    if factor is not None:
        attention = replace(attention, v_b=attention.v_b * factor, o=attention.o / factor[:, None])
    nope = attention.k_b.shape[1] // heads
    q = attention.q_b.view(len(attention.q_b), heads, -1)
    of_q = _largest(q[..., :nope].flatten(1), 0)
    factor = _factors(of_q, _largest(attention.k_b, 0))
    if factor is None:
        return attention
    q = torch.cat([q[..., :nope] * factor.view(heads, nope), q[..., nope:]], dim=2)
    return replace(attention, q_b=q.flatten(1), k_b=attention.k_b / factor)


def _largest(weight: Tensor, dim: int) -> Tensor:
    """The largest absolute value along a dimension; a norm takes five times as long."""
    return torch.maximum(weight.amax(dim=dim), -weight.amin(dim=dim))


def _over_planes(largest: Tensor, planes: Tensor | None) -> Tensor:
    """Of each feature the largest value of its rotary plane, (heads, head_dim)."""
    if planes is None:
        return largest
    index = planes.expand_as(largest)
    of_plane = torch.zeros_like(largest).scatter_reduce(1, index, largest, "amax")
    return of_plane.gather(1, index)


def _factors(first: Tensor, second: Tensor) -> Tensor | None:
    """Powers of two by which the first sides are multiplied and the second divided, or None.

    1 where the sides differ by less than LIMIT, or one of them is zero.
    """
    exponents = (second.double().log2() - first.double().log2()) / 2
    apart = torch.isfinite(exponents) & (exponents.abs() * 2 > LIMIT)
    if not apart.any():
        return None
    return torch.where(apart, 2.0 ** exponents.round(), 1.0).float()


def _scaled(biases: Mapping[str, Tensor], role: str, factor: Tensor) -> dict[str, Tensor]:
    scaled = dict(biases)
    if role in scaled:
        scaled[role] = scaled[role] * factor
    return scaled
