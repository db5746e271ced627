"""Makes children of the downloaded models.

    python -m scripts.real children [--cache DIR] [--only NAME...] [--minutes N] [--list FILE]

A child whose folder exists is not made again, so a stopped run can be continued. Each folder
appears when it is complete. A child that cannot be made is named, and the others are made; the exit
code is then 1. After --minutes no child is started.
"""

import json
import math
import shutil
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from huref.errors import one_line
from scripts import ROOT
from scripts.real.catalogue import Cache, cache_parser, read_catalogue

CHILDREN = ROOT / "configs" / "real-children.yaml"
MANIFEST = "children.json"
RANDOM = "-random"  # what the name of a random re-initialisation ends with


def read_children(path: Path = CHILDREN) -> dict[str, dict[str, Any]]:
    """The entries of the list, completed by the defaults, and one for each kind of attack."""
    data = yaml.safe_load(path.read_text("utf-8"))
    entries: dict[str, dict[str, Any]] = dict(data["children"])
    for group in data.get("attacks", ()):
        shared = {key: value for key, value in group.items() if key not in ("kinds", "suffix")}
        end = group.get("suffix", "")
        entries |= {f"attack-{kind}{end}": {"attack": [kind], **shared} for kind in group["kinds"]}
    return {name: data["defaults"] | entry for name, entry in entries.items()}


def folder_of(name: str, cache: Cache, children: Mapping[str, Any]) -> Path:
    """The folder of a child, of a random re-initialisation or of a converted public model."""
    made = name in children or name.endswith(RANDOM)
    return (cache.children if made else cache.models) / name


def with_parents(names: list[str], children: Mapping[str, Any]) -> Iterator[str]:
    """The names and the children that they are made from, parents first."""
    for name in names:
        yield from with_parents([p for p in children[name]["from"] if p in children], children)
        yield name


def root_of(name: str, children: Mapping[str, Any]) -> str:
    """The public model that a child comes from."""
    return root_of(children[name]["from"][0], children) if name in children else name


def make_children(names: list[str], cache: Cache, children: dict[str, Any], minutes: float) -> None:
    """Make the missing ones of these children and keep their seconds in a manifest."""
    from scripts.real.making import make

    cache.children.mkdir(parents=True, exist_ok=True)
    last, failed = time.monotonic() + 60 * minutes, list[str]()
    for name in dict.fromkeys(with_parents(names, children)):
        folder = cache.children / name
        if folder.exists():
            continue
        if time.monotonic() > last:
            print("stopped by --minutes", flush=True)
            return
        spec = children[name]
        parents = [folder_of(parent, cache, children) for parent in spec["from"]]
        if "merge" in spec:  # its base is where its parents come from
            parents.append(folder_of(root_of(name, children), cache, children))
        missing = [parent.name for parent in parents if not parent.exists()]
        if missing:
            print(
                f"{name}: {missing[0]} is missing; run python -m scripts.real fetch, then strangers"
            )
            failed.append(name)
            continue
        partial = folder.with_name(f".{name}")
        shutil.rmtree(partial, ignore_errors=True)
        began, processor = time.monotonic(), time.process_time()
        try:
            make(spec, parents, partial)
        except Exception as error:  # of any library; a night's run goes on with the next child
            print(f"{name}: not made, {type(error).__name__}: {one_line(error)}", flush=True)
            failed.append(name)
            continue
        partial.rename(folder)
        entry = {
            "seconds": round(time.monotonic() - began),
            "processor_seconds": round(time.process_time() - processor),
        }
        _remember(cache.root / MANIFEST, name, entry)
        print(f"{name}: {entry['processor_seconds']} s of processor time", flush=True)
    if failed:
        raise SystemExit(f"not made: {', '.join(failed)}")


def _remember(path: Path, name: str, entry: Mapping[str, Any]) -> None:
    known = json.loads(path.read_text("utf-8")) if path.exists() else {}
    partial = path.with_name(f".{path.name}")
    partial.write_text(json.dumps(known | {name: entry}, indent=1), "utf-8")
    partial.replace(path)


def main() -> None:
    """Make the children that the command line asks for."""
    parser = cache_parser(__doc__)
    parser.add_argument("--list", type=Path, default=CHILDREN, help="the children's entries")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="these and their parents")
    parser.add_argument("--minutes", type=float, default=math.inf, help="start none afterwards")
    options = parser.parse_args()
    children = read_children(options.list)
    names = options.only or list(children)
    if unknown := [name for name in names if name not in children]:
        parser.error(f"there is no child {', '.join(unknown)}")
    known = read_catalogue()
    for name in names:
        if root_of(name, children) not in known:
            parser.error(f"{name} comes from {root_of(name, children)}, which is not known")
    make_children(names, Cache(options.cache), children, options.minutes)
