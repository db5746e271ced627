"""The report of a fleet: figures, failures, and a picture of the models' dogs."""

from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from huref.decoder.picture import contact_sheet, write_png
from huref.decoder.render import load_decoder
from huref.recipe import load_recipe
from huref.registry.fleet.journal import DONE, FAILED, KNOWN, JournalLine
from huref.registry.store import Store

MOST_CAPTIONED = 48  # dogs up to which each has its name; more are drawn as a mosaic
MOST_SHOWN = 600  # dogs in a mosaic; of more models an even sample is drawn


@dataclass(frozen=True)
class FleetReport:
    """The results of one run.

    Attributes:
        lines: one for each model, in the order in which they were finished.
        duplicates: repeated names that were dropped.
        seconds: of the whole run.
        requests: to the Hub, by this process.
        seconds_waited: for the Hub's rate limits, the sum over all workers of this process.
    """

    lines: list[JournalLine]
    duplicates: int
    seconds: float
    requests: int
    seconds_waited: float

    def count(self, status: str) -> int:
        """The number of models with a status."""
        return sum(line.status == status for line in self.lines)

    @property
    def failures(self) -> list[JournalLine]:
        """The lines of failed models, sorted by the kind of failure."""
        failed = (line for line in self.lines if line.status == FAILED)
        return sorted(failed, key=lambda line: (line.kind, line.listed))

    def to_json(self) -> dict[str, Any]:
        """The figures and a line for every model, for `huref fleet --json`."""
        return {
            "done": self.count(DONE),
            "known": self.count(KNOWN),
            "failed": self.count(FAILED),
            "failures": dict(Counter(line.kind for line in self.failures)),
            "duplicates": self.duplicates,
            "seconds": round(self.seconds, 3),
            "bytes_read": sum(line.bytes_read for line in self.lines),
            "requests": self.requests,
            "seconds_waited": round(self.seconds_waited, 3),
            "models": [asdict(line) for line in self.lines],
        }


def draw_fleet(store: Store, report: FleetReport, path: Path, recipe: str = "default") -> int:
    """Write a PNG with the dogs of a fleet's models; return how many it shows.

    Raises:
        OSError: the file cannot be written.
    """
    wanted = {line.model for line in report.lines if line.status != FAILED}
    names, latents = _latents_of(store, wanted)
    if not names:
        return 0
    decoder = load_decoder(load_recipe(recipe)[2])
    images = list(decoder.render(torch.from_numpy(latents)))
    if len(names) <= MOST_CAPTIONED:
        captions = [f"{Path(name).name}\n{name.rpartition('/')[0]}" for name in names]
        sheet = contact_sheet(images, captions, 6, 160)
    else:
        sheet = contact_sheet(images, [""] * len(images), round(len(images) ** 0.5 * 1.25), 64)
    write_png(path, sheet, {"huref:models": str(len(wanted)), "huref:shown": str(len(names))})
    return len(names)


def _latents_of(store: Store, wanted: set[str]) -> tuple[list[str], NDArray[np.float32]]:
    """Names and latents of the wanted models, or of an even sample of MOST_SHOWN of them."""
    names, rows = [], []
    step = -(-len(wanted) // MOST_SHOWN) or 1
    seen = 0
    for chunk in store.chunks():
        for row, labels in enumerate(chunk.labels):
            if labels.model in wanted:
                if seen % step == 0:
                    names.append(labels.model)
                    rows.append(np.array(chunk.latents[row]))
                seen += 1
    return names, np.array(rows, np.float32)
