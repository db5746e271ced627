"""Decoders: a StyleGAN2 generator with its settings and digest, loaded, saved and rendered.

A decoder file is safetensors: the generator's tensors with NVIDIA's names, float16 for the shipped
decoder and float32 for imported ones, and metadata strings, "format" and "digest" as plain text
and every other value as JSON.
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

from huref.bounded_json import loads
from huref.decoder.lucidrains_generator import SmoothGenerator
from huref.decoder.stylegan2 import Generator
from huref.errors import CheckpointDigestError, locating
from huref.files import replacing

FORMAT = "huref decoder 1"
LARGEST_FILE = 1 << 30  # bytes; the published networks of 1024 px are 120 MB
ADVICE = "restore the file from the release, or name another decoder with --decoder"
ARCHITECTURES: dict[str, type[Generator]] = {
    "stylegan2": Generator,
    "stylegan2-pytorch": SmoothGenerator,
}


@dataclass(frozen=True)
class Decoder:
    """A generator with the settings that rendering needs.

    Attributes:
        generator: float32, in evaluation mode.
        digest: sha256 over the stored tensors and all metadata; part of every recipe.
        metadata: name, licence, psi, cutoff, lr_mul, clamp, digest, and how it was made;
            architecture, a key of ARCHITECTURES, if it is not "stylegan2".
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
        """Render latents (n, z_dim) as images (n, r, r, 3) uint8; z_dim is 512 for fingerprints.

        Images are rendered one at a time, so that an image does not depend on the batch.

        Raises:
            ValueError: the latents have another shape, or are not finite.
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
    """Convert colours (n, 3, h, w), black at -1 and white at 1, to uint8 (n, h, w, 3)."""
    return (colours * 127.5 + 128).clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous()


def digest_of(tensors: dict[str, Tensor], metadata: dict[str, Any]) -> str:
    """sha256 over all metadata and over name, dtype, shape and bytes of every tensor."""
    hasher = hashlib.sha256(json.dumps([FORMAT, metadata], sort_keys=True).encode())
    for name in sorted(tensors):
        tensor = tensors[name].contiguous()
        hasher.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        hasher.update(tensor.numpy().tobytes())
    return hasher.hexdigest()


def save_decoder(
    path: Path,
    state: dict[str, Tensor],
    metadata: dict[str, Any],
    dtype: torch.dtype = torch.float16,
) -> Decoder:
    """Write a decoder file, all at once or not at all, and load it.

    Args:
        path: where to write.
        state: the generator's tensors.
        metadata: JSON values; psi, cutoff, lr_mul and clamp are required.
        dtype: the type in which tensors are stored.
    """
    metadata = json.loads(json.dumps(metadata))  # as it will be loaded: keys become strings
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
        CheckpointDigestError: it is missing, too large, not a decoder, or altered.
    """
    path = Path(path)
    with locating(file=path):
        return _load_decoder(path)


def _load_decoder(path: Path) -> Decoder:
    try:
        if path.stat().st_size > LARGEST_FILE:
            raise CheckpointDigestError("it is too large for a decoder", advice=ADVICE)
        with safe_open(path, framework="pt") as file:
            strings = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise CheckpointDigestError(f"not a readable decoder ({error})", advice=ADVICE) from error
    metadata = parse_metadata(strings, path)
    digest = digest_of(tensors, metadata)
    if digest != strings.get("digest"):
        raise CheckpointDigestError("it was altered: its digest differs", advice=ADVICE)
    generator = _build_generator(tensors, metadata)
    return Decoder(generator, digest, metadata | {"digest": digest})


def _build_generator(tensors: dict[str, Tensor], metadata: dict[str, Any]) -> Generator:
    """The generator of a decoder file. Raises CheckpointDigestError on values it cannot have."""
    lr_mul, psi, cutoff, clamp = (metadata.get(k) for k in ("lr_mul", "psi", "cutoff", "clamp"))
    if not (_is_number(lr_mul) and _is_number(psi)):
        raise CheckpointDigestError("lr_mul and psi must be finite numbers", advice=ADVICE)
    if not (cutoff is None or isinstance(cutoff, int)) or not (clamp is None or _is_number(clamp)):
        raise CheckpointDigestError("cutoff and clamp must be null or numbers", advice=ADVICE)
    for name, value in tensors.items():
        if not bool(value.isfinite().all()):
            raise CheckpointDigestError(
                "it holds NaN or infinite values", tensor=name, advice=ADVICE
            )
    architecture = metadata.get("architecture", "stylegan2")
    if not isinstance(architecture, str) or architecture not in ARCHITECTURES:
        raise CheckpointDigestError(
            f"its architecture {architecture!r} is unknown", advice="update huref"
        )
    try:
        return ARCHITECTURES[architecture].from_state(tensors, lr_mul=lr_mul, clamp=clamp)
    except CheckpointDigestError as error:
        error.advice = ADVICE
        raise


def parse_metadata(strings: dict[str, str], path: Path) -> dict[str, Any]:
    """The values in a decoder file's metadata strings, without format and digest.

    Raises:
        CheckpointDigestError: they are not those of a decoder.
    """
    if strings.get("format") != FORMAT:
        raise CheckpointDigestError("not a decoder of huref", file=path, advice=ADVICE)
    try:
        return {
            k: loads(v, constants=True) for k, v in strings.items() if k not in ("format", "digest")
        }
    except ValueError as error:
        raise CheckpointDigestError("its metadata is not JSON", file=path, advice=ADVICE) from error


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and math.isfinite(value)
