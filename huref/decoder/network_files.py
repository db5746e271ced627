"""Files of StyleGAN2 generators, indexed as named tensors.

Containers: NVIDIA's pickles, torch files (as rosinality and lucidrains write) and safetensors.
`huref.decoder.dialects` interprets the tensors' names.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from huref.decoder.nvidia_pickles import TRAININGS, ModuleDescription, read_network
from huref.errors import CheckpointError
from huref.loader.formats import safetensors, torch_legacy, torch_zip
from huref.loader.formats.pickled_tensors import TensorView
from huref.loader.formats.torch_index import Place, locate
from huref.loader.ranges import ByteSource, LocalFile, Meter
from huref.loader.tensors import StoredTensor, view_as

LARGEST_FILE = 4 << 30  # bytes; NVIDIA's pickles of 1024 px, with discriminator, are 380 MB
LARGEST_NETWORK = 1 << 30  # bytes in float32; a generator of 1024 px takes 120 MB
GENERATOR_KEYS = ("g_ema", "G_ema", "GAN", "state_dict", "generator")  # in torch files
REPEAT = "download the file again"


@dataclass
class NetworkFile:
    """An opened file of a generator, whose tensors are read on demand.

    Attributes:
        data: the bytes of the file.
        entries: dtype, shape and byte range of each tensor, by name.
        modules: NVIDIA's modules with their attributes, by name; empty for other files.
    """

    data: ByteSource
    entries: dict[str, StoredTensor]
    modules: dict[str, ModuleDescription] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The file's name."""
        return self.data.name

    def read(self, names: Iterable[str]) -> dict[str, Tensor]:
        """Some tensors as contiguous float32, in their stored shapes.

        Raises:
            CheckpointError: one is missing, or together they are larger than any generator.
        """
        selected = list(names)
        for name in selected:
            if name not in self.entries:
                raise CheckpointError("it is missing", file=self.name, tensor=name, advice=REPEAT)
        size = 4 * sum(math.prod(self.entries[name].shape) for name in selected)
        if size > LARGEST_NETWORK:
            raise CheckpointError(
                f"its tensors take {size:,} bytes, more than any generator", file=self.name
            )
        return {name: self._read_one(self.entries[name]) for name in selected}

    def _read_one(self, entry: StoredTensor) -> Tensor:
        if entry.header is not None:
            head = self.data.read(entry.header[0], entry.header[0] + torch_zip.LOCAL_HEADER)
            torch_zip.require_header(head, entry.header, self.name)
        data = self.data.read(entry.start, entry.stop)
        if entry.stride is None:
            tensor = view_as(data, entry.dtype, entry.shape)
        else:
            flat = view_as(data, entry.dtype, (len(data) // entry.dtype.itemsize,))
            tensor = torch.as_strided(flat, entry.shape, entry.stride)
        return tensor.to(torch.float32).contiguous()


def open_network(path: Path) -> NetworkFile:
    """Index a file by its header or pickle; nothing in it is executed.

    Raises:
        CheckpointError: it is none of the known containers, or is damaged.
    """
    if not path.is_file():
        raise CheckpointError("there is no such file", file=path)
    source = LocalFile(path, path.name, Meter())
    if not 32 <= source.size <= LARGEST_FILE:
        raise CheckpointError(
            f"a file of {source.size:,} bytes cannot be a generator", file=path, advice=REPEAT
        )
    head = source.read(0, 32)
    if path.suffix == ".safetensors":
        return NetworkFile(source, safetensors.read_header(source))
    if head[:4] == torch_zip.MAGIC:
        return _from_torch(source, *torch_zip.read_contents(source, TRAININGS))
    if torch_legacy.is_legacy(head):
        return _from_torch(source, *torch_legacy.read_contents(source, TRAININGS))
    if head[:1] == b"\x80":
        network = read_network(path)
        entries = locate(network.tensors, network.places, source.name)
        return NetworkFile(source, entries, network.modules)
    raise CheckpointError(
        "it is neither one of NVIDIA's pickles, nor a torch file, nor safetensors", file=path
    )


def _from_torch(source: ByteSource, value: Any, places: dict[str, Place]) -> NetworkFile:
    """The generator of a torch file: under one of GENERATOR_KEYS, or the whole file."""
    if not isinstance(value, dict):
        raise CheckpointError(
            "it holds no named tensors", file=source.name, advice="save the generator's state dict"
        )
    root = next((value[key] for key in GENERATOR_KEYS if isinstance(value.get(key), dict)), value)
    tensors = {str(k): v for k, v in root.items() if isinstance(v, TensorView)}
    if isinstance(value.get("latent_avg"), TensorView):
        tensors["latent_avg"] = value["latent_avg"]
    return NetworkFile(source, locate(tensors, places, source.name))
