"""Reads a language model's weights and shows, with evidence, which base it was built from.

    import huref

    dog = huref.fingerprint("meta-llama/Llama-2-7b", "dog.png")
    table = huref.compare(["path/to/base", "org/suspect", "dog.png"])
    for pair in table.pairs:
        print(pair.a, pair.b, pair.similarity.ics)

Everything is imported on first use, so `import huref` costs next to nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from huref.checking import check
    from huref.comparison import compare
    from huref.errors import HurefError
    from huref.invariants.record import Record
    from huref.lineage.table import LineageTable
    from huref.portrait import Fingerprint, fingerprint
    from huref.registry.fleet import fleet
    from huref.registry.identify import identify

__version__ = "0.1.0"
__all__ = [
    "Fingerprint",
    "HurefError",
    "LineageTable",
    "Record",
    "check",
    "compare",
    "fingerprint",
    "fleet",
    "identify",
]

_HOMES = {
    "Fingerprint": "huref.portrait",
    "HurefError": "huref.errors",
    "LineageTable": "huref.lineage.table",
    "Record": "huref.invariants.record",
    "check": "huref.checking",
    "compare": "huref.comparison",
    "fingerprint": "huref.portrait",
    "identify": "huref.registry.identify",
    "fleet": "huref.registry.fleet",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'huref' has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value
