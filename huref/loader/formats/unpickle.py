"""An unpickler that builds only plain data and descriptions of tensors.

A pickle is a program, and Python's own unpickler lets it call any function that it names. This one
supports only the instructions that torch uses to write a state dict and a fixed set of names; any
other pickle is refused. The pickle's length bounds the memory and time that it takes.
"""

from dataclasses import dataclass
from typing import Any

from huref.budget import SLOT, Budget
from huref.errors import locating
from huref.loader.formats.pickle_machine import (
    COSTS,
    OPERATIONS,
    Bytes,
    Machine,
    Operations,
)
from huref.loader.formats.pickled_tensors import BUILDERS, Builders, refusal


@dataclass(frozen=True)
class Allowlist:
    """The functions that a kind of pickle may call, and the instructions that it may contain."""

    builders: Builders
    operations: Operations


STATE_DICTS = Allowlist(BUILDERS, OPERATIONS)


def unpickle(
    data: Bytes,
    file: str,
    position: int = 0,
    allowed: Allowlist = STATE_DICTS,
    budget: Budget | None = None,
) -> tuple[Any, int]:
    """Plain data and descriptions from a pickle, and the position of the pickle's end.

    Every builder and operation of `allowed` must be harmless for any argument. Pickles of one file
    share a budget; without one a pickle may cost what `data` justifies.

    Raises:
        CheckpointError: the pickle is malformed or needs more than is allowed. Nothing of it was
            executed.
        EndOfPickleError: `data` ends before the pickle does.
    """
    machine = Machine(data, position, allowed.builders, budget or Budget(len(data)))
    with locating(file=file):
        _execute(machine, allowed.operations)
        return machine.result(), machine.position


def _execute(machine: Machine, operations: Operations) -> None:
    """Run the instructions up to STOP."""
    budget = machine.budget
    while (code := machine.take(1)) != b".":
        budget.charge(COSTS.get(code, SLOT))
        operation = operations.get(code)
        if operation is None:
            raise refusal(f"has the instruction {code!r}, which no state dict needs")
        try:
            operation(machine)
        except (ValueError, TypeError, KeyError, IndexError, OverflowError) as error:
            cause = f"{type(error).__name__}: {error}"[:200]
            raise refusal(f"is malformed at byte {machine.position} ({cause})") from error
