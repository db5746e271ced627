"""Writes random re-initialisations of the downloaded models: strangers of exactly their shapes.

python -m scripts.real strangers [--cache DIR] [--only NAME...]
"""

import shutil

from scripts.real.catalogue import Cache, cache_parser, read_catalogue
from scripts.real.children import RANDOM

SEED = 7


def main() -> None:
    """Write a re-initialisation of each converted model that has none."""
    parser = cache_parser(__doc__)
    parser.add_argument("--only", nargs="+", default=list(read_catalogue()))
    options = parser.parse_args()
    cache = Cache(options.cache)
    from scripts.real.making import write_random

    cache.children.mkdir(parents=True, exist_ok=True)
    for name in options.only:
        parent, folder = cache.models / name, cache.children / f"{name}{RANDOM}"
        if folder.exists() or not parent.exists():
            continue
        partial = folder.with_name(f".{folder.name}")
        shutil.rmtree(partial, ignore_errors=True)
        write_random(parent, partial, SEED)
        partial.rename(folder)
        print(folder, flush=True)
