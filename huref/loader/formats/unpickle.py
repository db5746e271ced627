"""A reader of pickles that can build nothing but tensor descriptions.

A pickle is a program. Python's own unpickler runs it and lets it call anything it names; this one
knows the instructions with which torch writes a state dict, a handful of names, and nothing that
calls. Whatever else a pickle asks for is refused. Memory and time are bounded by its length.
"""

from dataclasses import dataclass
from typing import Any, NoReturn

from huref.errors import CheckpointError
from huref.loader.formats.pickle_machine import OPERATIONS, Bytes, Machine, Operations
from huref.loader.formats.tensor_views import BUILDERS, Builders

MAX_INSTRUCTIONS = 2_000_000  # a tensor takes about thirty


@dataclass(frozen=True)
class Allowlist:
    """What pickles of one kind may apply, and the instructions that they may have."""

    builders: Builders
    operations: Operations


STATE_DICTS = Allowlist(BUILDERS, OPERATIONS)


def unpickle(
    data: Bytes, file: str, position: int = 0, allowed: Allowlist = STATE_DICTS
) -> tuple[Any, int]:
    """Plain data and tensor descriptions from a pickle, and where the pickle ends.

    Whoever brings another allowlist keeps it as harmless as the one here.

    Raises:
        CheckpointError: it asks for anything else, or makes no sense; nothing was executed.
        EndOfPickleError: `data` ends before the pickle does.
    """
    machine = Machine(data, position, allowed.builders)

    def refuse(why: object) -> NoReturn:
        raise CheckpointError(
            f"{file}: its pickle holds more than tensors ({why}); nothing was executed; "
            "save the state dict alone, or as safetensors"
        )

    executed = 0
    while (code := machine.take(1)) != b".":
        executed += 1
        if executed > MAX_INSTRUCTIONS:
            refuse(f"more than {MAX_INSTRUCTIONS} instructions")
        operation = allowed.operations.get(code)
        if operation is None:
            refuse(f"instruction {code!r}")
        try:
            operation(machine)
        except (ValueError, TypeError, KeyError, IndexError) as error:
            refuse(str(error)[:200] or type(error).__name__)
    if not machine.stack:
        refuse("it builds nothing")
    return machine.stack[-1], machine.position
