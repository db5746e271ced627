"""Progress of long work: a bar in terminals and notebooks, and events for a page.

A bar is shown where it can be redrawn. What listens (`listening`) is told of every step, whether or
not a bar is shown. tqdm is imported with the first bar: it took half of `huref --help`.
"""

from collections.abc import Callable, Iterable, Iterator, Sized
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Self, TypeVar

T = TypeVar("T")
DELAY = 2.0  # seconds; shorter work shows no bar


@dataclass(frozen=True)
class Step:
    """How far some work is.

    Attributes:
        what: what is worked on, such as the name of a model.
        done: how much of it is done, in `unit`.
        total: how much there is, or None where it is not known.
        unit: "B" for bytes.
    """

    what: str
    done: int
    total: int | None
    unit: str


Listener = Callable[[Step], None]
_listener: Listener | None = None
_quiet = False


def be_quiet(quiet: bool = True) -> None:
    """Show no bars in this process."""
    global _quiet
    _quiet = quiet


def is_quiet() -> bool:
    """Whether `be_quiet` was asked for."""
    return _quiet


def is_hidden() -> bool | None:
    """For tqdm's `disable`: None hides a bar where stderr is no terminal, but for notebooks."""
    if _quiet:
        return True
    return False if _in_notebook() else None


def _in_notebook() -> bool:
    from tqdm.auto import tqdm

    return any(kind.__module__ == "tqdm.notebook" for kind in tqdm.__mro__)


@contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Tell `listener` of every step in this process while the block runs."""
    global _listener
    before, _listener = _listener, listener
    try:
        yield
    finally:
        _listener = before


class Bar:
    """Work of which the amount is known, or will be."""

    def __init__(self, what: str, total: int | None = None, unit: str = "it", leave: bool = True):
        from tqdm.auto import tqdm

        self.what, self.unit, self.done = what, unit, 0
        self._bar: tqdm[Any] = tqdm(
            desc=what,
            total=total,
            unit=unit,
            unit_scale=unit == "B",
            leave=leave,
            delay=DELAY,
            disable=is_hidden(),
        )
        self._total = total

    @property
    def total(self) -> int | None:
        """How much there is to do."""
        return self._total

    @total.setter
    def total(self, total: int | None) -> None:
        self._total = self._bar.total = total
        self._tell()

    def update(self, more: int = 1) -> None:
        """Count what was done."""
        self.done += more
        self._bar.update(more)
        self._tell()

    def _tell(self) -> None:
        if _listener is not None:
            _listener(Step(self.what, self.done, self.total, self.unit))

    def __enter__(self) -> Self:
        self._tell()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()


def track(items: Iterable[T], what: str, unit: str = "it") -> Iterator[T]:
    """The items, one after the other, with a bar."""
    total = len(items) if isinstance(items, Sized) else None
    with Bar(what, total, unit) as bar:
        for item in items:
            yield item
            bar.update()
