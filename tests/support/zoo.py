"""Where the models of known lineage lie that ship with the repository."""

from pathlib import Path

ROOT = Path(__file__).parents[2]
ZOO = ROOT / "checkpoints" / "zoo"
