"""A pickle machine with only the instructions that torch uses to write a state dict.

No instruction imports a module, creates an object or calls a function that the pickle chooses:
REDUCE calls only a fixed set of builders, which describe their arguments (see
`huref.loader.formats.pickled_tensors`).
"""

import mmap
import struct
from collections.abc import Callable, Mapping
from typing import Any

from huref.budget import DICT, LIST, NUMBER, SLOT, TENSOR, TEXT, TUPLE, Budget
from huref.loader.formats.pickled_tensors import (
    INERT,
    LARGEST_KEY,
    MENTIONED,
    QUANTISERS,
    Builders,
    Inert,
    Name,
    describe_storage,
    is_dtype,
    is_passed_over,
    quantised_by,
    refusal,
    require_key,
)

Bytes = bytes | bytearray | mmap.mmap
Operations = Mapping[bytes, Callable[["Machine"], object]]

_NUMBERS = {form: struct.Struct(form) for form in ("<B", "<H", "<I", "<Q", "<i", ">d")}
PAIR = 100  # bytes of an entry of a dict
# Bytes of the object that an instruction creates; of all others, a place on the stack.
COSTS = {
    **dict.fromkeys((b"]", b"\x8f"), 2 * LIST),  # they cost the collector time as well
    **dict.fromkeys((b"}", b"\x81"), 2 * DICT),
    **dict.fromkeys((b"\x85", b"\x86", b"\x87", b"t"), TUPLE + 2 * SLOT),
    **dict.fromkeys((b"M", b"J", b"\x8a", b"G"), NUMBER),
    **dict.fromkeys((b"X", b"\x8c", b"\x8d", b"U", b"T", b"C", b"B", b"\x8e"), TEXT),
    **dict.fromkeys((b"q", b"r", b"\x94", b"s"), PAIR),
    **dict.fromkeys((b"c", b"\x93"), 2 * TEXT + TUPLE),
    b"Q": TENSOR // 2,
    b"R": TENSOR // 2,
}


class EndOfPickleError(Exception):
    """The data ends before the pickle does."""


class _Mark:
    """Marks the start of a tuple, list or dict on the stack."""


_MARK = _Mark()


