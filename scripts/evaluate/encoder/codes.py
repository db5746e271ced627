"""The codes that are measured: the encoder, and what it is compared with.

A code works in two steps. `prepare` commutes with an order of the anchors and is done once for
a model; `finish` is done for each of its orders.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from huref.encoder import load_encoder
from huref.encoder.batches import permute_anchors
from huref.encoder.network import FingerprintCNN, build_network
from huref.invariants.terms import standardise
from huref.recipe import LATENT_SIZE

FEW = 4  # orders of a family's anchors for a code that costs much or differs little


@dataclass(frozen=True)
class Code:
    """From terms to latents, and how much of the data it is measured on.

    prepare: terms (n, 2, 3, m, m) to (n, channels, m, m). finish: these to latents (n, 512).
    orders: of a family's anchors, on the grid and elsewhere. strangers: orders in which it is
    given the unrelated models; 0 for not at all. mixtures: orders in which it is given inputs of
    exact correlation. linear: the latent of a sum is the sum of the latents, so these need not be
    encoded one by one. reorder: what was prepared, put into an order of the anchors.
    """

    prepare: Callable[[Tensor], Tensor]
    finish: Callable[[Tensor], Tensor]
    orders: tuple[int, int]
    strangers: int = 0
    mixtures: int = 0
    linear: bool = False
    reorder: Callable[[Tensor, Tensor], Tensor] = permute_anchors

    def __call__(self, terms: Tensor) -> Tensor:
        """Terms (n, 2, 3, m, m) to latents (n, 512)."""
        return self.finish(self.prepare(terms))


class OrthogonalProjection:
    """A random projection with orthonormal rows, of `channels` planes (m, m).

    Each entry's sign is flipped at random; then every latent is a random row of a Hadamard matrix
    on the left times another on the right, no pair twice, summed over the planes. (A dense matrix
    of this size would hold 805 million numbers.) m is a power of two and 128 at least.
    """

    def __init__(self, channels: int, anchors: int = 512, seed: int = 0) -> None:
        generator = torch.Generator().manual_seed(seed)
        hadamard = torch.ones(1, 1)
        while len(hadamard) < anchors:
            hadamard = torch.kron(hadamard, torch.tensor([[1.0, 1.0], [1.0, -1.0]]))
        hadamard /= math.sqrt(anchors)
        size = (channels, anchors, anchors)
        self._signs = torch.randint(0, 2, size, generator=generator) * 2.0 - 1
        # Each row on the left serves four latents, which saves three quarters of the work.
        left, right = (
            torch.stack([torch.randperm(anchors, generator=generator) for _ in range(channels)])
            for _ in range(2)
        )
        self._left = hadamard[left[:, : LATENT_SIZE // 4]]
        right = right.repeat(1, -(-LATENT_SIZE // anchors))[:, :LATENT_SIZE]
        self._right = hadamard[right].view(channels, LATENT_SIZE // 4, 4, anchors)

    def __call__(self, planes: Tensor) -> Tensor:
        """Planes (n, channels, m, m) of unit variance to latents (n, 512)."""
        rows = self._left @ (planes * self._signs)
        latents = torch.einsum("nclm,clkm->nlk", rows, self._right).flatten(1)
        return latents / math.sqrt(planes.shape[1])


def row_means(terms: Tensor) -> Tensor:
    """The mean of every row, (n, 6, m, 1), of terms (n, 2, 3, m, m)."""
    return terms.flatten(1, 2).mean(dim=-1, keepdim=True)


def reorder_rows(means: Tensor, order: Tensor) -> Tensor:
    """Rows (..., m, any) of a model whose anchors stand in another order."""
    return means[..., order, :]


def mean_pooling(means: Tensor) -> Tensor:
    """HuRef's other feature: the flattened terms in 512 equal parts, each part's mean.

    Not linear in practice: rows of whitened terms sum to zero, so that their means are rounding.

    Args:
        means: of the rows, (n, 6, m, 1); a part is some of the rows.

    Returns:
        (n, 512), standardised.
    """
    parts = means.reshape(len(means), LATENT_SIZE, -1).mean(dim=2)
    parts = parts - parts.mean(dim=1, keepdim=True)
    latents: Tensor = parts / parts.square().mean(dim=1, keepdim=True).sqrt()
    return latents


def stacked(terms: Tensor) -> Tensor:
    """Terms (n, 2, 3, m, m), standardised, as planes (n, 6, m, m)."""
    return standardise(terms).flatten(1, 2)


def _added(terms: Tensor) -> Tensor:
    """The blocks added, of unit variance: (n, 3, m, m)."""
    added = standardise(terms).sum(dim=1)
    power = added.square().mean(dim=(1, 2, 3), keepdim=True)
    planes: Tensor = added * power.rsqrt()
    return planes


def _without(path: Path, part: str) -> FingerprintCNN:
    """An encoder with a kind of its layers taken out."""
    network = load_encoder(path).network
    if not isinstance(network, FingerprintCNN):
        raise SystemExit(f"{path}: not the network that huref ships")
    for name, module in list(network.named_modules()):
        if type(module).__name__.lower() == part:
            parent, _, leaf = name.rpartition(".")
            setattr(network.get_submodule(parent), leaf, nn.Identity())
    return network


def _paper(path: Path, **amount: Any) -> Code:
    """The published CNN; it reads the first anchors, which orders of all of them put there."""
    made = load_encoder(path)
    read, network = made.anchors, made.network
    return Code(stacked, lambda planes: network.finish(planes[..., :read, :read]), **amount)


def make_codes(
    path: Path, paper: Path | None, orders: tuple[int, int], strangers: int, mixtures: int
) -> dict[str, Code]:
    """The encoder and by name what it is compared with.

    Args:
        path: the encoder.
        paper: an encoder of the published architecture, if there is one.
        orders: of a family's anchors, for the encoder on the grid and for what takes most of
            them elsewhere.
        strangers: orders of the unrelated models' anchors.
        mixtures: orders of the anchors in inputs of exact correlation.
    """
    made = load_encoder(path)
    torch.manual_seed(made.metadata["seed"])
    untrained = build_network(made.metadata["config"]["architecture"]).eval()
    few: dict[str, Any] = {"orders": (min(FEW, orders[1]),) * 2}
    every: dict[str, Any] = {"strangers": strangers, "mixtures": mixtures}
    many = every | {"orders": (orders[1], orders[1])}
    codes = {
        "encoder": Code(made.network.prepare, made.network.finish, orders=orders, **every),
        "projection": Code(stacked, OrthogonalProjection(6), linear=True, **many),
        "projection of the added blocks": Code(
            _added, OrthogonalProjection(3), linear=True, mixtures=mixtures, **few
        ),
        "encoder, untrained": Code(untrained.prepare, untrained.finish, mixtures=mixtures, **few),
    }
    for part in ("temper", "bend"):
        network = _without(path, part)
        codes[f"encoder without {part}"] = Code(network.prepare, network.finish, **few)
    codes["mean pooling"] = Code(row_means, mean_pooling, reorder=reorder_rows, **many)
    if paper is not None:
        codes["paper CNN"] = _paper(paper, **few, **every)
    return codes
