"""Drawings for training: one process draws shards, another samples from them.

A shard is one .npy file of uint8 images (images, size, size, 3); its number is the seed of its
latents, so nothing else is stored. The folder's name has the digest of the drawings, so that
shards of another version of the drawing code are never mixed in.
"""

import os
import time
from multiprocessing import get_context
from multiprocessing.process import BaseProcess
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from huref.recipe import LATENT_SIZE
from scripts.decoder.emphasis import emphasis
from scripts.dogs.digest import drawing_digest
from scripts.dogs.draw import ATTRIBUTES, draw, latent_basis

SHARD = 1024  # images
HELD_OUT = 1 << 30  # the number of the shard that is never trained on
HELD_OUT_IMAGES = 256


def attributes_of(number: int, count: int, basis: np.ndarray) -> np.ndarray:
    """Attributes (count, k) float32 of the first drawings of a shard.

    They are projections of latents of norm sqrt(512), as the mapping network normalises latents.
    """
    z = np.random.default_rng(number).standard_normal((count, LATENT_SIZE))
    z *= np.sqrt(LATENT_SIZE) / np.linalg.norm(z, axis=1, keepdims=True)
    attributes: np.ndarray = (z @ basis).astype(np.float32)
    return attributes


def draw_shard(path: Path, number: int, count: int, size: int, basis: np.ndarray) -> None:
    """Draw one shard and write it atomically."""
    images = np.stack([draw(a, size) for a in attributes_of(number, count, basis)])
    temporary = path.with_suffix(f".{os.getpid()}.part")
    with temporary.open("wb") as file:
        np.save(file, images)
    temporary.replace(path)


def draw_forever(folder: Path, size: int, capacity: int, basis_seed: int, niceness: int) -> None:
    """Draw shards until the parent process ends; delete the oldest beyond capacity."""
    os.nice(niceness)
    parent = os.getppid()
    basis = latent_basis(basis_seed)
    number = max((int(p.stem) for p in folder.glob("[0-9]*.npy")), default=-1) + 1
    while os.getppid() == parent:
        draw_shard(folder / f"{number:06d}.npy", number, SHARD, size, basis)
        (folder / f"{number - capacity:06d}.npy").unlink(missing_ok=True)
        number += 1


class Gallery:
    """All drawings made so far, in memory at the resolution in training.

    Args:
        root: folder of the folders of drawings.
        size: pixels on a drawing's side, for resolutions up to this.
        capacity: shards kept.
        basis_seed: seed of the basis from latents to attributes.
        device: of the sampled batches.
        between: additional weight of ears between upright and hanging; see `emphasis`.
    """

    def __init__(
        self,
        root: Path,
        size: int,
        capacity: int,
        basis_seed: int,
        device: torch.device,
        between: float = 0.0,
    ) -> None:
        self.between = between
        self.root, self.usual_size, self.capacity, self.device = root, size, capacity, device
        self.basis_seed, self.basis = basis_seed, latent_basis(basis_seed)
        self.names = tuple(ATTRIBUTES)
        self.resolution = size
        self.loaded = 0  # resolution of the shards in memory
        self.shards: dict[int, tuple[Tensor, Tensor]] = {}  # number -> attributes, images
        self.weights: dict[int, Tensor] = {}  # number -> sampling weights

    @property
    def size(self) -> int:
        """Pixels on a drawing's side: the usual size or, if greater, the resolution in training."""
        return max(self.usual_size, self.resolution)

    @property
    def folder(self) -> Path:
        """The folder of the drawings of this size."""
        path = self.root / f"drawings-{drawing_digest()}-{self.size}"
        path.mkdir(parents=True, exist_ok=True)
        return path

    def start_drawing(self, niceness: int) -> BaseProcess:
        """Start the drawing process, which ends when this process ends."""
        arguments = (self.folder, self.size, self.capacity, self.basis_seed, niceness)
        process = get_context("spawn").Process(target=draw_forever, args=arguments, daemon=True)
        process.start()
        return process

    def read(self, path: Path, number: int) -> tuple[Tensor, Tensor]:
        """Attributes (n, k) and images (n, 3, r, r) uint8 of a shard at the current resolution."""
        images = torch.from_numpy(np.load(path)).permute(0, 3, 1, 2)
        if self.resolution < self.size:
            factor = self.size // self.resolution
            parts = [functional.avg_pool2d(part.float(), factor) for part in images.chunk(8)]
            images = torch.cat(parts).round().to(torch.uint8)
        images = images.contiguous(memory_format=torch.channels_last)
        return torch.from_numpy(attributes_of(number, len(images), self.basis)), images

    def refresh(self) -> int:
        """Read new shards, drop deleted ones, and return their number."""
        present = {int(path.stem): path for path in self.folder.glob("[0-9]*.npy")}
        for number in set(self.shards) - set(present):
            del self.shards[number], self.weights[number]
        for number in sorted(set(present) - set(self.shards)):
            try:
                self.shards[number] = self.read(present[number], number)
            except FileNotFoundError:
                continue  # the drawing process has just deleted it
            attributes = self.shards[number][0].numpy()
            self.weights[number] = torch.from_numpy(emphasis(attributes, self.between))
        return len(self.shards)

    def set_resolution(self, resolution: int, at_least: int) -> None:
        """Switch to a resolution and wait until there are at least so many shards."""
        if resolution != self.loaded:
            self.resolution = self.loaded = resolution
            self.shards.clear()
            self.weights.clear()
        while self.refresh() < at_least:
            time.sleep(2)

    def sample(self, batch: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Sample attributes (batch, k) and colours (batch, 3, r, r) in [-1, 1]."""
        shards = list(self.shards.values())
        weights = torch.cat(list(self.weights.values()))
        places = weights.multinomial(batch, replacement=True, generator=generator)
        which, where = (places // SHARD).tolist(), (places % SHARD).tolist()
        attributes = torch.stack([shards[s][0][i] for s, i in zip(which, where, strict=True)])
        images = torch.stack([shards[s][1][i] for s, i in zip(which, where, strict=True)])
        return attributes.to(self.device), to_colours(images.to(self.device))

    def held_out(self) -> tuple[Tensor, Tensor]:
        """Attributes and colours of the 256 drawings that are never trained on."""
        path = self.folder / "held-out.npy"
        if not path.exists():
            draw_shard(path, HELD_OUT, HELD_OUT_IMAGES, self.size, self.basis)
        attributes, images = self.read(path, HELD_OUT)
        return attributes.to(self.device), to_colours(images.to(self.device))


def to_colours(images: Tensor) -> Tensor:
    """The inverse of `huref.decoder.render.to_bytes`, up to rounding."""
    return (images.float() - 127.5) / 127.5
