"""Saves a fleet's results in batches, at least every half minute."""

import time

from huref.errors import FleetError, HurefError
from huref.evidence.keys import Signer
from huref.registry.entry import Entry
from huref.registry.fleet.journal import Journal, JournalLine
from huref.registry.signing import sign_entry
from huref.registry.store import Store

MOST_PENDING = 256  # entries of 9 kB
LONGEST_PENDING = 30.0  # seconds
LARGEST_SHARE = 0.05  # of the time spent in saving


class Saver:
    """Adds entries to the registry and then lines to the journal, always in this order."""

    def __init__(self, store: Store, journal: Journal, signer: Signer | None = None):
        self._store = store
        self._signer = signer
        self._journal = journal
        self._lines: list[JournalLine] = []
        self._entries: list[Entry] = []
        self._saved_at = time.monotonic()
        self._took = 0.0
        self._broken = False

    def put(self, line: JournalLine, entry: Entry | None) -> None:
        """Queue a result."""
        self._lines.append(line)
        if entry is not None:
            entry = self._store.free_name(entry, self._entries)
            self._entries.append(sign_entry(entry, self._signer) if self._signer else entry)

    def save_if_due(self) -> None:
        """Save if many results are queued, or one has been for long."""
        age = time.monotonic() - self._saved_at
        if age < self._took / LARGEST_SHARE:
            return
        if len(self._entries) >= MOST_PENDING or (self._lines and age >= LONGEST_PENDING):
            self.save()

    def save(self) -> None:
        """Save all queued results.

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
                f"{error}; the last models (number: {len(self._entries)}) could not be saved",
                advice="run the same command again to have them measured again",
            ) from error
        self._lines, self._entries = [], []
        self._saved_at = time.monotonic()
        self._took = self._saved_at - began

    def close(self) -> None:
        """Save what is queued, unless saving failed before."""
        if not self._broken and self._lines:
            self.save()
