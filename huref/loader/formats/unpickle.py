"""An unpickler that builds only plain data and descriptions of tensors.

A pickle is a program, and Python's own unpickler lets it call any function that it names. This one
supports only the instructions that torch uses to write a state dict and a fixed set of names; any
other pickle is refused. The pickle's length bounds the memory and time that it takes.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from huref.budget import SLOT, Budget, collector_paused
from huref.errors import locating
from huref.loader.formats.pickle_machine import (
    COSTS,
    OPERATIONS,
    Bytes,
    EndOfPickleError,
    Machine,
    Operations,
)
from huref.loader.formats.pickled_tensors import BUILDERS, Builders, refusal

STOP = ord(".")
# What an instruction costs and does, by its byte; None where it is not allowed.
Table = list[tuple[int, Callable[[Machine], object] | None]]


@dataclass(frozen=True)
class Allowlist:
    """The functions that a kind of pickle may call, and the instructions that it may contain."""

    builders: Builders
    operations: Operations

    @cached_property
    def table(self) -> Table:
        """What each instruction costs and does."""
        codes = (bytes([number]) for number in range(256))
        return [(COSTS.get(code, SLOT), self.operations.get(code)) for code in codes]


STATE_DICTS = Allowlist(BUILDERS, OPERATIONS)


def unpickle(
    data: Bytes,
    file: str,
    position: int = 0,
    allowed: Allowlist = STATE_DICTS,
    budget: Budget | None = None,
    more: Callable[[], bool] = lambda: False,
) -> tuple[Any, int]:
    """Plain data and descriptions from a pickle, and the position of the pickle's end.

    Every builder and operation of `allowed` must be harmless for any argument. Pickles of one file
    share a budget; without one a pickle may cost what `data` justifies. `more` is called where
    `data` ends before the pickle does: it appends to `data`, or returns False.

    Raises:
        CheckpointError: the pickle is malformed or needs more than is allowed. Nothing of it was
            executed.
        EndOfPickleError: `data` ends before the pickle does.
    """
    machine = Machine(data, position, allowed.builders, budget or Budget(len(data)))
    with locating(file=file), collector_paused():
        _execute(machine, allowed.table, more)
        return machine.result(), machine.position


def _execute(machine: Machine, table: Table, more: Callable[[], bool]) -> None:
    """Run the instructions up to STOP. Every one reads its arguments before it changes anything."""
    data, charge = machine.data, machine.budget.charge
    while True:
        start = machine.position
        try:
            if start >= len(data):
                raise EndOfPickleError
            code = data[start]
            machine.position = start + 1
            if code == STOP:
                return
            cost, operation = table[code]
            charge(cost)
            if operation is None:
                name = bytes([code])
                raise refusal(f"has the instruction {name!r}, which no state dict needs")
            operation(machine)
        except EndOfPickleError:
            machine.position = start
            if not more():
                raise
        except (ValueError, TypeError, KeyError, IndexError, OverflowError) as error:
            cause = f"{type(error).__name__}: {error}"[:200]
            raise refusal(f"is malformed at byte {machine.position} ({cause})") from error
