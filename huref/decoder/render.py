"""Decoder files: a StyleGAN2 generator, what its arithmetic needs besides tensors, its digest.

One safetensors file holds the generator's tensors in NVIDIA's layout, float16 for those that ship
with huref and float32 for imported ones, and metadata strings: "format" and "digest" plain, every
other value as JSON.
"""

import hashlib
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from huref.decoder.lucidrains import SmoothGenerator
from huref.decoder.stylegan2 import Generator
from huref.errors import CheckpointDigestError
from huref.files import replacing

FORMAT = "huref decoder 1"
LARGEST_FILE = 1 << 30  # bytes; the published 1024 px networks are 120 MB
ADVICE = "restore the file from the release, or name another with --decoder"
ARCHITECTURES: dict[str, type[Generator]] = {
    "stylegan2": Generator,
    "stylegan2-pytorch": SmoothGenerator,
}


@dataclass(frozen=True)
class Decoder:
    """A generator ready to render.

    Attributes:
        generator: float32, in evaluation mode.
        digest: sha256 over the tensors as stored and all metadata; part of every recipe.
        metadata: name, licence, psi, cutoff, lr_mul, clamp, digest, and how it was made;
            architecture, a key of ARCHITECTURES, where it is not "stylegan2".
    """

    generator: Generator
    digest: str
    metadata: dict[str, Any]

    @property
    def resolution(self) -> int:
        """Height and width of the pictures, in pixels."""
        return self.generator.resolution

    @torch.inference_mode()
    def render(self, z: Tensor) -> NDArray[np.uint8]:
        """Render latents (n, z_dim), z_dim 512 for huref's own, as images (n, r, r, 3) uint8.

        Images are made one at a time, so that a dog does not depend on the company it is in.

        Raises:
            ValueError: another shape, or values that are not finite.
        """
        z = z.detach().to("cpu", torch.float32)
        if z.ndim != 2 or z.shape[1] != self.generator.z_dim or not bool(z.isfinite().all()):
            raise ValueError(
                f"latents must be finite, (n, {self.generator.z_dim}); got {tuple(z.shape)}"
            )
        images = np.empty((len(z), self.resolution, self.resolution, 3), np.uint8)
        for image, latent in zip(images, z, strict=True):
            colours = self.generator(latent[None], self.metadata["psi"], self.metadata["cutoff"])
            image[:] = to_bytes(colours)[0].numpy()
        return images


def to_bytes(colours: Tensor) -> Tensor:
    """Turn colours (n, 3, h, w), black at -1 and white at 1, into uint8 (n, h, w, 3)."""
    return (colours * 127.5 + 128).clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous()


def digest_of(tensors: dict[str, Tensor], metadata: dict[str, Any]) -> str:
    """sha256 over all metadata and over name, dtype, shape and bytes of every tensor."""
    total = hashlib.sha256(json.dumps([FORMAT, metadata], sort_keys=True).encode())
    for name in sorted(tensors):
        tensor = tensors[name].contiguous()
        total.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        total.update(tensor.numpy().tobytes())
    return total.hexdigest()


def save_decoder(
    path: Path,
    state: dict[str, Tensor],
    metadata: dict[str, Any],
    dtype: torch.dtype = torch.float16,
) -> Decoder:
    """Write a generator's tensors, as float16 unless told otherwise; return what will be read.

    metadata must name psi, cutoff, lr_mul and clamp; the file appears whole or not at all.
    """
    metadata = json.loads(json.dumps(metadata))  # as it will be read: keys are strings
    tensors = {name: value.detach().cpu().to(dtype).contiguous() for name, value in state.items()}
    strings = {key: json.dumps(value, sort_keys=True) for key, value in metadata.items()}
    strings |= {"format": FORMAT, "digest": digest_of(tensors, metadata)}
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        save_file(tensors, temporary, metadata=strings)
    return load_decoder(path)


def load_decoder(path: str | Path) -> Decoder:
    """Read a decoder file and check it against its own digest.

    Raises:
        CheckpointDigestError: missing, too large, not a decoder, or altered since it was made.
    """
    path, advice = Path(path), ADVICE
    try:
        if path.stat().st_size > LARGEST_FILE:
            raise CheckpointDigestError(f"{path}: too large for a decoder; {advice}")
        with safe_open(path, framework="pt") as file:
            strings = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise CheckpointDigestError(
            f"{path}: not a readable decoder ({error}); {advice}"
        ) from error
    metadata = parse_metadata(strings, path)
    digest = digest_of(tensors, metadata)
    if digest != strings.get("digest"):
        raise CheckpointDigestError(f"{path}: altered since it was made; {advice}")
    lr_mul, psi, cutoff, clamp = (metadata.get(k) for k in ("lr_mul", "psi", "cutoff", "clamp"))
    if not (_is_number(lr_mul) and _is_number(psi)):
        raise CheckpointDigestError(f"{path}: lr_mul and psi must be finite numbers; {advice}")
    if not (cutoff is None or isinstance(cutoff, int)) or not (clamp is None or _is_number(clamp)):
        raise CheckpointDigestError(f"{path}: cutoff or clamp is neither null nor a number")
    if not all(bool(value.isfinite().all()) for value in tensors.values()):
        raise CheckpointDigestError(f"{path}: NaN or infinite weights; {advice}")
    architecture = metadata.get("architecture", "stylegan2")
    if not isinstance(architecture, str) or architecture not in ARCHITECTURES:
        raise CheckpointDigestError(f"{path}: an architecture of a newer huref; update huref")
    try:
        generator = ARCHITECTURES[architecture].from_state(tensors, lr_mul=lr_mul, clamp=clamp)
    except CheckpointDigestError as error:
        raise CheckpointDigestError(f"{path}: {error}; {advice}") from error
    return Decoder(generator, digest, metadata | {"digest": digest})


def parse_metadata(strings: dict[str, str], path: Path) -> dict[str, Any]:
    """Values from a decoder file's metadata strings, without format and digest.

    Raises:
        CheckpointDigestError: they are not those of a decoder.
    """
    if strings.get("format") != FORMAT:
        raise CheckpointDigestError(f"{path}: not a decoder of huref; {ADVICE}")
    try:
        return {k: json.loads(v) for k, v in strings.items() if k not in ("format", "digest")}
    except ValueError as error:
        raise CheckpointDigestError(f"{path}: its metadata cannot be read; {ADVICE}") from error


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and math.isfinite(value)
