"""Where the inputs of the fuzzer are: stored ones in tests/fuzz, new ones in build/fuzz."""

from collections.abc import Iterator
from pathlib import Path

from scripts import ROOT

STORED = ROOT / "tests" / "fuzz"
WORK = ROOT / "build" / "fuzz"


def inputs_of(name: str) -> Iterator[Path]:
    """The stored inputs of a target: seeds, then those that failed once."""
    for kind in ("seeds", "found"):
        folder = STORED / kind / name
        if folder.is_dir():
            yield from sorted(folder.iterdir())
