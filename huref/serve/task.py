"""What the server and its worker processes tell each other; all of it can be pickled."""

from dataclasses import dataclass, field
from typing import Any, Literal

from huref.serve.names import Named

Kind = Literal["compare", "identify", "map"]


@dataclass(frozen=True)
class Task:
    """One measurement.

    Attributes:
        job: its id.
        kind: what is done.
        models: in the order given; none for a map.
        registry: URI of the known bases.
        threads: that may be used.
    """

    job: str
    kind: Kind
    models: tuple[Named, ...]
    registry: str
    threads: int = 1


@dataclass(frozen=True)
class Advance:
    """How far a task is: a sentence, and the share that is done, from 0 to 1."""

    stage: str
    share: float


@dataclass(frozen=True)
class Page:
    """A file of a result: its text and its name when it is saved."""

    text: str = field(repr=False)
    name: str


@dataclass(frozen=True)
class Result:
    """What a task found.

    Attributes:
        data: as the command prints it with --json; None for a map.
        view: the result as HTML, for the page.
        pages: files to open or to save, by their address below the job's.
    """

    data: dict[str, Any] | None
    view: str = field(repr=False)
    pages: dict[str, Page] = field(default_factory=dict)


@dataclass(frozen=True)
class Failure:
    """Why a task has no result, in a line."""

    why: str


Answer = Advance | Result | Failure
