"""What reading a file of N bytes may cost: memory and steps, both derived from N.

The promise (SECURITY.md): above the imports, an input of N bytes costs at most 64 MB + 32 N of
memory and max(2 s, N / 1 MB/s) of CPU time until it is read or refused. Parsers keep it by counting
what they create, in a `Budget`, before they create it. Of the promised memory the parsed objects
get `FLOOR + FACTOR * N`; the rest is for the file's bytes and their copies.
"""

import gc
from collections.abc import Iterator
from contextlib import contextmanager

from huref.errors import BudgetExceededError

FLOOR = 24 << 20  # bytes of objects that any file may need
FACTOR = 18  # bytes of objects for each byte of the file

# Sizes in bytes of Python 3.11 objects, with the pointer that holds them and its spare room.
LIST, DICT, TUPLE, NUMBER, TEXT, SLOT = 96, 192, 64, 40, 64, 16
TOKEN = 176  # a Token with its bytes and its id
TENSOR = 640  # a StoredTensor with its name and its place in the indexes

STEPS_FLOOR = 300_000  # instructions of a parser written in Python: less than a second
STEPS_FACTOR = 0.25  # instructions for each byte of the file


class Budget:
    """Counts the memory and the steps that a parser needs, against what the file's size justifies.

    Args:
        size: of the file, in bytes.
        floor: bytes of objects that are allowed whatever the size.
    """

    def __init__(self, size: int, floor: int = FLOOR):
        self.size = size
        self.memory_left = floor + FACTOR * size
        self.steps_left = STEPS_FLOOR + int(STEPS_FACTOR * size)

    def grow(self, size: int) -> None:
        """Allow what further bytes of the file justify."""
        self.size += size
        self.memory_left += FACTOR * size
        self.steps_left += int(STEPS_FACTOR * size)

    def spend(self, memory: int) -> None:
        """Count bytes of objects before they are created.

        Raises:
            BudgetExceededError: they are more than the file's size justifies.
        """
        self.memory_left -= memory
        if self.memory_left < 0:
            raise BudgetExceededError(
                f"it would need more memory than a file of {self.size:,} bytes justifies"
            )

    def charge(self, memory: int) -> None:
        """One step that needs some bytes of memory; as `step` and `spend`, in one call."""
        self.steps_left -= 1
        self.memory_left -= memory
        if self.steps_left < 0 or self.memory_left < 0:
            self.step(0)
            self.spend(0)

    def step(self, count: int = 1) -> None:
        """Count steps of a parser.

        Raises:
            BudgetExceededError: they are more than the file's size justifies.
        """
        self.steps_left -= count
        if self.steps_left < 0:
            raise BudgetExceededError(
                f"it would take more steps than a file of {self.size:,} bytes justifies"
            )


@contextmanager
def collector_paused() -> Iterator[None]:
    """A block in which Python does not look for objects that refer to each other in a circle.

    A parser creates objects by the hundred thousand, and Python would look through all that this
    process has imported again and again: most of the CPU time of a small file. The budget bounds
    what the block can create. Blocks of several threads may overlap: the last one that began with
    the collector at work puts it to work again.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
