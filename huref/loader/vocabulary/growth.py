"""Whether a tokenizer.json makes much more of a text than its length justifies.

Normalisers replace a character by a text, one after the other, templates repeat the tokens, and
padding adds some. Published tokenizers replace one character by few, and name the text once.
"""

import base64
import binascii
from collections.abc import Iterator
from math import prod
from typing import Any

MOST_GROWTH = 64  # characters for one, all normalisers together; the usual charsmap has 33 bytes
MOST_ADDED = 256  # characters before a text, and pieces of a template
LONGEST_PADDING = 4096  # tokens


def may_grow(tokenizer: dict[str, Any]) -> bool:
    """Whether a tokenizer.json may make a text many times longer."""
    normalisers = list(_parts(tokenizer.get("normalizer"), "normalizers"))
    if prod(map(_growth, normalisers)) > MOST_GROWTH:
        return True
    if any(len(str(part.get("prepend", ""))) > MOST_ADDED for part in normalisers):
        return True
    templates = _parts(tokenizer.get("post_processor"), "processors")
    return any(map(_repeats, templates)) or _pads(tokenizer.get("padding"))


def _parts(part: Any, inner: str) -> Iterator[dict[str, Any]]:
    waiting = [part]
    while waiting:
        found = waiting.pop()
        if isinstance(found, dict):
            yield found
            waiting.append(found.get(inner))
        elif isinstance(found, list):
            waiting += found


def _growth(part: dict[str, Any]) -> int:
    """Characters that a normaliser puts in place of one, at most."""
    if "precompiled_charsmap" in part:
        return _longest_of_charsmap(part["precompiled_charsmap"])
    content, pattern = part.get("content"), part.get("pattern")
    if not isinstance(content, str):
        return 1
    text = pattern.get("String") if isinstance(pattern, dict) else pattern
    if isinstance(text, str) and text:
        return max(-(-len(content) // len(text)), 1)
    return 1 + len(content)  # a regular expression may match nothing, between any two characters


def _longest_of_charsmap(stated: Any) -> int:
    """The longest text that a SentencePiece charsmap puts in place of a character, in bytes.

    The map is the size of a trie, the trie, and the texts, which end with a zero.
    """
    try:
        data = base64.b64decode(stated) if isinstance(stated, str) else b""
    except (binascii.Error, ValueError):
        return 1  # the library refuses it as well
    start = 4 + int.from_bytes(data[:4], "little")
    return max(map(len, data[start:].split(b"\0")), default=1) or 1


def _repeats(part: dict[str, Any]) -> bool:
    single = part.get("single")
    if not isinstance(single, list):
        return False
    texts = sum(isinstance(piece, dict) and "Sequence" in piece for piece in single)
    special = part.get("special_tokens")
    added = special.values() if isinstance(special, dict) else ()
    ids = (one.get("ids") for one in added if isinstance(one, dict))
    longest = max((len(one) for one in ids if isinstance(one, list)), default=0)
    return texts > 1 or len(single) > MOST_ADDED or longest > MOST_ADDED


def _pads(padding: Any) -> bool:
    if not isinstance(padding, dict):
        return False
    strategy = padding.get("strategy")
    fixed = strategy.get("Fixed") if isinstance(strategy, dict) else 0
    sizes = (fixed, padding.get("pad_to_multiple_of"))
    return any(isinstance(size, int) and size > LONGEST_PADDING for size in sizes)
