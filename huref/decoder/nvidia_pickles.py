"""NVIDIA's network pickles (stylegan2-ada-pytorch, stylegan3), read without executing them.

Such a file is a pickle of G, D and G_ema. Each module is pickled as a call of
`torch_utils.persistence._reconstruct_persistent_obj` with the module's source code and attributes.
NVIDIA's own loader executes the source code. Here it is ignored: the call becomes a
`ModuleDescription`, and each tensor, a nested torch file inside the pickle, becomes a dtype, a
shape and a byte range.
"""

import mmap
import struct
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from huref.budget import Budget
from huref.errors import CheckpointError
from huref.loader.formats import torch_legacy
from huref.loader.formats.pickle_machine import OPERATIONS, EndOfPickleError, Machine, Operations
from huref.loader.formats.pickled_tensors import (
    BUILDERS,
    Builders,
    Name,
    Storage,
    TensorView,
    sequence,
)
from huref.loader.formats.torch_index import MAX_PICKLE, Place
from huref.loader.formats.unpickle import Allowlist, unpickle

MAX_MEMBERS = 50_000  # parameters, buffers and modules together; a generator has about 400
MAX_MODULES = 5_000  # a generator of 1024 px has about sixty
MAX_DEPTH = 16  # of nested modules; a generator has five: itself, synthesis, block, layer, affine
TENSORFLOW = b"dnnlib.tflib"  # the module of the first object in a pickle of the TensorFlow version
HEAD = 4096  # bytes in which that name is looked for
CONVERT = "convert files of the TensorFlow version with NVIDIA's legacy.py first"
LENGTH = struct.Struct("<q")  # number of elements; precedes a storage's bytes


@dataclass(frozen=True)
class Blob:
    """A run of bytes in the pickle: [start, stop)."""

    start: int
    stop: int


@dataclass(frozen=True)
class ModuleDescription:
    """A module as its pickle describes it: the name of its class, and its attributes."""

    kind: str
    state: dict[Any, Any]


@dataclass(frozen=True)
class Ignored:
    """Placeholder for an object that is not needed, such as a NumPy scalar."""


IGNORED = Ignored()
CONSTRUCTOR = Name("torch_utils.persistence", "_reconstruct_persistent_obj")
NESTED = Name("torch.storage", "_load_from_bytes")
EASY_DICT = Name("dnnlib.util", "EasyDict")
OPTIONS = Name("argparse", "Namespace")
DICTS = (EASY_DICT, OPTIONS)
SETS = (Name("builtins", "set"), Name("__builtin__", "set"))
UNUSED = (
    Name("numpy", "dtype"),
    Name("numpy.core.multiarray", "scalar"),
    Name("numpy._core.multiarray", "scalar"),
)


def describe_module(meta: Any = None, *rest: Any) -> ModuleDescription:
    """The result of a call of CONSTRUCTOR. Raises ValueError on unknown arguments."""
    if rest or not isinstance(meta, dict) or meta.get("type") != "class":
        raise ValueError("a module in an unknown form")
    state, kind = meta.get("state"), meta.get("class_name")
    if not isinstance(state, dict) or not isinstance(kind, str):
        raise ValueError("a module without attributes or class")
    return ModuleDescription(kind, state)


def _push_blob(machine: Machine, length: int) -> None:
    start = machine.position
    if start + length > len(machine.data):
        raise EndOfPickleError
    machine.position += length
    machine.stack.append(Blob(start, start + length))


def make_dict(machine: Machine) -> None:
    """The opcode NEWOBJ: an empty dict for the classes in DICTS, ValueError for others."""
    arguments, kind = machine.stack.pop(), machine.stack.pop()
    if kind not in DICTS or arguments != ():
        raise ValueError("it makes an object")
    machine.stack.append({})


def _build(machine: Machine) -> None:
    if len(machine.stack) > 1 and machine.stack[-2] is IGNORED:
        machine.stack.pop()
    else:
        machine.build()


def _operations() -> Operations:
    changed: Operations = {
        b"C": lambda m: _push_blob(m, m.unpack("<B")),
        b"B": lambda m: _push_blob(m, m.unpack("<I")),
        b"\x8e": lambda m: _push_blob(m, m.unpack("<Q")),
        b"\x81": make_dict,
        b"b": _build,
        b"\x8f": lambda m: m.stack.append([]),  # EMPTY_SET, as a list
        b"\x90": lambda m: m.extend(m.since_mark()),
    }
    # Without BINPERSID: storages are in nested files, so the outer pickle refers to none.
    kept = {code: operation for code, operation in OPERATIONS.items() if code != b"Q"}
    return {**kept, **changed}


PICKLE_OPERATIONS = _operations()
# Torch files of whole trainings also hold the options of the command line, which are dropped.
TRAININGS = Allowlist({**BUILDERS, OPTIONS: lambda: {}}, {**OPERATIONS, b"\x81": make_dict})


