"""NVIDIA's network pickles, read without running anything that is in them.

Such a file is a plain pickle of G, D and G_ema. Each module is reduced to a call of
`torch_utils.persistence._reconstruct_persistent_obj` with its source code, which NVIDIA's own
loader executes, and its attributes. Here the source is text that nobody looks at: the call makes
a description of the module, and a tensor's bytes, a torch file of their own inside the pickle,
make a description of where they lie.
"""

import mmap
import struct
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from huref.errors import CheckpointError
from huref.loader.formats import torch_legacy
from huref.loader.formats.pickle_machine import OPERATIONS, EndOfPickleError, Machine, Operations
from huref.loader.formats.pickled_tensors import BUILDERS, Builders, Name, Storage, TensorView
from huref.loader.formats.unpickle import Allowlist, unpickle

MAX_MODULES = 5_000  # a 1024 px generator has about sixty
TENSORFLOW = "dnnlib.tflib"
CONVERT = "files of the TensorFlow version have to be converted with NVIDIA's legacy.py first"
MAX_DEPTH = 16  # generator, synthesis, block, layer, affine
LENGTH = struct.Struct("<q")  # elements, before a storage's bytes

Place = tuple[int, int]


@dataclass(frozen=True)
class Blob:
    """A run of bytes in the pickle: [start, stop)."""

    start: int
    stop: int


@dataclass(frozen=True)
class Module:
    """A module as its pickle describes it: the name of its class, and its attributes."""

    kind: str
    state: dict[Any, Any]


@dataclass(frozen=True)
class Ignored:
    """Something that a network has no need of, such as a number of NumPy's."""


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


def describe_module(meta: Any = None, *rest: Any) -> Module:
    """What stands for a call of the constructor. Raises ValueError on any other call."""
    if rest or not isinstance(meta, dict) or meta.get("type") != "class":
        raise ValueError("a module that is described in an unknown way")
    state, kind = meta.get("state"), meta.get("class_name")
    if not isinstance(state, dict) or not isinstance(kind, str):
        raise ValueError("a module without attributes or class")
    return Module(kind, state)


def _push_blob(machine: Machine, length: int) -> None:
    start = machine.position
    if start + length > len(machine.data):
        raise EndOfPickleError
    machine.position += length
    machine.stack.append(Blob(start, start + length))


def make_dict(machine: Machine) -> None:
    """NEWOBJ, for classes that stand for dicts: an empty one. Raises ValueError for others."""
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
        b"\x8f": lambda m: m.stack.append([]),  # an empty set, which its items then extend
        b"\x90": lambda m: m.extend(m.since_mark()),
    }
    # Storages come from nested files; outside of them nothing has any to refer to.
    kept = {code: operation for code, operation in OPERATIONS.items() if code != b"Q"}
    return {**kept, **changed}


PICKLE_OPERATIONS = _operations()
# Torch files of whole trainings keep the command line's options beside the tensors; what is in
# them is dropped.
TRAININGS = Allowlist({**BUILDERS, OPTIONS: lambda: {}}, {**OPERATIONS, b"\x81": make_dict})


