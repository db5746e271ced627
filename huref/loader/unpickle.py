"""A reader of pickles that can build nothing but tensor descriptions.

A pickle is a program. Python's own unpickler runs it and lets it call anything it names; this one
knows the instructions with which torch writes a state dict, a handful of names, and nothing that
calls. Whatever else a pickle asks for is refused. Memory and time are bounded by its length.
"""

import mmap
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

import torch

from huref.errors import CheckpointError


@dataclass(frozen=True)
class Name:
    """A name that the pickle mentions, such as torch._utils._rebuild_tensor_v2. Not an object."""

    module: str
    name: str


@dataclass(frozen=True)
class Storage:
    """A run of elements in the file, which tensors are views of."""

    key: str
    dtype: torch.dtype | None  # None: untyped bytes
    count: int


@dataclass(frozen=True)
class TensorView:
    """A tensor as torch describes it: where in a storage, in elements."""

    storage: Storage
    dtype: torch.dtype
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]


class EndOfPickleError(Exception):
    """The bytes end before the pickle does."""


Bytes = bytes | bytearray | mmap.mmap
Builders = Mapping[Name, Callable[..., Any]]

DTYPES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}
MAX_AXES = 16
MAX_INSTRUCTIONS = 2_000_000  # a tensor takes about thirty
_SCALARS = (str, int, float, bool, bytes, type(None), Name)


class _Mark:
    """Where a tuple, list or dict begins on the stack."""


_MARK = _Mark()


def _is_dtype(name: Name) -> bool:
    return name.module == "torch" and isinstance(getattr(torch, name.name, None), torch.dtype)


def _tensor_dtype(name: Any) -> torch.dtype:
    if isinstance(name, Name) and _is_dtype(name):
        dtype = getattr(torch, name.name)
        assert isinstance(dtype, torch.dtype)
        return dtype
    raise ValueError("a tensor's dtype is not one")


def _view(storage: Any, offset: Any, shape: Any, stride: Any, dtype: Any = None) -> TensorView:
    if not isinstance(storage, Storage):
        raise ValueError("a tensor without a storage")
    sizes = (offset, *shape, *stride) if len(shape) == len(stride) <= MAX_AXES else (-1,)
    if not all(type(n) is int and 0 <= n < 2**62 for n in sizes):
        raise ValueError("a tensor with a shape, stride or offset that are not sizes")
    of_type = storage.dtype if dtype is None else _tensor_dtype(dtype)
    if of_type is None:
        raise ValueError("a tensor without a dtype")
    return TensorView(storage, of_type, offset, tuple(shape), tuple(stride))


# What REDUCE may apply: each builds a description out of arguments, and none of them is torch's.
BUILDERS: Builders = {
    Name("collections", "OrderedDict"): lambda pairs=(): dict(pairs),
    Name("torch._utils", "_rebuild_tensor"): lambda s, o, shape, stride: _view(s, o, shape, stride),
    Name("torch._utils", "_rebuild_tensor_v2"): lambda s, o, shape, stride, *_: _view(
        s, o, shape, stride
    ),
    Name("torch._utils", "_rebuild_tensor_v3"): lambda s, o, shape, stride, _g, _h, dtype, *_: (
        _view(s, o, shape, stride, dtype)
    ),
    Name("torch._utils", "_rebuild_parameter"): lambda tensor, *_: tensor,
    Name("torch", "Size"): tuple,
    Name("torch", "device"): lambda *_: None,
}


def _storage(persistent: Any) -> Storage:
    if not (isinstance(persistent, tuple) and len(persistent) >= 5 and persistent[0] == "storage"):
        raise ValueError("a storage that is described in an unknown way")
    kind, key, _location, count = persistent[1:5]
    is_part_of_another = len(persistent) > 5 and persistent[5] is not None
    if not isinstance(kind, Name) or type(count) is not int or is_part_of_another:
        raise ValueError("a storage that is described in an unknown way")
    dtype = DTYPES.get(kind.name)
    if dtype is None and kind.name != "UntypedStorage":
        raise ValueError(f"a storage of type {kind.name}")
    if not 0 <= count < 2**62 or not isinstance(key, str | int):
        raise ValueError("a storage whose size or key is none")
    return Storage(str(key), dtype, count)


