"""How heads and units count where a model cannot be run: by their weights as they stand."""

import torch
from torch import Tensor

from huref.architecture.block import FeedForward, Mixture, SelfAttention
from huref.invariants.block_use import BlockUse, HalfUse, Observer, UnitUse
from huref.invariants.unit_features import EVERY_TOKEN


def use_as_it_stands(
    attention: SelfAttention, ffn: FeedForward | Mixture, E: Tensor, observe: Observer
) -> BlockUse:
    """A use under which every head and unit weighs what its weights weigh."""
    queries, keys = attention.features(E)
    values = attention.values(E)
    heads = queries.shape[1]
    o = attention.o.reshape(heads, -1, attention.o.shape[1])
    sizes, energies = torch.empty(heads), torch.empty(heads)
    moments = torch.einsum("mhi,mhj->hij", values, values)
    moments = moments[torch.arange(heads) * values.shape[1] // heads]
    for head in range(heads):
        k = keys[:, head * keys.shape[1] // heads]
        v = values[:, head * values.shape[1] // heads]
        sizes[head] = (queries[:, head] @ k.T).norm()
        energies[head] = (v @ o[head] @ E.T).norm()

    def show(expert: int, network: FeedForward, mass: float) -> None:
        gated = E @ (network.up if network.gate is None else network.gate)
        units = gated.shape[1]
        use = UnitUse(gated.square().mean(dim=0).sqrt(), torch.full((units,), 1 / units))
        observe(expert, network, use, mass)

    if isinstance(ffn, FeedForward):
        show(EVERY_TOKEN, ffn, 1.0)
    else:
        if ffn.shared is not None:
            show(EVERY_TOKEN, ffn.shared, 1.0)
        for expert in range(ffn.count):
            show(expert, ffn.read(expert), 1 / ffn.count)
    half = HalfUse(share=1.0, token_share=1.0)
    return BlockUse(half, half, sizes, moments, energies, {})
