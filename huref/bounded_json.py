"""JSON from outside, parsed with bounded depth and memory.

Every JSON text that huref did not write itself in the same run goes through `loads`:
configurations, indexes, headers of safetensors, tokenizers, records, registries, answers of the
Hub and of endpoints. It is strict where Python is not: UTF-8 only, no byte order mark, no lone
surrogates and, by default, neither NaN nor Infinity.
"""

import json
import re
from typing import Any, NoReturn

from huref.budget import DICT, FACTOR, FLOOR, LIST, NUMBER, SLOT, TEXT, collector_paused

MAX_DEPTH = 100  # of nested containers; a tokenizer.json has eight, serde_json reads 127
CHUNK = 256 * 1024  # bytes scanned at a time
SHORT = 4096  # bytes of a text that cannot need more memory than any file may
_PAIR = re.compile(rb"\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}")
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")
COMMA, QUOTE, OPEN_LIST, CLOSE_LIST, OPEN_DICT, CLOSE_DICT = b',"[]{}'


class JsonError(ValueError):
    """The text is not JSON, or costs more than its size justifies."""


def loads(text: bytes | bytearray | str, *, constants: bool = False, unique: bool = False) -> Any:
    """The value of a JSON text.

    Args:
        text: UTF-8.
        constants: whether NaN and Infinity are numbers, as in what Python writes.
        unique: whether an object with a key twice is refused; otherwise its last value counts.

    Raises:
        JsonError: it is not JSON, too deep, or has more containers and elements than its size
            justifies. The message is one line.
    """
    try:
        data = text.encode() if isinstance(text, str) else bytes(text)
        _check(data)
        refuse = None if constants else _refuse_constant
        pairs = _refuse_twice if unique else None
        with collector_paused():
            return json.loads(data.decode(), parse_constant=refuse, object_pairs_hook=pairs)
    except JsonError:
        raise
    except (ValueError, RecursionError) as error:
        raise JsonError(" ".join(str(error).split())[:200] or type(error).__name__) from error


def loads_object(
    text: bytes | bytearray | str, *, constants: bool = False, unique: bool = False
) -> dict[str, Any]:
    """Like `loads`. Raises JsonError also for a value that is not an object."""
    value = loads(text, constants=constants, unique=unique)
    if not isinstance(value, dict):
        raise JsonError("it is not a JSON object")
    return value


def _refuse_constant(name: str) -> NoReturn:
    raise JsonError(f"{name} is not a number of JSON")


def _refuse_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise JsonError("an object has a key twice")
    return found


def _check(data: bytes) -> None:
    """Raise JsonError for a text that is too deep, or would need too much memory."""
    plain = data
    if b"\\" in data:
        plain = data.replace(b"\\\\", b"__")
        if _SURROGATE.search(plain) and _SURROGATE.search(_PAIR.sub(b"", plain)):
            raise JsonError("it has a lone surrogate, which is not a character")
        plain = plain.replace(b'\\"', b"__")
    if len(data) <= SHORT and plain.count(b"[") + plain.count(b"{") <= MAX_DEPTH:
        return  # a line of a journal is not worth a scan
    import numpy as np

    level = deepest = inside = lists = dicts = commas = quotes = 0
    for start in range(0, len(plain), CHUNK):
        part = np.frombuffer(plain, np.uint8, min(CHUNK, len(plain) - start), start)
        is_quote = part == QUOTE
        in_text = np.bitwise_xor.accumulate(is_quote.view(np.uint8)) ^ inside
        inside = int(in_text[-1])
        outside = part[in_text == 0]
        quotes += int(np.count_nonzero(is_quote))
        commas += int(np.count_nonzero(outside == COMMA))
        opened = outside == OPEN_LIST
        lists += int(np.count_nonzero(opened))
        open_dicts = outside == OPEN_DICT
        dicts += int(np.count_nonzero(open_dicts))
        opened |= open_dicts
        closed = (outside == CLOSE_LIST) | (outside == CLOSE_DICT)
        steps = opened.astype(np.int8) - closed.astype(np.int8)
        if steps.size:
            levels = np.cumsum(steps, dtype=np.int32)
            deepest = max(deepest, level + int(levels.max()))
            level += int(levels[-1])
        if deepest > MAX_DEPTH:
            raise JsonError(f"its values are nested more than {MAX_DEPTH} deep")
        memory = LIST * lists + DICT * dicts + (NUMBER + SLOT) * commas + TEXT * (quotes // 2)
        if memory > FLOOR + FACTOR * len(data):
            raise JsonError(
                f"its values would need more memory than {len(data):,} bytes of JSON justify"
            )
