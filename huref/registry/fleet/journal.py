"""What became of each model of a fleet: one JSON line each, kept beside the registry."""

import datetime as dt
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from huref.errors import FleetError

DONE, KNOWN, FAILED = "done", "known", "failed"
# What may be gone the next time: such models are tried again without being asked to.
PASSING = ("NetworkError", "WorkerDied", "MemoryError")


@dataclass(frozen=True)
class Line:
    """What became of a model.

    Attributes:
        listed: the name under which it was asked for.
        model: its name in the registry.
        revision: the commit, or None.
        recipe: digest of the recipe that was asked for.
        status: "done"; "known" when the registry had it at this commit; or "failed".
        kind: class of the error, or "".
        reason: what went wrong, in words, or "".
        seconds: from beginning to end.
        bytes_read: from disk or network.
        attempts: how often it was tried in this run.
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
        """Whether it failed for a reason that may be gone the next time."""
        return self.status == FAILED and self.kind in PASSING


class Journal:
    """A file that only grows; of several lines on one model the last counts."""

    def __init__(self, path: Path):
        self.path = path
        self.lines = _read(path)

    def find(self, listed: str, recipe: str) -> Line | None:
        """The last line on a model by one recipe."""
        return self.lines.get((listed, recipe))

    def write(self, lines: Iterable[Line]) -> None:
        """Append lines, all of them on disk when this returns.

        Raises:
            FleetError: the file cannot be written.
        """
        now = dt.datetime.now(dt.UTC).isoformat(timespec="seconds")
        lines = list(lines)
        text = "".join(
            json.dumps(asdict(line) | {"at": now}, ensure_ascii=False) + "\n" for line in lines
        )
        try:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(text)
        except OSError as error:
            raise FleetError(
                f"{self.path}: cannot be written ({error.strerror}); what was measured so far is "
                "in the registry; make room and run the same command again"
            ) from error
        self.lines |= {(line.listed, line.recipe): line for line in lines}


def _read(path: Path) -> dict[tuple[str, str], Line]:
    if not path.exists():
        return {}
    found: dict[tuple[str, str], Line] = {}
    text = path.read_bytes()
    if text and not text.endswith(b"\n"):
        with path.open("ab") as file:
            file.write(b"\n")  # a line that a crash cut short must not swallow the next one
    for raw in text.splitlines():
        try:
            data = json.loads(raw)
            del data["at"]
            line = Line(**data)
        except (ValueError, TypeError, KeyError):
            continue  # cut short: its model is measured again, and the registry tells a double
        found[line.listed, line.recipe] = line
    return found
