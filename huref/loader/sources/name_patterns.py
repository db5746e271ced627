r"""Patterns of module names, as PEFT's alpha_pattern has them, matched in linear time.

PEFT matches `(.*\.)?(PATTERN)$` with Python's `re`, which may take time exponential in the length
of a name. A pattern from a stranger's adapter is therefore compiled into an automaton whose states
are sets of places in the pattern (Thompson's construction, made deterministic as it runs).
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

MOST_PLACES = 4000  # of a pattern, with its repetitions written out
MOST_STATES = 2000  # of an automaton that are kept
MOST_NESTED = 20  # groups
MOST_AUTOMATA = 1000  # of an adapter; usual patterns need none
MOST_STEPS = 10_000_000  # of all patterns of an adapter: letters read, a second or two
FIXED_STEPS = 2  # of a name that is compared with a pattern of fixed length
_CLASSES = {"d": r"\d", "D": r"\D", "w": r"\w", "W": r"\W", "s": r"\s", "S": r"\S"}
_COUNTS = re.compile(r"\{(\d{0,4})(,?)(\d{0,4})\}")
_ANY = re.compile(".").fullmatch
_ATOM = r"(?:[^\\^$.|?*+(){}\[\]\n]|\.|\\[^\w\s])"  # a letter, any letter, an escaped sign
_FIXED = re.compile(f"{_ATOM}*")

Accepts = Callable[[str], object]


class PatternError(ValueError):
    """A pattern that is no regular expression, or one with more than names need."""


class NamePatterns:
    """Patterns in order, each with a value.

    Args:
        table: the values by pattern.

    Raises:
        PatternError: one of them cannot be compiled; the message names it.
    """

    def __init__(self, table: dict[str, Any]):
        self._steps = automata = 0
        self._patterns: list[tuple[_Fixed | _Automaton, Any]] = []
        for text, value in table.items():
            try:
                re.compile(text)
                compiled = _compile(text)
                automata += isinstance(compiled, _Automaton)
                if automata > MOST_AUTOMATA:
                    raise PatternError(f"more than {MOST_AUTOMATA:,} of its kind")
                self._patterns.append((compiled, value))
            except (re.error, PatternError, RecursionError, OverflowError) as error:
                raise PatternError(f"{text[:100]!r} ({error})") from error

    def find(self, name: str, default: Any) -> Any:
        """The value of the first pattern that a module's name fits.

        Raises:
            PatternError: all names looked up so far have taken too many steps.
        """
        for pattern, value in self._patterns:
            self._steps += FIXED_STEPS if isinstance(pattern, _Fixed) else len(name) + 1
            if self._steps > MOST_STEPS:
                raise PatternError("there are too many patterns for so many modules")
            # `$` also matches before a line break at the end.
            if pattern.fits(name) or (name.endswith("\n") and pattern.fits(name[:-1])):
                return value
        return default


def _compile(text: str) -> "_Fixed | _Automaton":
    return _Fixed(text) if _FIXED.fullmatch(text) else _Automaton(text)


class _Fixed:
    """A pattern without repetitions and alternatives, as nearly all are."""

    def __init__(self, text: str):
        self._length = len(re.findall(_ATOM, text))
        self._pattern = re.compile(text)

    def fits(self, name: str) -> bool:
        """Whether a name ends in the pattern, at a dot."""
        start = len(name) - self._length
        if start < 0 or (start and name[start - 1] != "."):
            return False
        return bool(self._pattern.fullmatch(name, start)) and "\n" not in name[:start]


@dataclass
class _Place:
    """A place in a pattern.

    Attributes:
        accepts: whether a letter leads from here to `then`; None where nothing is read.
        then: the places that follow.
        at: "start" or "end" where the place may only be passed at that end of the name.
    """

    accepts: Accepts | None = None
    then: list[int] = field(default_factory=list)
    at: str = ""


class _Automaton:
    """Any other pattern."""

    def __init__(self, text: str):
        parser = _Parser(text)
        tree = parser.alternatives()
        if parser.rest:
            raise PatternError(f"unexpected {parser.rest[0]!r}")
        self._places: list[_Place] = []
        self._end = self._add(_Place())
        body = self._build(tree, self._end)
        # The prefix (.*\.)? of PEFT.
        dot = self._add(_Place(".".__eq__, [body]))
        skip = self._add(_Place())
        self._places[skip].then = [dot, self._add(_Place(_ANY, [skip]))]
        self._first = self._closed({self._add(_Place(None, [body, skip]))}, at_start=True)
        self._states: list[frozenset[int]] = []
        self._numbers: dict[frozenset[int], int] = {}
        self._next: list[dict[str, int]] = []

    def fits(self, name: str) -> bool:
        """Whether a name ends in what the pattern describes, at a dot."""
        if len(self._states) > MOST_STATES:
            self._states, self._numbers, self._next = [], {}, []
        state = self._number(self._first)
        for letter in name:
            found = self._next[state].get(letter)
            if found is None:
                found = self._next[state][letter] = self._number(self._after(state, letter))
            state = found
        last = set(self._states[state])
        return self._end in self._closed(last, at_start=not name, at_end=True)

    def _number(self, places: frozenset[int]) -> int:
        if places not in self._numbers:
            self._numbers[places] = len(self._states)
            self._states.append(places)
            self._next.append({})
        return self._numbers[places]

    def _after(self, state: int, letter: str) -> frozenset[int]:
        reached: set[int] = set()
        for number in self._states[state]:
            place = self._places[number]
            if place.accepts is not None and place.accepts(letter):
                reached.update(place.then)
        return self._closed(reached)

    def _closed(
        self, places: set[int], *, at_start: bool = False, at_end: bool = False
    ) -> frozenset[int]:
        """The places, and all that are reached from them without reading a letter."""
        waiting, found = list(places), set(places)
        while waiting:
            place = self._places[waiting.pop()]
            blocked = (place.at == "start" and not at_start) or (place.at == "end" and not at_end)
            if place.accepts is None and not blocked:
                fresh = [other for other in place.then if other not in found]
                found.update(fresh)
                waiting += fresh
        return frozenset(found)

    def _add(self, place: _Place) -> int:
        if len(self._places) >= MOST_PLACES:
            raise PatternError("it is longer than names need")
        self._places.append(place)
        return len(self._places) - 1

    def _build(self, node: "_Node", then: int) -> int:
        """Add a node's places in front of the place `then`; returns the first of them."""
        match node:
            case _Letter(accepts):
                return self._add(_Place(accepts, [then]))
            case _Edge(at):
                return self._add(_Place(None, [then], at))
            case _Sequence(parts):
                for part in reversed(parts):
                    then = self._build(part, then)
                return then
            case _Choice(ways):
                return self._add(_Place(None, [self._build(way, then) for way in ways]))
            case _Repeat(inner, least, most):
                if most is None:
                    loop = self._add(_Place(None, [then]))
                    self._places[loop].then.append(self._build(inner, loop))
                    then = loop
                else:
                    for _ in range(most - least):
                        then = self._add(_Place(None, [then, self._build(inner, then)]))
                for _ in range(least):
                    then = self._build(inner, then)
                return then