class Machine:
    """The pickle machine, cut down to what builds plain data.

    Attributes:
        builders: what the pickle may apply to arguments; see BUILDERS.
    """

    def __init__(self, data: Bytes, position: int, builders: Builders):
        self.data = data
        self.position = position
        self.builders = builders
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}
        self.copied = 0  # items that calls copied; a list from the memo could be copied forever

    def take(self, count: int) -> bytes:
        """The next bytes. Raises EndOfPickleError when there are fewer."""
        if count < 0 or self.position + count > len(self.data):
            raise EndOfPickleError
        self.position += count
        return bytes(self.data[self.position - count : self.position])

    def unpack(self, form: str) -> Any:
        """The next number, in the form that `struct` calls it."""
        return struct.unpack(form, self.take(struct.calcsize(form)))[0]

    def line(self) -> str:
        """The next bytes up to the end of a line, as text."""
        end = self.data.find(b"\n", self.position)
        if end < 0:
            raise EndOfPickleError
        return self.take(end + 1 - self.position)[:-1].decode("utf-8")

    def find(self, module: Any, name: Any) -> Name:
        """A name, if a pickle of this kind has any use for it."""
        if not isinstance(module, str) or not isinstance(name, str):
            raise ValueError("a name that is no text")
        found = Name(module, name)
        is_storage = (module in ("torch", "torch.storage")) and name.endswith("Storage")
        if found in self.builders or is_storage or _is_dtype(found):
            return found
        raise ValueError(f"it asks for {module}.{name}, which a state dict has no need of")

    def since_mark(self) -> list[Any]:
        """Pop what lies above the last mark, and the mark."""
        for index in range(len(self.stack) - 1, -1, -1):
            if self.stack[index] is _MARK:
                items = self.stack[index + 1 :]
                del self.stack[index:]
                return items
        raise ValueError("a mark is missing")

    def remember(self, key: int) -> None:
        """Keep the top of the stack in the memo."""
        self.memo[key] = self.stack[-1]

    def update(self, pairs: list[Any]) -> None:
        """Put keys and values, in turns, into the dict on top of the stack."""
        target = self.stack[-1]
        if not isinstance(target, dict) or len(pairs) % 2:
            raise ValueError("items for something that is no dict")
        for key, value in zip(pairs[::2], pairs[1::2], strict=True):
            if not isinstance(key, _SCALARS):
                raise ValueError("a dict's key is no plain value")
            target[key] = value

    def extend(self, items: list[Any]) -> None:
        """Append to the list on top of the stack."""
        if not isinstance(self.stack[-1], list):
            raise ValueError("items for something that is no list")
        self.stack[-1].extend(items)

    def tuple_of(self, count: int) -> None:
        """Replace the topmost items by a tuple of them."""
        if len(self.stack) < count:
            raise ValueError("an empty stack")
        items = tuple(self.stack[-count:])
        del self.stack[-count:]
        self.stack.append(items)

    def reduce(self) -> None:
        """Apply one of the builders."""
        arguments, function = self.stack.pop(), self.stack.pop()
        if not isinstance(function, Name) or function not in self.builders:
            raise ValueError("it calls something")
        if not isinstance(arguments, tuple):
            raise ValueError("a call without arguments")
        self.copied += sum(len(a) for a in arguments if isinstance(a, tuple | list | dict))
        if self.copied > len(self.data):
            raise ValueError("it copies more than it holds")
        self.stack.append(self.builders[function](*arguments))

    def build(self) -> None:
        """Drop the attributes of a dict."""
        # A state dict carries its modules' versions as an attribute; nothing here needs it.
        if not isinstance(self.stack.pop(), dict) or not isinstance(self.stack[-1], dict):
            raise ValueError("it sets the state of an object")


def _integer(data: bytes) -> int:
    return int.from_bytes(data, "little", signed=True)


