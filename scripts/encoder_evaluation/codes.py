"""The codes that are measured: the encoder, and what it is compared with.

A code works in two steps. `prepare` commutes with an order of the anchors and is done once for
a model; `finish` is done for each of its orders.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from huref.encoder import load_encoder
from huref.encoder.batches import permute_anchors
from huref.encoder.network import FingerprintCNN, Network, build_network
from huref.invariants.terms import standardise

LATENT = 512


@dataclass(frozen=True)
class Code:
    """From terms to latents, and how much of the data it is measured on.

    prepare: terms (n, 2, 3, m, m) to (n, channels, m, m). finish: these to latents (n, 512).
    families: on how many of them. orders: of their anchors, on the grid and elsewhere.
    strangers: orders in which it is given the unrelated models; 0 for not at all.
    mixtures: orders in which it is given inputs of exact correlation. linear: the latent of a sum
    is the sum of the latents, so these need not be encoded one by one. reorder: what was prepared,
    put into an order of the anchors.
    """

    prepare: Callable[[Tensor], Tensor]
    finish: Callable[[Tensor], Tensor]
    families: int
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
    of this size would hold 805 million numbers.)
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
        self._left = hadamard[left[:, : LATENT // 4]]
        self._right = hadamard[right[:, :LATENT]].view(channels, LATENT // 4, 4, anchors)

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
        (n, 512), centred. HuRef also divides by the standard deviation, which no cosine feels.
    """
    parts = means.reshape(len(means), LATENT, -1).mean(dim=2)
    return parts - parts.mean(dim=1, keepdim=True)


def _stacked(terms: Tensor) -> Tensor:
    return standardise(terms).flatten(1, 2)


def _added(terms: Tensor) -> Tensor:
    """The blocks added, of unit variance: (n, 3, m, m)."""
    added = standardise(terms).sum(dim=1)
    power = added.square().mean(dim=(1, 2, 3), keepdim=True)
    planes: Tensor = added * power.rsqrt()
    return planes


def _network(
    network: Network, families: int, orders: tuple[int, int], strangers: int = 0, mixtures: int = 0
) -> Code:
    return Code(network.prepare, network.finish, families, orders, strangers, mixtures)


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


def make_codes(
    path: Path, families: int, orders: int, strangers: int, mixtures: int
) -> dict[str, Code]:
    """The encoder on everything, and by name what it is compared with, on a part."""
    some, few, half = (min(10, orders),) * 2, (min(4, orders),) * 2, max(1, families // 2)
    made = load_encoder(path)
    torch.manual_seed(made.metadata["seed"])
    untrained = build_network(made.metadata["config"]["architecture"]).eval()
    stacked, added = OrthogonalProjection(6), OrthogonalProjection(3)
    part = min(4, strangers)
    return {
        "encoder": _network(made.network, families, (orders, some[0]), strangers, mixtures),
        "projection": Code(_stacked, stacked, families, some, part, mixtures, linear=True),
        "projection of the added blocks": Code(
            _added, added, families, few, mixtures=mixtures, linear=True
        ),
        "encoder, untrained": _network(untrained, families, few, mixtures=mixtures),
        "encoder without temper": _network(_without(path, "temper"), half, few),
        "encoder without bend": _network(_without(path, "bend"), half, few),
        "mean pooling": Code(
            row_means, mean_pooling, half, few, mixtures=mixtures, reorder=reorder_rows
        ),
    }


def make_late_codes(paper: Path | None, families: int, mixtures: int) -> dict[str, Code]:
    """The paper's CNN."""
    codes: dict[str, Code] = {}
    if paper is not None:
        made = load_encoder(paper)
        read, finish = made.anchors, made.network.finish

        def finish_first(planes: Tensor) -> Tensor:
            """It reads the first anchors, which orders of all of them put there."""
            return finish(planes[..., :read, :read])

        codes["paper CNN"] = Code(_stacked, finish_first, families, (2, 2), mixtures=mixtures)
    return codes