@dataclass
class NetworkPickle:
    """State of reading one pickle: its bytes, and the byte ranges of storages found so far."""

    data: mmap.mmap
    file: str
    budget: Budget
    places: dict[str, Place] = field(default_factory=dict)
    _storages: dict[Blob, Storage] = field(default_factory=dict)

    def allowed(self) -> Allowlist:
        """The calls that this pickle may contain; each only builds a description."""
        builders: Builders = {
            **BUILDERS,
            **{name: lambda items=(): list(sequence(items)) for name in SETS},
            EASY_DICT: lambda: {},
            **{name: lambda *_: IGNORED for name in UNUSED},
            CONSTRUCTOR: describe_module,
            NESTED: self.nested_storage,
        }
        return Allowlist(builders, PICKLE_OPERATIONS)

    def nested_storage(self, blob: Any = None, *rest: Any) -> Storage:
        """The only storage of a torch file inside the pickle; its elements are not read.

        Raises:
            ValueError: the bytes are not such a file, or hold more than a storage.
        """
        if rest or not isinstance(blob, Blob):
            raise ValueError("a nested file that is not bytes")
        if blob not in self._storages:  # a blob that the memo repeats is parsed once
            self._storages[blob] = self._parse(blob)
        return self._storages[blob]

    def _parse(self, blob: Blob) -> Storage:
        values, position = [], blob.start
        try:
            for _ in range(5):
                value, position = unpickle(self.data, self.file, position, budget=self.budget)
                values.append(value)
        except EndOfPickleError as error:
            raise ValueError("a truncated nested file") from error
        magic, version, system, storage, keys = values
        if magic != torch_legacy.MAGIC or version != 1001 or not isinstance(system, dict):
            raise ValueError("a nested file that is not from torch")
        if not isinstance(storage, Storage) or keys != [storage.key] or storage.dtype is None:
            raise ValueError("a nested file that holds more than a storage")
        start = position + LENGTH.size
        stop = start + storage.count * storage.dtype.itemsize
        if stop > blob.stop or LENGTH.unpack(self.data[position:start])[0] != storage.count:
            raise ValueError("a nested file of another size than its storage")
        if system.get("little_endian") is False:
            raise ValueError("a nested file from a big-endian machine")
        key = f"{blob.start}"
        self.places[key] = Place(start, stop)
        return Storage(key, storage.dtype, storage.count)


@dataclass(frozen=True)
class NetworkDescription:
    """A pickled network.

    Attributes:
        tensors: tensors by dotted name, as views of storages.
        places: byte ranges of the storages, by key.
        modules: the modules by dotted name; the name of the network itself is empty.
    """

    tensors: dict[str, TensorView]
    places: dict[str, Place]
    modules: dict[str, ModuleDescription]


def read_network(path: Path, key: str = "G_ema") -> NetworkDescription:
    """Describe one network of a pickle; the elements of its tensors are not read.

    Raises:
        CheckpointError: the pickle contains anything that such files do not need, is truncated,
            or lacks the network.
    """
    advice = "nothing was executed; download the file again, or convert it to safetensors"
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        pickle = NetworkPickle(data, path.name, Budget(min(len(data), MAX_PICKLE)))
        try:
            value, _ = unpickle(data, path.name, 0, pickle.allowed(), pickle.budget)
        except EndOfPickleError as error:
            raise CheckpointError(
                "its pickle is truncated", file=path.name, advice=advice
            ) from error
        except CheckpointError as error:
            if data.find(TENSORFLOW, 0, HEAD) < 0:
                raise
            raise CheckpointError(
                "a pickle of the TensorFlow version, of which nothing was executed",
                file=path.name,
                advice=CONVERT,
            ) from error
    root = value.get(key) if isinstance(value, dict) else None
    if not isinstance(root, ModuleDescription):
        raise CheckpointError(
            f"there is no network '{key}' in it, as in NVIDIA's PyTorch files",
            file=path.name,
            advice=CONVERT,
        )
    try:
        tensors, modules = _flatten(root)
    except ValueError as error:
        raise CheckpointError(f"it describes {error}", file=path.name, advice=advice) from error
    return NetworkDescription(tensors, pickle.places, modules)


def _flatten(
    root: ModuleDescription,
) -> tuple[dict[str, TensorView], dict[str, ModuleDescription]]:
    """Tensors and modules by dotted name, parents first; the root's name is empty."""
    tensors: dict[str, TensorView] = {}
    modules: dict[str, ModuleDescription] = {}
    waiting = [("", root)]
    seen: set[int] = set()
    members_left = MAX_MEMBERS
    while waiting:
        name, module = waiting.pop()
        if id(module) in seen:
            raise ValueError("a module that is part of several others")
        seen.add(id(module))
        if len(modules) >= MAX_MODULES or name.count(".") > MAX_DEPTH:
            raise ValueError("a network of more modules than any generator")
        modules[name.rstrip(".")] = module
        for attribute in ("_parameters", "_buffers", "_modules"):
            members = module.state.get(attribute)
            if not isinstance(members, dict):
                raise ValueError(f"a module without {attribute}")
            members_left -= len(members)
            if members_left < 0:
                raise ValueError("a network of more tensors than any generator")
            for child, value in members.items():
                if not isinstance(child, str) or len(child) > 100:
                    raise ValueError("a tensor or module whose name is not a short text")
                if isinstance(value, ModuleDescription) and attribute == "_modules":
                    waiting.append((f"{name}{child}.", value))
                elif isinstance(value, TensorView) and attribute != "_modules":
                    tensors[name + child] = value
                elif value is not None:
                    raise ValueError(f"{name + child!r}, which is neither a tensor nor a module")
    return tensors, modules