@dataclass
class NetworkPickle:
    """One file in the making: the places of the storages that its nested files hold."""

    data: mmap.mmap
    file: str
    places: dict[str, Place] = field(default_factory=dict)
    _storages: dict[Blob, Storage] = field(default_factory=dict)

    def allowed(self) -> Allowlist:
        """What this pickle may apply: none of it does more than describe."""
        builders: Builders = {
            **BUILDERS,
            **{name: lambda items=(): list(items) for name in SETS},
            EASY_DICT: lambda: {},
            **{name: lambda *_: IGNORED for name in UNUSED},
            CONSTRUCTOR: describe_module,
            NESTED: self.nested_storage,
        }
        return Allowlist(builders, PICKLE_OPERATIONS)

    def nested_storage(self, blob: Any = None, *rest: Any) -> Storage:
        """The one storage of a torch file inside the pickle; its bytes are not read yet.

        Raises:
            ValueError: the bytes are no such file, or hold more than a storage.
        """
        if rest or not isinstance(blob, Blob):
            raise ValueError("a nested file that is none")
        if blob not in self._storages:  # a blob from the memo is parsed once, however often used
            self._storages[blob] = self._parse(blob)
        return self._storages[blob]

    def _parse(self, blob: Blob) -> Storage:
        values, position = [], blob.start
        try:
            for _ in range(5):
                value, position = unpickle(self.data, self.file, position)
                values.append(value)
        except EndOfPickleError as error:
            raise ValueError("a nested file that is cut short") from error
        magic, version, system, storage, keys = values
        if magic != torch_legacy.MAGIC or version != 1001 or not isinstance(system, dict):
            raise ValueError("a nested file that torch did not write")
        if not isinstance(storage, Storage) or keys != [storage.key] or storage.dtype is None:
            raise ValueError("a nested file that holds more than a storage")
        start = position + LENGTH.size
        stop = start + storage.count * storage.dtype.itemsize
        if stop > blob.stop or LENGTH.unpack(self.data[position:start])[0] != storage.count:
            raise ValueError("a nested file whose size is not its storage's")
        if system.get("little_endian") is False:
            raise ValueError("a nested file from a big-endian machine")
        key = f"{blob.start}"
        self.places[key] = (start, stop)
        return Storage(key, storage.dtype, storage.count)


@dataclass(frozen=True)
class Network:
    """A module's tensors, where their storages lie, and the attributes of it and its parts."""

    tensors: dict[str, TensorView]
    places: dict[str, Place]
    modules: dict[str, Module]


def read_network(path: Path, key: str = "G_ema") -> Network:
    """Describe one network of a pickle; nothing of its data is read.

    Raises:
        CheckpointError: it asks for anything that no such file needs, is cut short, or lacks the
            network.
    """
    advice = "nothing was executed; download the file again, or convert it to safetensors"
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        pickle = NetworkPickle(data, path.name)
        try:
            value, _ = unpickle(data, path.name, 0, pickle.allowed())
        except EndOfPickleError as error:
            raise CheckpointError(f"{path.name}: its pickle is cut short; {advice}") from error
        except CheckpointError as error:
            if TENSORFLOW in str(error):
                raise CheckpointError(f"{path.name}: nothing was executed; {CONVERT}") from error
            raise
    root = value.get(key) if isinstance(value, dict) else None
    if not isinstance(root, Module):
        raise CheckpointError(
            f"{path.name}: there is no network '{key}' in it, as NVIDIA's PyTorch files have; "
            f"{CONVERT}"
        )
    try:
        tensors, modules = _flatten(root)
    except ValueError as error:
        raise CheckpointError(f"{path.name}: {error}; {advice}") from error
    return Network(tensors, pickle.places, modules)


def _flatten(root: Module) -> tuple[dict[str, TensorView], dict[str, Module]]:
    """Tensors and modules by dotted name, parents first; the root's name is empty."""
    tensors: dict[str, TensorView] = {}
    modules: dict[str, Module] = {}
    waiting = [("", root)]
    while waiting:
        name, module = waiting.pop()
        if len(modules) >= MAX_MODULES or name.count(".") > MAX_DEPTH:
            raise ValueError("a network of more parts than any has")
        modules[name.rstrip(".")] = module
        for attribute in ("_parameters", "_buffers", "_modules"):
            held = module.state.get(attribute)
            if not isinstance(held, dict):
                raise ValueError(f"a module without {attribute}")
            for child, value in held.items():
                if not isinstance(child, str) or len(child) > 100:
                    raise ValueError("a module's part without a name")
                if isinstance(value, Module) and attribute == "_modules":
                    waiting.append((f"{name}{child}.", value))
                elif isinstance(value, TensorView) and attribute != "_modules":
                    tensors[name + child] = value
                elif value is not None:
                    raise ValueError(f"{name + child!r} is neither a tensor nor a module")
    return tensors, modules
