"""Results on their way to the registry: many at a time, none for long."""

import time

from huref.errors import FleetError, HurefError
from huref.registry.entry import Entry
from huref.registry.fleet.journal import Journal, Line
from huref.registry.store import Store

MOST_PENDING = 256  # entries of 9 kB
LONGEST_PENDING = 30.0  # seconds
LARGEST_SHARE = 0.05  # of the time may go into saving


class Saver:
    """Adds entries to the registry, then says so in the journal; never the other way round."""

    def __init__(self, store: Store, journal: Journal):
        self._store = store
        self._journal = journal
        self._lines: list[Line] = []
        self._entries: list[Entry] = []
        self._saved_at = time.monotonic()
        self._took = 0.0
        self._broken = False

    def put(self, line: Line, entry: Entry | None) -> None:
        """Take in a result."""
        self._lines.append(line)
        if entry is not None:
            self._entries.append(entry)

    def save_if_due(self) -> None:
        """Save when enough has gathered, or has waited long enough."""
        age = time.monotonic() - self._saved_at
        if age < self._took / LARGEST_SHARE:
            return
        if len(self._entries) >= MOST_PENDING or (self._lines and age >= LONGEST_PENDING):
            self.save()

    def save(self) -> None:
        """Save everything.

        Raises:
            FleetError: the registry or the journal cannot be written.
        """
        began = time.monotonic()
        try:
            if self._entries:
                self._store.add(self._entries)
            self._journal.write(self._lines)
        except (HurefError, OSError) as error:
            self._broken = True
            raise FleetError(
                f"{error}; what was measured in the last seconds (models: {len(self._entries)}) "
                "could not be saved and will be measured again when you run the same command"
            ) from error
        self._lines, self._entries = [], []
        self._saved_at = time.monotonic()
        self._took = self._saved_at - began

    def close(self) -> None:
        """Save what is left, unless saving failed already."""
        if not self._broken and self._lines:
            self.save()
