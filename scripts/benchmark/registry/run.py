"""Measures registries: sketches, stores and identify; docs/measured/registry.md has the tables.

    python -m scripts.benchmark registry sketch    error of a sketch's ICS, by size
    python -m scripts.benchmark registry store     build, memory and query time at 1k, 10k, 100k
    python -m scripts.benchmark registry strangers false positives of identify among strangers

Each prints Markdown and keeps its intermediate results in --work, so that a run can be continued.
`store` needs scikit-learn, faiss-cpu and lancedb, and 4 GB of disk.
"""

import json
from pathlib import Path

import torch

from scripts import make_parser
from scripts.benchmark.registry import engines, errors, strangers


def main() -> None:
    """Run the measurement that the command line names."""
    parser = make_parser(__doc__)
    parts = parser.add_subparsers(dest="part", required=True)
    sketch = parts.add_parser("sketch")
    sketch.add_argument("--families", type=int, default=24)
    sketch.add_argument("--zoo", type=Path, default=Path("checkpoints/zoo"))
    store = parts.add_parser("store")
    store.add_argument("--counts", type=int, nargs="+", default=[1_000, 10_000, 100_000])
    store.add_argument("--what", nargs="+", choices=engines.KINDS, default=engines.KINDS)
    known = parts.add_parser("strangers")
    known.add_argument("--bases", type=int, default=1_000)
    known.add_argument("--strangers", type=int, default=10_000)
    one = parts.add_parser("one", help="one measurement in this process; used by store")
    one.add_argument("engine", choices=engines.ENGINES)
    one.add_argument("what", choices=engines.KINDS)
    one.add_argument("count", type=int)
    for part in (sketch, store, known, one):
        part.add_argument(
            "--work",
            type=Path,
            default=Path("runs/registry"),
            help="folder of intermediate results",
        )
    options = parser.parse_args()
    torch.set_num_threads(1)
    work: Path = options.work
    work.mkdir(parents=True, exist_ok=True)
    if options.part == "sketch":
        print(errors.report(work, options.families, options.zoo))
    elif options.part == "store":
        print(engines.report(work, options.counts, options.what))
    elif options.part == "strangers":
        print(strangers.report(work, options.bases, options.strangers))
    else:
        print(json.dumps(engines.measure_here(options.engine, options.what, options.count, work)))
