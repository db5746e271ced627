"""The files in which StyleGAN2 generators are handed around, as named tensors.

Three containers: NVIDIA's pickles, torch's files (rosinality's and lucidrains' checkpoints among
them), and safetensors. What the tensors mean is for `huref.decoder.dialects` to say.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from huref.decoder.persistence import TRAININGS, Module, read_network
from huref.errors import CheckpointError
from huref.loader.formats import safetensors, torch_legacy, torch_zip
from huref.loader.formats.pickled_tensors import TensorView
from huref.loader.formats.torch_index import locate
from huref.loader.ranges import ByteSource, LocalFile, Meter
from huref.loader.tensors import StoredTensor, view_as

LARGEST_FILE = 4 << 30  # bytes; NVIDIA's 1024 px pickles, with discriminator, have 380 MB
LARGEST_NETWORK = 1 << 30  # bytes in float32; a 1024 px generator has 120 MB
NETWORKS = ("g_ema", "G_ema", "GAN", "state_dict", "generator")  # where a torch file keeps it


@dataclass
class Source:
    """Tensors by name in a file, not read yet.

    Attributes:
        entries: where they lie.
        modules: NVIDIA's modules by name with their attributes; empty for other files.
        metadata: the strings of a safetensors file.
    """

    source: ByteSource
    entries: dict[str, StoredTensor]
    modules: dict[str, Module] = field(default_factory=dict)
    metadata: dict[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The file's name."""
        return self.source.name

    def read(self, names: Iterable[str]) -> dict[str, Tensor]:
        """Some tensors as contiguous float32, in their stored shapes.

        Raises:
            CheckpointError: one is missing, or together they are larger than a generator.
        """
        wanted = list(names)
        missing = [name for name in wanted if name not in self.entries]
        if missing:
            raise CheckpointError(
                f"{self.name}: the tensor '{missing[0]}' is missing; download the file again"
            )
        size = 4 * sum(math.prod(self.entries[name].shape) for name in wanted)
        if size > LARGEST_NETWORK:
            raise CheckpointError(f"{self.name}: {size:,} bytes of tensors; no generator has that")
        return {name: self._read_one(self.entries[name]) for name in wanted}

    def _read_one(self, entry: StoredTensor) -> Tensor:
        data = self.source.read(entry.start, entry.stop)
        if entry.stride is None:
            tensor = view_as(data, entry.dtype, entry.shape)
        else:
            flat = view_as(data, entry.dtype, (len(data) // entry.dtype.itemsize,))
            tensor = torch.as_strided(flat, entry.shape, entry.stride)
        return tensor.to(torch.float32).contiguous()


def open_source(path: Path) -> Source:
    """Index a file by its header or pickle; nothing in it is executed.

    Raises:
        CheckpointError: it is none of the known containers, or contradicts itself.
    """
    if not path.is_file():
        raise CheckpointError(f"{path}: there is no such file")
    source = LocalFile(path, path.name, Meter())
    if not 32 <= source.size <= LARGEST_FILE:
        raise CheckpointError(
            f"{path}: a file of {source.size:,} bytes is no generator; download it again"
        )
    head = source.read(0, 32)
    if path.suffix == ".safetensors":
        from huref.assets import read_metadata

        return Source(source, safetensors.read_header(source), {}, read_metadata(path))
    if head[:4] == torch_zip.MAGIC:
        return _from_torch(source, *torch_zip.read_contents(source, TRAININGS))
    if torch_legacy.is_legacy(head):
        return _from_torch(source, *torch_legacy.read_contents(source, TRAININGS))
    if head[:1] == b"\x80":
        network = read_network(path)
        entries = locate(network.tensors, network.places, source.name)
        return Source(source, entries, network.modules)
    raise CheckpointError(
        f"{path}: neither a pickle of NVIDIA's, nor a torch file, nor safetensors"
    )


def _from_torch(source: ByteSource, value: Any, places: dict[str, tuple[int, int]]) -> Source:
    """The generator of a torch file: under one of the usual keys, or the file as a whole."""
    if not isinstance(value, dict):
        raise CheckpointError(
            f"{source.name}: it holds no tensors by name; save the generator's state dict"
        )
    root = next((value[key] for key in NETWORKS if isinstance(value.get(key), dict)), value)
    tensors = {str(k): v for k, v in root.items() if isinstance(v, TensorView)}
    if isinstance(value.get("latent_avg"), TensorView):
        tensors["latent_avg"] = value["latent_avg"]
    return Source(source, locate(tensors, places, source.name))
