"""Encoder checkpoints: safetensors in half precision, with metadata on how they were made."""

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from huref.bounded_json import loads
from huref.encoder.network import BLOCKS, TERMS, Network, build_network
from huref.errors import CheckpointDigestError, locating
from huref.files import replacing

FORMAT = "huref encoder 1"


class Encoder:
    """A trained network with its digest and metadata.

    Attributes:
        digest: sha256 over the stored tensors and the architecture; part of every recipe.
        metadata: config, seed, steps, command, digest and other values of the file.
    """

    def __init__(self, network: Network, digest: str, metadata: dict[str, Any]) -> None:
        self.network = network.eval()
        self.digest = digest
        self.metadata = metadata

    @property
    def anchors(self) -> int:
        """m, the number of rows and columns of its input."""
        return int(self.metadata["config"]["architecture"].get("anchors", 512))

    @torch.no_grad()
    def encode(self, terms: Tensor) -> Tensor:
        """Map terms to latents.

        Args:
            terms: (..., 2, 3, m, m), not standardised. Rows and columns of empty anchor buckets
                are zero.

        Returns:
            (..., 512) float32.

        Raises:
            ValueError: the terms have another shape.
        """
        expected = (BLOCKS, TERMS, self.anchors, self.anchors)
        if terms.shape[-4:] != expected:
            raise ValueError(
                f"terms of shape {tuple(terms.shape)}; the encoder reads (..., {expected})"
            )
        leading = terms.shape[:-4]
        latents: Tensor = self.network(terms.float().reshape(-1, *expected))
        return latents.reshape(*leading, -1)


def digest_of(tensors: dict[str, Tensor], architecture: dict[str, Any]) -> str:
    """sha256 over name, dtype, shape and bytes of every tensor, and over the architecture."""
    hasher = hashlib.sha256(json.dumps([FORMAT, architecture], sort_keys=True).encode())
    for name in sorted(tensors):
        tensor = tensors[name].contiguous()
        hasher.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        hasher.update(tensor.numpy().tobytes())
    return hasher.hexdigest()


def save_encoder(network: Network, path: Path, metadata: dict[str, Any]) -> Encoder:
    """Write a network in half precision, and load it again.

    Args:
        network: a trained network.
        path: where to write; the file is written completely or not at all.
        metadata: JSON values, of which "config" is required.
    """
    state = network.state_dict()
    tensors = {
        name: (t.half() if t.is_floating_point() else t).cpu().contiguous()
        for name, t in state.items()
    }
    digest = digest_of(tensors, metadata["config"]["architecture"])
    # One string, because safetensors writes several in random order.
    strings = {"encoder": json.dumps(metadata | {"format": FORMAT, "digest": digest})}
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        save_file(tensors, temporary, metadata=strings)
    return load_encoder(path)


def load_encoder(path: str | Path) -> Encoder:
    """Load an encoder and check its digest.

    Raises:
        CheckpointDigestError: the file is missing, is not an encoder, or was altered.
    """
    with locating(file=path):
        return _load_encoder(path)


def _load_encoder(path: str | Path) -> Encoder:
    advice = "restore the file from the release, or make one with: huref train-encoder"
    try:
        with safe_open(path, framework="pt") as file:
            strings = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise CheckpointDigestError(f"not a readable encoder ({error})", advice=advice) from error
    try:
        metadata = loads(strings["encoder"], constants=True)
        if metadata["format"] != FORMAT:
            raise KeyError(FORMAT)
        architecture, stated = metadata["config"]["architecture"], metadata["digest"]
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointDigestError("not an encoder of huref", advice=advice) from error
    digest = digest_of(tensors, architecture)
    if digest != stated:
        raise CheckpointDigestError("it was altered: its digest differs", advice=advice)
    with torch.device("meta"):  # saves the initialisation
        network = build_network(architecture)
    try:
        network.load_state_dict(
            {n: t.float() if t.is_floating_point() else t for n, t in tensors.items()}, assign=True
        )
    except RuntimeError as error:
        raise CheckpointDigestError(
            "its tensors do not fit its architecture", advice=advice
        ) from error
    return Encoder(network, digest, metadata)
