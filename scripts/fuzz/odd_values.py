"""Every value of a folder's JSON replaced by an odd one, and every tensor by another, one by one.

What a fuzzer would take long to try: a setting that is a list, null or a number of 400 digits, a
tensor that is missing or of another type or shape.

    python -m scripts.fuzz odd                  all seeds of `folder`; exits with 1 on a failure
"""

import copy
import json
import sys
import traceback
from collections.abc import Iterator
from typing import Any

from scripts import make_parser
from scripts.fuzz.folders import MARK, sections
from scripts.fuzz.inputs import inputs_of

ODD: tuple[Any, ...] = (
    None, True, 0, -1, 3, 2**31, 10**30, 10**400, 0.5, 1e308, float("nan"), float("inf"), "", "3",
    "a" * 300, "\u2028\ud83d\ude00", [], [[]], [1, "a"], {}, {"a": {}},
)  # fmt: skip
SHAPES = ("", "0", "1", "7", "0,8", "8,0", "3,5", "8,8,8", "1,1,1,1")
TYPES = ("F32", "F16", "I64", "I32", "I8", "U8", "BOOL", "F8_E5M2", "F64", "?")


def variants(data: bytes) -> Iterator[bytes]:
    """An input with one value replaced, for each value of its JSON and each of its tensors."""
    parts = list(sections(data))
    for number, (head, body) in enumerate(parts):
        for changed in _changed(body):
            others = [*parts[:number], (head, changed), *parts[number + 1 :]]
            yield b"\n".join(MARK + name + b"\n" + text for name, text in others)


def _changed(body: bytes) -> Iterator[bytes]:
    try:
        value = json.loads(body)
    except ValueError:
        yield from _changed_lines(body.decode("latin-1").split("\n"))
        return
    for path in _paths(value):
        for odd in ODD:
            yield json.dumps(_replaced(value, path, odd)).encode()
        yield json.dumps(_removed(value, path)).encode()


def _changed_lines(lines: list[str]) -> Iterator[bytes]:
    """Lines of tensors, or of a GGUF's values."""
    for number, line in enumerate(lines):
        key, equals, _ = line.partition("=")
        words = line.split(" ")
        found: list[str] = [""]
        if equals and " " not in key:
            found += [f"{key}={json.dumps(odd)}" for odd in ODD]
        elif len(words) > 2:
            found += [" ".join([*words[:2], shape, *words[3:]]) for shape in SHAPES]
            found += [" ".join([words[0], kind, *words[2:]]) for kind in TYPES]
        for other in found:
            yield "\n".join([*lines[:number], other, *lines[number + 1 :]]).encode("latin-1")


def _paths(value: Any) -> Iterator[tuple[Any, ...]]:
    """The places of all values inside a value, and its own."""
    yield ()
    pairs = value.items() if isinstance(value, dict) else []
    for key, inner in enumerate(value[:4]) if isinstance(value, list) else pairs:
        yield from ((key, *path) for path in _paths(inner))


def _replaced(value: Any, path: tuple[Any, ...], odd: Any) -> Any:
    if not path:
        return odd
    found = copy.copy(value)
    found[path[0]] = _replaced(value[path[0]], path[1:], odd)
    return found


def _removed(value: Any, path: tuple[Any, ...]) -> Any:
    found = copy.deepcopy(value)
    if path:
        inner = found
        for key in path[:-1]:
            inner = inner[key]
        del inner[path[-1]]
    return found


def main() -> None:
    """Run the command."""
    parser = make_parser(__doc__)
    parser.add_argument("--every", type=int, default=1, help="try one variant in so many")
    arguments = parser.parse_args()
    from scripts.fuzz.targets import TARGETS

    tried = 0
    failures: dict[str, bytes] = {}
    for path in inputs_of("folder"):
        for data in variants(path.read_bytes()):
            tried += 1
            if tried % arguments.every:
                continue
            try:
                TARGETS["folder"](data)
            except Exception as error:
                place = traceback.extract_tb(error.__traceback__)[-1]
                where = f"{type(error).__name__} at {place.filename}:{place.lineno}: {error}"[:200]
                if where not in failures:
                    failures[where] = data
                    print(f"seed {path.name}: {where}", file=sys.stderr, flush=True)
    print(f"{tried // arguments.every} variants, {len(failures)} kinds of failures")
    if failures:
        sys.exit(1)


if __name__ == "__main__":
    main()
