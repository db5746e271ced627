"""Checks a built site: the API page is complete, and no page loads anything from elsewhere."""

import argparse
import inspect
import re
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path

import huref
from huref import errors
from scripts import ROOT

SITE = ROOT / "build" / "site"
LOADED = re.compile(r"<(?:script|img|iframe)[^>]*\ssrc=\"?(https?:)?//|<link[^>]*stylesheet[^>]*//")


def public_names() -> Iterator[str]:
    """Dotted names of what huref exports, of its classes' public methods, and of its errors."""
    for name in huref.__all__:
        if name == "__version__":  # a string, described in words
            continue
        yield f"huref.{name}"
        value = getattr(huref, name)
        if inspect.isclass(value):
            yield from (f"huref.{name}.{member}" for member in public_members(value))
    for name, value in vars(errors).items():
        if inspect.isclass(value) and issubclass(value, errors.HurefError):
            yield "huref.HurefError" if value is errors.HurefError else f"huref.errors.{name}"


def public_members(kind: type) -> list[str]:
    """Names of the public methods and properties that a class defines."""
    return [
        name
        for name, value in vars(kind).items()
        if not name.startswith("_")
        and (callable(value) or isinstance(value, property | classmethod | staticmethod))
    ]


def documented_names(site: Path) -> set[str]:
    """The names that the site's pages describe, from its inventory (Sphinx's format)."""
    data = (site / "objects.inv").read_bytes()
    body = data.split(b"\n", 4)[4]
    lines = zlib.decompress(body).decode("utf-8").splitlines()
    return {line.split(" ")[0] for line in lines}


def faults(site: Path) -> Iterator[str]:
    """What is wrong with a built site, one sentence each."""
    documented = documented_names(site)
    for name in sorted({*public_names()} - documented):
        yield f"docs/api.md does not describe {name}"
    for page in sorted(site.rglob("*.html")):
        if LOADED.search(page.read_text("utf-8")):
            yield f"{page.relative_to(site)} loads something from another server"


def main() -> None:
    """Print the faults, and exit with 1 where there are any."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("site", nargs="?", type=Path, default=SITE, help="folder of the site")
    found = list(faults(parser.parse_args().site))
    print("\n".join(found) or "the site is complete")
    sys.exit(1 if found else 0)
