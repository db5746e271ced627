"""The journal of a fleet: a JSON line for each measured or failed model, beside the registry."""

import datetime as dt
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from huref import escape
from huref.bounded_json import loads_object
from huref.errors import FleetError, NetworkError
from huref.files import refuse_link

DONE, KNOWN, FAILED = "done", "known", "failed"
NETWORK_ERROR, WORKER_DIED = NetworkError.__name__, "WorkerDied"
SHORTEST = 60  # bytes of a line with all its keys
# Kinds of temporary failures. Such models are tried again in the same run and in the next.
TEMPORARY = (NETWORK_ERROR, WORKER_DIED, "MemoryError")


@dataclass(frozen=True)
class JournalLine:
    """The result for one model.

    Attributes:
        listed: its name in the list.
        model: its name in the registry.
        revision: the commit, or None.
        recipe: digest of the registry's recipe.
        status: "done"; "known" if the registry has it at this commit; or "failed".
        kind: class name of the error, or "".
        reason: the error's message without the model, or "".
        seconds: from start to finish.
        bytes_read: from disk or network.
        attempts: in this run.
    """

    listed: str
    model: str
    revision: str | None
    recipe: str
    status: str
    kind: str = ""
    reason: str = ""
    seconds: float = 0.0
    bytes_read: int = 0
    attempts: int = 1

    @property
    def may_pass(self) -> bool:
        """Whether it failed for a reason that may be gone at the next attempt."""
        return self.status == FAILED and self.kind in TEMPORARY


class Journal:
    """An append-only file; the last line of a model counts."""

    def __init__(self, path: Path):
        self.path = path
        self.lines = _read(path)

    def find(self, listed: str, recipe: str) -> JournalLine | None:
        """The last line of a model (its name in the list) and a recipe (its digest)."""
        return self.lines.get((listed, recipe))

    def write(self, lines: Iterable[JournalLine]) -> None:
        """Append lines.

        Raises:
            FleetError: the file cannot be written.
        """
        now = dt.datetime.now(dt.UTC).isoformat(timespec="seconds")
        lines = list(lines)
        text = "".join(escape.to_json(asdict(line) | {"at": now}) + "\n" for line in lines)
        refuse_link(self.path)
        try:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(text)
        except OSError as error:
            raise FleetError(
                f"cannot be written ({error.strerror}); finished models are in the registry",
                file=self.path,
                advice="free some space and run the same command again",
            ) from error
        self.lines |= {(line.listed, line.recipe): line for line in lines}


def _parse(data: dict[str, Any]) -> JournalLine:
    """A line from its JSON. Raises TypeError or ValueError for fields of another type."""
    line = JournalLine(**data)
    texts = (line.listed, line.model, line.revision or "", line.recipe, line.status, line.kind)
    numbers = (line.seconds, line.bytes_read, line.attempts)
    if not all(isinstance(text, str) for text in (*texts, line.reason)):
        raise TypeError("a field of text that is none")
    if not all(type(number) in (int, float) for number in numbers):
        raise TypeError("a field of numbers that is none")
    return line


def _read(path: Path) -> dict[tuple[str, str], JournalLine]:
    refuse_link(path)
    if not path.exists():
        return {}
    found: dict[tuple[str, str], JournalLine] = {}
    text = path.read_bytes()
    if text and not text.endswith(b"\n"):
        with path.open("ab") as file:
            file.write(b"\n")  # so that the next line is not appended to one that a crash cut short
    for raw in text.splitlines():
        if len(raw) < SHORTEST:
            continue
        try:
            data = loads_object(raw)
            del data["at"]
            line = _parse(data)
        except (ValueError, TypeError, KeyError):
            continue  # cut short by a crash; its model is measured again and added only once
        found[line.listed, line.recipe] = line
    return found
