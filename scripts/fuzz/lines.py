"""The lines of huref that a call runs through, for the loop that fuzzes without atheris."""

import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import huref

PACKAGE = Path(huref.__file__).parent
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