@dataclass(frozen=True)
class _Letter:
    accepts: Accepts


@dataclass(frozen=True)
class _Edge:
    at: str


@dataclass(frozen=True)
class _Sequence:
    parts: "list[_Node]"


@dataclass(frozen=True)
class _Choice:
    ways: "list[_Node]"


@dataclass(frozen=True)
class _Repeat:
    inner: "_Node"
    least: int
    most: int | None


_Node = _Letter | _Edge | _Sequence | _Choice | _Repeat


class _Parser:
    """Parses the regular expressions that names need: no lookaround and no references."""

    def __init__(self, text: str):
        self.rest = text
        self._depth = 0

    def _take(self, count: int = 1) -> str:
        if len(self.rest) < count:
            raise PatternError("it ends too early")
        taken, self.rest = self.rest[:count], self.rest[count:]
        return taken

    def alternatives(self) -> _Node:
        """Ways that are separated by bars, up to a closing bracket or the end."""
        ways: list[_Node] = [self._sequence()]
        while self.rest.startswith("|"):
            self._take()
            ways.append(self._sequence())
        return ways[0] if len(ways) == 1 else _Choice(ways)

    def _sequence(self) -> _Node:
        parts: list[_Node] = []
        while self.rest and self.rest[0] not in "|)":
            parts.append(self._repeated(self._atom()))
        return _Sequence(parts)

    def _repeated(self, node: _Node) -> _Node:
        least, most = 1, 1
        counts = _COUNTS.match(self.rest)
        if self.rest[:1] in ("*", "+", "?"):
            sign = self._take()
            least, most = (1 if sign == "+" else 0), (1 if sign == "?" else None)  # type: ignore[assignment]
        elif counts and (counts[1] or counts[3]):
            self._take(len(counts[0]))
            least = int(counts[1] or 0)
            most = int(counts[3]) if counts[3] else None if counts[2] else least  # type: ignore[assignment]
            if most is not None and most < least:
                raise PatternError("a repetition has its limits the wrong way round")
        else:
            return node
        if self.rest.startswith("?"):  # as few as possible: the same names
            self._take()
        if self.rest[:1] in ("*", "+", "?"):
            raise PatternError("a repetition of a repetition")
        return _Repeat(node, least, most)

    def _atom(self) -> _Node:
        letter = self._take()
        match letter:
            case ".":
                return _Letter(_ANY)
            case "^":
                return _Edge("start")
            case "$":
                return _Edge("end")
            case "(":
                return self._group()
            case "[":
                return self._set()
            case "\\":
                return self._escape()
            case "*" | "+" | "?":
                raise PatternError("nothing to repeat")
        return _Letter(letter.__eq__)

    def _group(self) -> _Node:
        self._depth += 1
        if self._depth > MOST_NESTED:
            raise PatternError("too many groups inside each other")
        if self.rest.startswith("?"):
            if not self.rest.startswith("?:"):
                raise PatternError("a group of a kind that names do not need")
            self._take(2)
        inner = self.alternatives()
        if self._take() != ")":
            raise PatternError("a group does not end")
        self._depth -= 1
        return inner

    def _escape(self) -> _Node:
        letter = self._take()
        if letter in _CLASSES:
            return _Letter(re.compile(_CLASSES[letter]).fullmatch)
        if letter.isalnum():
            raise PatternError(f"\\{letter} is not needed in names")
        return _Letter(letter.__eq__)

    def _set(self) -> _Node:
        """A set such as [0-9_]; Python compiles it, as it matches one letter alone."""
        end = 1 if self.rest[:1] in ("]",) else 2 if self.rest[:2] == "^]" else 0
        while end < len(self.rest) and self.rest[end] != "]":
            end += 2 if self.rest[end] == "\\" else 1
        text = self._take(end + 1)
        try:
            return _Letter(re.compile(f"[{text}", re.ASCII | re.DOTALL).fullmatch)
        except re.error as error:
            raise PatternError(str(error)) from error
