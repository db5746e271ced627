"""The time that one input may cost while it is fuzzed.

CPU time, since the machine may be busy. libFuzzer's own timer counts the seconds of the machine,
and its signal ends the process where a library has taken the handler.
"""

import faulthandler
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

HUNG = 20.0  # CPU seconds for one input
TOO_SLOW = "an input costs more CPU time than any may"
STUCK = 300.0  # seconds without a bytecode, on a busy machine, after which the process ends


class SlowInputError(AssertionError):
    """An input costs more time than any may."""


@contextmanager
def watched(hung: float = HUNG, stuck: float = STUCK) -> Iterator[None]:
    """Limit the time of the block.

    Python code is interrupted once it has used up its CPU seconds. Code of a library cannot be
    interrupted: it is refused when it returns, and ends the process where it never does.

    Raises:
        SlowInputError: the block needs more than `hung` seconds of CPU time.
    """
    refused = False

    def refuse(_: int, __: FrameType | None) -> None:
        nonlocal refused
        refused = True
        raise SlowInputError(TOO_SLOW)

    before = signal.signal(signal.SIGPROF, refuse)
    began = time.process_time()
    faulthandler.dump_traceback_later(stuck, exit=True)
    signal.setitimer(signal.ITIMER_PROF, hung)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        faulthandler.cancel_dump_traceback_later()
        signal.signal(signal.SIGPROF, before)
    if refused or time.process_time() - began > hung:  # a parser may have caught what was raised
        raise SlowInputError(TOO_SLOW)