# Opcodes of protocols 0 to 5 that plain data is made with; see Python's pickletools.
OPERATIONS: Mapping[bytes, Callable[[Machine], object]] = {
    b"\x80": lambda m: m.take(1),  # PROTO
    b"\x95": lambda m: m.take(8),  # FRAME
    b"(": lambda m: m.stack.append(_MARK),
    b"0": lambda m: m.stack.pop(),
    b"1": lambda m: m.since_mark(),
    b"N": lambda m: m.stack.append(None),
    b"\x88": lambda m: m.stack.append(True),
    b"\x89": lambda m: m.stack.append(False),
    b"K": lambda m: m.stack.append(m.unpack("<B")),
    b"M": lambda m: m.stack.append(m.unpack("<H")),
    b"J": lambda m: m.stack.append(m.unpack("<i")),
    b"\x8a": lambda m: m.stack.append(_integer(m.take(m.unpack("<B")))),
    b"G": lambda m: m.stack.append(m.unpack(">d")),
    b"X": lambda m: m.stack.append(m.take(m.unpack("<I")).decode("utf-8", "surrogatepass")),
    b"\x8c": lambda m: m.stack.append(m.take(m.unpack("<B")).decode("utf-8", "surrogatepass")),
    b"\x8d": lambda m: m.stack.append(m.take(m.unpack("<Q")).decode("utf-8", "surrogatepass")),
    b"U": lambda m: m.stack.append(m.take(m.unpack("<B")).decode("latin-1")),
    b"T": lambda m: m.stack.append(m.take(m.unpack("<I")).decode("latin-1")),
    b"C": lambda m: m.stack.append(m.take(m.unpack("<B"))),
    b"B": lambda m: m.stack.append(m.take(m.unpack("<I"))),
    b"}": lambda m: m.stack.append({}),
    b"]": lambda m: m.stack.append([]),
    b")": lambda m: m.stack.append(()),
    b"\x85": lambda m: m.tuple_of(1),
    b"\x86": lambda m: m.tuple_of(2),
    b"\x87": lambda m: m.tuple_of(3),
    b"t": lambda m: m.stack.append(tuple(m.since_mark())),
    b"a": lambda m: m.extend([m.stack.pop()]),
    b"e": lambda m: m.extend(m.since_mark()),
    b"s": lambda m: m.update([m.stack.pop(-2), m.stack.pop()]),
    b"u": lambda m: m.update(m.since_mark()),
    b"q": lambda m: m.remember(m.unpack("<B")),
    b"r": lambda m: m.remember(m.unpack("<I")),
    b"\x94": lambda m: m.remember(len(m.memo)),
    b"h": lambda m: m.stack.append(m.memo[m.unpack("<B")]),
    b"j": lambda m: m.stack.append(m.memo[m.unpack("<I")]),
    b"c": lambda m: m.stack.append(m.find(m.line(), m.line())),
    b"\x93": lambda m: m.stack.append(m.find(m.stack.pop(-2), m.stack.pop())),
    b"Q": lambda m: m.stack.append(_storage(m.stack.pop())),
    b"R": Machine.reduce,
    b"b": Machine.build,
}


@dataclass(frozen=True)
class Vocabulary:
    """What pickles of one kind may apply, and the instructions that they may have."""

    builders: Builders
    operations: Mapping[bytes, Callable[[Machine], object]]


STATE_DICTS = Vocabulary(BUILDERS, OPERATIONS)


def unpickle(
    data: Bytes, file: str, position: int = 0, vocabulary: Vocabulary = STATE_DICTS
) -> tuple[Any, int]:
    """Plain data and tensor descriptions from a pickle, and where the pickle ends.

    Whoever brings another vocabulary keeps it as harmless as the one here.

    Raises:
        CheckpointError: it asks for anything else, or makes no sense; nothing was executed.
        EndOfPickleError: `data` ends before the pickle does.
    """
    machine = Machine(data, position, vocabulary.builders)

    def refuse(why: object) -> NoReturn:
        raise CheckpointError(
            f"{file}: its pickle holds more than tensors ({why}); nothing was executed; "
            "save the state dict alone, or as safetensors"
        )

    executed = 0
    while (code := machine.take(1)) != b".":
        executed += 1
        if executed > MAX_INSTRUCTIONS:
            refuse(f"more than {MAX_INSTRUCTIONS} instructions")
        operation = vocabulary.operations.get(code)
        if operation is None:
            refuse(f"instruction {code!r}")
        try:
            operation(machine)
        except (ValueError, TypeError, KeyError, IndexError) as error:
            refuse(str(error)[:200] or type(error).__name__)
    if not machine.stack:
        refuse("it builds nothing")
    return machine.stack[-1], machine.position


def state_dict(value: Any, file: str) -> dict[str, TensorView]:
    """The tensors of an unpickled state dict, or of one under a usual key of a checkpoint.

    Raises:
        CheckpointError: there are none.
    """
    for candidate in (value, *(_child(value, key) for key in ("state_dict", "model", "module"))):
        if isinstance(candidate, dict):
            tensors = {str(k): v for k, v in candidate.items() if isinstance(v, TensorView)}
            if tensors:
                return tensors
    raise CheckpointError(f"{file}: it holds no tensors by name")


def _child(value: Any, key: str) -> Any:
    return value.get(key) if isinstance(value, dict) else None
