"""Whether the patterns by which a tokenizer.json splits texts could take forever.

The tokenizers library matches them with a backtracking engine. A pattern that repeats what itself
repeats or chooses needs up to 2^n steps for n characters, and k repetitions in a row about n^k.
Published tokenizers have neither: two repetitions in a row, and choices that are not repeated.
"""

from collections.abc import Iterator
from dataclasses import dataclass

MOST_REPEATS = 3  # repetitions in one alternative
MOST_OPTIONAL = 8  # optional parts in one alternative
PLACES = ("normalizer", "pre_tokenizer")  # of a tokenizer.json, in which a pattern is matched


@dataclass
class _Part:
    """A group, or the whole pattern: what its present alternative and all of it have."""

    repeats: int = 0
    optional: int = 0
    is_risky: bool = False  # to be repeated: it repeats, chooses or leaves out
    in_a_row: int = 0  # repetitions of its longest alternative


def may_backtrack(tokenizer: dict[str, object]) -> bool:
    """Whether a tokenizer.json has a pattern that may need exponential time."""
    return any(map(is_exponential, _patterns([tokenizer.get(place) for place in PLACES])))


def _patterns(part: object) -> Iterator[str]:
    waiting = [part]
    while waiting:
        found = waiting.pop()
        if isinstance(found, dict):
            if isinstance(found.get("Regex"), str):
                yield found["Regex"]
            waiting += found.values()
        elif isinstance(found, list):
            waiting += found


def is_exponential(pattern: str) -> bool:
    """Whether a pattern repeats a repetition or a choice, has many in a row, or refers back."""
    parts = [_Part()]
    place = 0
    while place < len(pattern):
        letter = pattern[place]
        closed = None
        if letter == "\\":
            if pattern[place + 1 : place + 2].isdigit() or pattern[place + 1 : place + 2] == "k":
                return True
            place = _end_of_escape(pattern, place)
        elif letter == "[":
            place = _end_of_class(pattern, place)
        elif letter == "(":
            parts.append(_Part())
            place += 1
            continue
        elif letter == "|":
            top = parts[-1]
            top.in_a_row = max(top.in_a_row, top.repeats)
            top.repeats = top.optional = 0
            top.is_risky = True
            place += 1
            continue
        elif letter == ")" and len(parts) > 1:
            closed = parts.pop()
            closed.in_a_row = max(closed.in_a_row, closed.repeats)
            parts[-1].repeats += closed.in_a_row
            place += 1
        else:
            place += 1
        kind, place = _quantifier(pattern, place)
        top = parts[-1]
        if kind == "repeat":
            if closed is not None and closed.is_risky:
                return True
            top.repeats += 1
        top.optional += kind == "optional"
        top.is_risky |= bool(kind) or (closed is not None and closed.is_risky)
        if top.repeats > MOST_REPEATS or top.optional > MOST_OPTIONAL:
            return True
    return False


def _quantifier(pattern: str, place: int) -> tuple[str, int]:
    """The kind of quantifier at a place, "" for none, and the place after it."""
    letter = pattern[place : place + 1]
    kind = {"*": "repeat", "+": "repeat", "?": "optional"}.get(letter, "")
    if letter == "{":
        end = pattern.find("}", place)
        numbers = pattern[place + 1 : end].replace(",", "") if end > 0 else "x"
        if not numbers.isdigit():
            return "", place  # a brace that stands for itself
        kind, place = "repeat", end
    if not kind:
        return "", place
    place += 1
    while pattern[place : place + 1] in ("?", "+", "*") and pattern[place : place + 1]:
        if pattern[place] == "*":
            kind = "repeat"
        place += 1  # lazy or possessive, or a quantifier of a quantifier
    return kind, place


def _end_of_escape(pattern: str, place: int) -> int:
    r"""The place after an escape such as \s, \p{L} or \x{41}."""
    if pattern[place + 2 : place + 3] == "{" and pattern[place + 1] in "pPxuo":
        end = pattern.find("}", place)
        return end + 1 if end > 0 else len(pattern)
    return place + 2


def _end_of_class(pattern: str, place: int) -> int:
    """The place after a set of characters, which may hold sets."""
    depth = 0
    start = place
    while place < len(pattern):
        letter = pattern[place]
        if letter == "\\":
            place = _end_of_escape(pattern, place)
            continue
        if letter == "[":
            depth += 1
        elif letter == "]" and pattern[start + 1 : place].strip("^"):
            depth -= 1
            if depth == 0:
                return place + 1
        place += 1
    return len(pattern)
