"""The public models of configs/real-models.yaml, and where they lie on this machine."""

import os
from argparse import ArgumentParser
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from huref.api.cache import VERSION
from huref.assets import user_cache
from huref.recipe import load_recipe
from scripts import ROOT, make_parser

MODELS = ROOT / "configs" / "real-models.yaml"


@dataclass(frozen=True)
class Package:
    """A wheel on the package index: name, version, bytes and SHA-256."""

    name: str
    version: str
    size: int
    digest: str


@dataclass(frozen=True)
class PublicModel:
    """A public model in parts.

    Attributes:
        name: of its folder and file here.
        identity: the Hub id that the file names.
        quantised: kind of the quantisation in the packages.
        size, digest: bytes and SHA-256 of the joined GGUF file.
        packages: in the order in which the parts are joined.
    """

    name: str
    identity: str
    quantised: str
    size: int
    digest: str
    packages: tuple[Package, ...]


def read_catalogue(path: Path = MODELS) -> dict[str, PublicModel]:
    """The public models by name."""
    data: dict[str, Any] = yaml.safe_load(path.read_text("utf-8"))
    return {
        name: PublicModel(
            name,
            entry["identity"],
            entry["quantised"],
            int(entry["bytes"]),
            str(entry["sha256"]),
            tuple(Package(str(n), str(v), int(s), str(d)) for n, v, s, d in entry["packages"]),
        )
        for name, entry in data["models"].items()
    }


class Cache:
    """Folders of the downloaded and made models, outside the repository."""

    def __init__(self, root: Path):
        self.root = root
        self.packages = root / "packages"
        self.files = root / "gguf"
        self.models = root / "models"
        self.children = root / "children"
        self.ladder = root / "ladder"

    def file(self, name: str) -> Path:
        """The joined GGUF file of a public model."""
        return self.files / f"{name}.gguf"

    def costs(self, recipe: str) -> Path:
        """The folder of the costs by a recipe; what changes the records' numbers changes its name.

        The records themselves are in huref's own cache, which lies in this folder, too.
        """
        return self.root / "costs" / f"{load_recipe(recipe)[0].digest}-{VERSION}"


def open_cache(root: Path) -> Cache:
    """The cache, with huref's own records inside it."""
    os.environ["HUREF_HOME"] = str(root / "huref")
    return Cache(root)


def cache_parser(description: str | None) -> ArgumentParser:
    """A parser with --cache."""
    parser = make_parser(description)
    parser.add_argument(
        "--cache", type=Path, default=user_cache() / "real", help="folder of the models"
    )
    return parser
