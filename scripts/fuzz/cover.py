"""The lines of huref's parsers that the stored inputs reach, and those of build/fuzz."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import huref
from scripts import make_parser
from scripts.fuzz.inputs import WORK, inputs_of

PACKAGE = Path(huref.__file__).parent
PARSERS = ("loader/formats", "loader/vocabulary", "bounded_json.py", "budget.py", "loader/hub")
Line = tuple[str, int]


def lines_reached(work: Callable[[], object]) -> set[Line]:
    """The lines of huref that a call runs through."""
    reached: set[Line] = set()
    root = str(PACKAGE)

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        if not frame.f_code.co_filename.startswith(root):
            return None
        if event == "line":
            reached.add((frame.f_code.co_filename, frame.f_lineno))
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        work()
    finally:
        sys.settrace(before)
    return reached


def _lines_of(path: Path) -> set[Line]:
    """The lines inside functions of a module."""
    waiting: list[CodeType] = [compile(path.read_text("utf-8"), str(path), "exec")]
    lines: set[Line] = set()
    while waiting:
        code = waiting.pop()
        inner = [const for const in code.co_consts if isinstance(const, CodeType)]
        waiting += inner
        if code.co_name != "<module>" and code.co_flags & 2:  # a function, not a class
            lines |= {(str(path), line) for _, _, line in code.co_lines() if line is not None}
            lines.discard((str(path), code.co_firstlineno))
    return lines


def _inputs(name: str) -> Iterator[Path]:
    yield from inputs_of(name)
    if (WORK / name).is_dir():
        yield from sorted((WORK / name).iterdir())


def main() -> None:
    """Run the command."""
    make_parser(__doc__).parse_args()
    from scripts.fuzz.targets import TARGETS

    reached: set[Line] = set()
    for name, run in TARGETS.items():
        for path in _inputs(name):
            data = path.read_bytes()
            reached |= lines_reached(lambda run=run, data=data: run(data))  # type: ignore[misc]
    total = found = 0
    for part in PARSERS:
        place = PACKAGE / part
        for path in sorted(place.rglob("*.py")) if place.is_dir() else [place]:
            lines = _lines_of(path)
            if lines:
                total += len(lines)
                found += len(lines & reached)
                share = len(lines & reached) / len(lines)
                print(f"{path.relative_to(PACKAGE)!s:<45} {share:>6.0%} of {len(lines)} lines")
    print(f"{'all':<45} {found / total:>6.0%} of {total} lines")