class Machine:
    """A pickle machine that builds only plain data and descriptions.

    Methods raise CheckpointError where the pickle is refused, EndOfPickleError where the data ends
    too early, and TypeError, ValueError, IndexError or KeyError where the pickle is malformed.

    Attributes:
        data: the file's bytes, which contain the pickle.
        position: byte of the next instruction or argument.
        builders: the functions that the pickle may call, by name.
        budget: counts what the pickle costs.
    """

    def __init__(self, data: Bytes, position: int, builders: Builders, budget: Budget):
        self.data = data
        self.position = position
        self.builders = builders
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}
        self.budget = budget
        self.large_keys = 0

    def take(self, count: int) -> bytes:
        """The next bytes. Raises EndOfPickleError when there are fewer."""
        if count < 0 or self.position + count > len(self.data):
            raise EndOfPickleError
        self.position += count
        return bytes(self.data[self.position - count : self.position])

    def unpack(self, form: str) -> Any:
        """The next number, in a format of `struct`."""
        layout = _NUMBERS[form]
        try:
            (number,) = layout.unpack_from(self.data, self.position)
        except struct.error:
            raise EndOfPickleError from None
        self.position += layout.size
        return number

    def line(self) -> str:
        """The text up to the next line end."""
        end = self.data.find(b"\n", self.position)
        if end < 0:
            raise EndOfPickleError
        return self.take(end + 1 - self.position)[:-1].decode("utf-8")

    def find(self, module: Any, name: Any) -> Name | Inert:
        """A global by name. Raises CheckpointError when it is not allowed."""
        if not isinstance(module, str) or not isinstance(name, str):
            raise refusal("refers to a global by something other than its name")
        found = Name(module, name)
        is_storage = (module in ("torch", "torch.storage")) and name.endswith("Storage")
        if found in self.builders or is_storage or is_dtype(found):
            return found
        if is_passed_over(found):
            return INERT
        if module.split(".")[0] in QUANTISERS:
            raise quantised_by(module.split(".")[0])
        if found in MENTIONED:
            return found
        full_name = f"{module}.{name}"[:200]
        raise refusal(f"refers to {full_name}, which no state dict needs")

    def result(self) -> Any:
        """What the pickle has built. Raises CheckpointError when that is nothing."""
        if not self.stack or self.stack[-1] is _MARK:
            raise refusal("builds nothing")
        return self.stack[-1]

    def since_mark(self) -> list[Any]:
        """Pop the items above the last mark, and the mark."""
        for index in range(len(self.stack) - 1, -1, -1):
            if self.stack[index] is _MARK:
                items = self.stack[index + 1 :]
                del self.stack[index:]
                return items
        raise refusal("lacks the mark where a tuple, list or dict begins")

    def remember(self, key: int) -> None:
        """Store the top of the stack in the memo."""
        self.memo[key] = self.stack[-1]

    def update(self, pairs: list[Any]) -> None:
        """Add alternating keys and values to the dict on top of the stack."""
        target = self.stack[-1]
        if isinstance(target, Inert):
            return
        if not isinstance(target, dict) or len(pairs) % 2:
            raise refusal("adds items to something other than a dict")
        self.budget.spend(PAIR * len(pairs) // 2)
        for key, value in zip(pairs[::2], pairs[1::2], strict=True):
            self.require_key(key)
            target[key] = value

    def require_key(self, key: Any) -> None:
        """Check that a value can be the key of a dict.

        Large numbers may hash alike, and a dict compares each with all before it: each costs as
        many steps as there were before.
        """
        if type(key) is int and abs(key) > LARGEST_KEY:
            self.large_keys += 1
            self.budget.step(self.large_keys)
        else:
            require_key(key)

    def extend(self, items: list[Any]) -> None:
        """Append to the list on top of the stack."""
        if isinstance(self.stack[-1], Inert):
            return
        if not isinstance(self.stack[-1], list):
            raise refusal("adds items to something other than a list")
        self.stack[-1].extend(items)

    def tuple_of(self, count: int) -> None:
        """Replace the top `count` items by a tuple of them."""
        if len(self.stack) < count:
            raise refusal("takes items from an empty stack")
        items = tuple(self.stack[-count:])
        del self.stack[-count:]
        self.stack.append(items)

    def reduce(self) -> None:
        """Call one of the builders."""
        arguments, function = self.stack.pop(), self.stack.pop()
        if isinstance(function, Inert):
            self.stack.append(INERT)
            return
        if not isinstance(function, Name) or function not in self.builders:
            raise refusal("calls something other than a constructor of tensors")
        if not isinstance(arguments, tuple):
            raise refusal("makes a call without a tuple of arguments")
        # A call may copy a list that a pickle of a few bytes refers to many times.
        copied = sum(len(a) for a in arguments if isinstance(a, tuple | list | dict))
        self.budget.spend(PAIR * copied)
        self.budget.step(copied)
        self.stack.append(self.builders[function](*arguments))

    def new_object(self, arguments: int) -> None:
        """Replace a class and its arguments by an Inert, if the class is passed over."""
        for _ in range(arguments):
            self.stack.pop()
        if not isinstance(self.stack.pop(), Inert):
            raise refusal("makes an object, which no state dict needs")
        self.stack.append(INERT)

    def make_set(self) -> None:
        """Replace the items above the last mark by an Inert: no tensor is in a set."""
        self.since_mark()
        self.stack.append(INERT)

    def build(self) -> None:
        """Discard the attributes of a dict: a state dict has its modules' versions as one."""
        if len(self.stack) > 1 and isinstance(self.stack[-2], Inert):
            self.stack.pop()
            return
        if not isinstance(self.stack.pop(), dict) or not isinstance(self.stack[-1], dict):
            raise refusal("sets the state of an object")


def _integer(data: bytes) -> int:
    return int.from_bytes(data, "little", signed=True)


# The opcodes of protocols 0 to 5 that build plain data; see Python's pickletools.
OPERATIONS: Operations = {
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
    b"Q": lambda m: m.stack.append(describe_storage(m.stack.pop())),
    b"R": Machine.reduce,
    b"b": Machine.build,
    b"\x81": lambda m: m.new_object(1),  # NEWOBJ
    b"\x92": lambda m: m.new_object(2),  # NEWOBJ_EX
    b"\x8f": lambda m: m.stack.append(INERT),  # EMPTY_SET
    b"\x90": lambda m: m.since_mark(),  # ADDITEMS
    b"\x91": Machine.make_set,  # FROZENSET
}
