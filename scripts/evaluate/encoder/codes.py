"""The codes that are compared: the encoder and other maps from terms to latents.

A code has two steps. `prepare` commutes with permutations of the anchors and is computed once per
model; `finish` is computed for each order of the anchors.
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

FEW = 4  # orders of the anchors for codes that are expensive or less important


@dataclass(frozen=True)
class Code:
    """A map from terms to latents, and the amount of data that it is measured on.

    Attributes:
        prepare: maps terms (n, 2, 3, m, m) to (n, channels, m, m).
        finish: maps these to latents (n, 512).
        orders: numbers of orders of a family's anchors, at correlated weights and elsewhere.
        strangers: orders of the anchors of unrelated models; 0: they are not encoded.
        mixtures: orders of the anchors of inputs of exact correlation.
        linear: the latent of a sum is the sum of latents, so sums need not be encoded.
        reorder: permutes the anchors of a prepared model.
    """

    prepare: Callable[[Tensor], Tensor]
    finish: Callable[[Tensor], Tensor]
    orders: tuple[int, int]
    strangers: int = 0
    mixtures: int = 0
    linear: bool = False
    reorder: Callable[[Tensor, Tensor], Tensor] = permute_anchors

    def __call__(self, terms: Tensor) -> Tensor:
        """Map terms (n, 2, 3, m, m) to latents (n, 512)."""
        return self.finish(self.prepare(terms))


class OrthogonalProjection:
    """A random projection with orthonormal rows of `channels` planes (m, m) to 512 numbers.

    The sign of each entry is flipped at random. Every latent number is a bilinear form with a
    random row of a Hadamard matrix on each side, summed over the planes; no pair of rows is used
    twice. (A dense matrix would hold 805 million numbers.) m is a power of two, at least 128.
    """

    def __init__(self, channels: int, anchors: int = 512, seed: int = 0) -> None:
        generator = torch.Generator().manual_seed(seed)
        hadamard = torch.ones(1, 1)
        while len(hadamard) < anchors:
            hadamard = torch.kron(hadamard, torch.tensor([[1.0, 1.0], [1.0, -1.0]]))
        hadamard /= math.sqrt(anchors)
        size = (channels, anchors, anchors)
        self._signs = torch.randint(0, 2, size, generator=generator) * 2.0 - 1
        # Each left row is used for four numbers, which saves three quarters of the work.
        left, right = (
            torch.stack([torch.randperm(anchors, generator=generator) for _ in range(channels)])
            for _ in range(2)
        )
        self._left = hadamard[left[:, : LATENT_SIZE // 4]]
        right = right.repeat(1, -(-LATENT_SIZE // anchors))[:, :LATENT_SIZE]
        self._right = hadamard[right].view(channels, LATENT_SIZE // 4, 4, anchors)

    def __call__(self, planes: Tensor) -> Tensor:
        """Map planes (n, channels, m, m) of unit variance to latents (n, 512)."""
        rows = self._left @ (planes * self._signs)
        latents = torch.einsum("nclm,clkm->nlk", rows, self._right).flatten(1)
        return latents / math.sqrt(planes.shape[1])


def row_means(terms: Tensor) -> Tensor:
    """Means (n, 6, m, 1) of the rows of terms (n, 2, 3, m, m)."""
    return terms.flatten(1, 2).mean(dim=-1, keepdim=True)


def reorder_rows(means: Tensor, order: Tensor) -> Tensor:
    """Permute the anchors of rows (..., m, any)."""
    return means[..., order, :]


def mean_pooling(means: Tensor) -> Tensor:
    """HuRef's other feature: the means of 512 equal parts of the flattened terms.

    It is not linear in practice: rows of whitened terms sum to zero, so their means are rounding
    errors.

    Args:
        means: means of the rows, (n, 6, m, 1); a part consists of whole rows.

    Returns:
        (n, 512), standardised.
    """
    parts = means.reshape(len(means), LATENT_SIZE, -1).mean(dim=2)
    parts = parts - parts.mean(dim=1, keepdim=True)
    latents: Tensor = parts / parts.square().mean(dim=1, keepdim=True).sqrt()
    return latents


def stacked(terms: Tensor) -> Tensor:
    """Standardise terms (n, 2, 3, m, m) and return them as planes (n, 6, m, m)."""
    return standardise(terms).flatten(1, 2)


def _added(terms: Tensor) -> Tensor:
    """The sum of both blocks, scaled to unit variance: (n, 3, m, m)."""
    added = standardise(terms).sum(dim=1)
    power = added.square().mean(dim=(1, 2, 3), keepdim=True)
    planes: Tensor = added * power.rsqrt()
    return planes


def _without(path: Path, part: str) -> FingerprintCNN:
    """The encoder without its layers of one kind."""
    network = load_encoder(path).network
    if not isinstance(network, FingerprintCNN):
        raise SystemExit(f"{path}: not the architecture of the shipped encoder")
    for name, module in list(network.named_modules()):
        if type(module).__name__.lower() == part:
            parent, _, leaf = name.rpartition(".")
            setattr(network.get_submodule(parent), leaf, nn.Identity())
    return network


def _paper(path: Path, **amount: Any) -> Code:
    """The published CNN, which reads the first anchors of each order."""
    made = load_encoder(path)
    read, network = made.anchors, made.network
    return Code(stacked, lambda planes: network.finish(planes[..., :read, :read]), **amount)


def make_codes(
    path: Path, paper: Path | None, orders: tuple[int, int], strangers: int, mixtures: int
) -> dict[str, Code]:
    """The encoder and the codes that it is compared with, by name.

    Args:
        path: file of the encoder.
        paper: file of an encoder of the published architecture, or None.
        orders: orders of a family's anchors: for the encoder at correlated weights, and for the
            other points and codes.
        strangers: orders of the anchors of unrelated models.
        mixtures: orders of the anchors of inputs of exact correlation.
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
