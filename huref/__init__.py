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

from huref.version import __version__

if TYPE_CHECKING:
    from huref.api.attest import Attestation, attest
    from huref.api.bench import bench
    from huref.api.bom import bom
    from huref.api.check import check
    from huref.api.fingerprint import Fingerprint, fingerprint
    from huref.api.verify import Verification, verify
    from huref.errors import HurefError
    from huref.invariants.record import Record
    from huref.registry.fleet.run import fleet
    from huref.registry.identify import identify
    from huref.report.results import LineageTable, compare

__all__ = [
    "Attestation",
    "Fingerprint",
    "HurefError",
    "LineageTable",
    "Record",
    "Verification",
    "__version__",
    "attest",
    "bench",
    "bom",
    "check",
    "compare",
    "fingerprint",
    "fleet",
    "identify",
    "verify",
]

_HOMES = {
    "Attestation": "huref.api.attest",
    "Verification": "huref.api.verify",
    "attest": "huref.api.attest",
    "bom": "huref.api.bom",
    "verify": "huref.api.verify",
    "Fingerprint": "huref.api.fingerprint",
    "HurefError": "huref.errors",
    "LineageTable": "huref.report.results",
    "Record": "huref.invariants.record",
    "bench": "huref.api.bench",
    "check": "huref.api.check",
    "compare": "huref.report.results",
    "fingerprint": "huref.api.fingerprint",
    "identify": "huref.registry.identify",
    "fleet": "huref.registry.fleet.run",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'huref' has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value
