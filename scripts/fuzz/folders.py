"""A fuzzed input as a folder of several files, which a line `=== NAME` begins each.

Files of weights are written as a list of tensors, so that mutations keep them readable:

    === model.safetensors                       NAME DTYPE SHAPE [VALUES], a line each
    x.qweight I32 4,8
    x.g_idx I32 32 count
    === a.gguf                                  KEY=JSON, or as above with the number of a type
    general.architecture="llama"
    output.weight 8 2,32

VALUES are `zero`, `count` (0, 1, 2, ...), `text:...` (its bytes) or nothing for noise, which is
between -1 and 1 where a type has fractions.
"""

import contextlib
import json
import math
import random
import shutil
import struct
from collections.abc import Iterator
from pathlib import Path

MARK = b"=== "
MOST_FILES = 12
MOST_BYTES = 1 << 16  # of one tensor
_CHANCE = random.Random(0)
_NOISE = _CHANCE.randbytes(MOST_BYTES)
_FRACTIONS = [_CHANCE.uniform(-1, 1) for _ in range(MOST_BYTES // 2)]
_SIZES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1,
          "U32": 4, "U16": 2, "BOOL": 1, "F8_E4M3": 1, "F8_E5M2": 1, "F8_E8M0": 1}  # fmt: skip
_LETTERS = {
    "F64": "d",
    "F32": "f",
    "F16": "e",
    "BF16": "bf",
    "I64": "q",
    "I32": "i",
    "I16": "h",
    "I8": "b",
}
# Bytes of a block of GGUF's types, and the values in it.
_BLOCKS = {0: (4, 1), 1: (2, 1), 2: (18, 32), 3: (20, 32), 6: (22, 32), 7: (24, 32), 8: (34, 32),
           10: (84, 256), 11: (110, 256), 12: (144, 256), 13: (176, 256), 14: (210, 256),
           16: (66, 256), 20: (18, 32), 23: (136, 256), 30: (2, 1), 39: (17, 32)}  # fmt: skip


def sections(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """The first line of each part of an input, without the mark, and what follows it."""
    for part in (b"\n" + data).split(b"\n" + MARK)[1:][:MOST_FILES]:
        head, _, body = part.partition(b"\n")
        yield head, body


def write_folder(data: bytes, folder: Path) -> None:
    """Write the files of an input into a folder, which is emptied first.

    Names that no file may have, or that lead elsewhere, are passed over.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for head, body in sections(data):
        name = head.decode("latin-1").strip()
        path = folder / name
        if ".." in name or name.startswith("/") or len(name) > 100 or "\0" in name:
            continue
        with contextlib.suppress(OSError):  # a file in the place of a folder
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(_contents(path.suffix, body))


def _contents(suffix: str, body: bytes) -> bytes:
    if suffix == ".safetensors" and not body.startswith((b"{", b"\0")):
        return safetensors_file(body)
    if suffix == ".gguf" and not body.startswith(b"GGUF"):
        return _gguf_file(body)
    return body


def safetensors_file(lines: bytes) -> bytes:
    """A safetensors file of the tensors that are listed; lines that are none are passed over."""
    header: dict[str, object] = {}
    stored = bytearray()
    for name, dtype, shape, values in _tensors(lines):
        count = math.prod(shape)
        size = count * _SIZES.get(dtype, 1)
        if dtype not in _SIZES or size > MOST_BYTES or name in header:
            continue
        start = len(stored)
        stored += _values(values, size, _LETTERS.get(dtype, "b"))
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [start, len(stored)]}
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + bytes(stored)


def _values(values: str, size: int, letter: str) -> bytes:
    kind, _, text = values.partition(":")
    if kind == "zero":
        return bytes(size)
    if kind == "text":
        return text.encode("latin-1")[:size].ljust(size)
    if kind == "count":
        letter = letter.removeprefix("b") or "b"
        width = struct.calcsize(letter)
        return struct.pack(f"<{size // width}{letter}", *(i % 100 for i in range(size // width)))
    if letter in "dfe" or letter == "bf":
        width = struct.calcsize(letter.removeprefix("b"))
        packed = struct.pack(f"<{size // 2}{letter[-1]}", *_FRACTIONS[: size // 2])
        if letter == "bf":  # the upper halves
            return b"".join(packed[i + 2 : i + 4] for i in range(0, len(packed), width))
        return packed[:size]
    return _NOISE[:size]


def _tensors(lines: bytes) -> Iterator[tuple[str, str, list[int], str]]:
    for line in lines.decode("latin-1").split("\n"):
        words = line.split(" ", 3)
        with contextlib.suppress(ValueError, IndexError):
            shape = [int(axis) for axis in words[2].split(",") if axis]
            if all(0 <= axis <= MOST_BYTES for axis in shape) and len(shape) <= 4:
                yield words[0], words[1], shape, words[3] if len(words) > 3 else ""


def _gguf_file(lines: bytes) -> bytes:
    values: list[bytes] = []
    for line in lines.split(b"\n"):
        key, equals, text = line.partition(b"=")
        if equals and b" " not in key:
            with contextlib.suppress(ValueError, RecursionError, OverflowError, struct.error):
                values.append(_text(key) + _gguf_value(json.loads(text)))
    described, stored = b"", bytearray()
    count = 0
    for name, kind, shape, _ in _tensors(lines):
        block, each = _BLOCKS.get(int(kind) if kind.isdecimal() else -1, (0, 1))
        size = math.prod(shape) // each * block
        if not block or size > MOST_BYTES:
            continue
        axes = struct.pack(f"<I{len(shape)}Q", len(shape), *reversed(shape))
        described += _text(name.encode()) + axes + struct.pack("<IQ", int(kind), len(stored))
        stored += _NOISE[:size]
        stored += bytes(-len(stored) % 32)
        count += 1
    head = b"GGUF" + struct.pack("<IQQ", 3, count, len(values)) + b"".join(values) + described
    return head + bytes(-len(head) % 32) + bytes(stored)


def _text(text: bytes) -> bytes:
    return struct.pack("<Q", len(text)) + text


def _gguf_value(value: object) -> bytes:
    """A value of JSON with its type before it; lists have the type of their first element."""
    if isinstance(value, list):
        typed = [_gguf_value(each) for each in value] or [struct.pack("<I", 4)]
        kind = typed[0][:4]
        return struct.pack("<I", 9) + kind + struct.pack("<Q", len(value)) + b"".join(
            each[4:] for each in typed if each[:4] == kind
        )  # fmt: skip
    if isinstance(value, bool):
        return struct.pack("<IB", 7, value)
    if isinstance(value, int):
        return struct.pack("<II", 4, value) if value >= 0 else struct.pack("<Ii", 5, value)
    if isinstance(value, float):
        return struct.pack("<If", 6, value)
    return struct.pack("<I", 8) + _text(str(value).encode())
