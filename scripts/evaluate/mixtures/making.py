"""The merges of configs/mixtures.yaml: their settings for one set of models, and their truth."""

import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import Any

import numpy as np
import yaml

from scripts import ROOT

LIST = ROOT / "configs" / "mixtures.yaml"
ROLES = ("base", "A", "B", "C")  # in every table
RARE = ("E", "P")  # in the tables of their own merges
COUNTS = ("first", "low", "high", "kept")  # of blocks


@dataclass(frozen=True)
class Family:
    """Models that are merged.

    Attributes:
        name: of the set.
        blocks: of the base.
        counts: further numbers of blocks that settings name.
        models: role -> folder; of ROLES and RARE.
        others: folders that are in every table.
    """

    name: str
    blocks: int
    counts: Mapping[str, int]
    models: Mapping[str, Path]
    others: tuple[Path, ...]


@dataclass(frozen=True)
class Merge:
    """One merge of a family.

    Attributes:
        name: in words.
        settings: mergekit's, complete.
        parts: role -> its weight, normalised.
        second: share of the second parent by block, for attention and feed-forward part; or None.
        base_shown: whether the base is in the table.
        of: name of the merge that is made first, or None.
    """

    name: str
    settings: Mapping[str, Any]
    parts: Mapping[str, float]
    second: Mapping[str, np.ndarray] | None
    base_shown: bool
    of: str | None


def read_family(name: str, root: Path, path: Path = LIST) -> Family:
    """A set of the list whose folders lie below a root."""
    entry = yaml.safe_load(path.read_text("utf-8"))["sets"][name]
    models = {role: root / entry[role] for role in (*ROLES, *RARE)}
    others = tuple(root / other for other in entry["others"])
    if missing := [folder for folder in (*models.values(), *others) if not folder.is_dir()]:
        raise SystemExit(f"{missing[0]} is missing")
    counts = {key: int(entry[key]) for key in COUNTS}
    return Family(name, entry["blocks"], counts, models, others)


def read_merges(family: Family, work: Path, path: Path = LIST) -> list[Merge]:
    """The merges of the list for one family. `work` has the folders of the merges."""
    blocks = family.blocks
    numbers = {"all": blocks, "half": blocks // 2, "most": 4 * blocks // 5, **family.counts}
    entries = yaml.safe_load(path.read_text("utf-8"))["merges"]
    merges = []
    for name, entry in entries.items():
        of = entry.get("of")
        paths = dict(family.models) | ({"M": folder_of(work, of)} if of else {})
        known: dict[str, str | int] = {**numbers, **{k: str(v) for k, v in paths.items()}}
        settings = fill(entry["settings"], known)
        settings.setdefault("dtype", "float16")
        parts = _parts(entry["parts"], settings, family)
        curve = entry.get("second")
        second = None
        if curve:
            second = {half: _interpolated(points, blocks) for half, points in curve.items()}
        merges.append(Merge(name, settings, parts, second, entry.get("base") != "missing", of))
    return merges


def folder_of(work: Path, name: str) -> Path:
    """The folder of a merge."""
    return work / name.replace(",", "").replace(" ", "-").lower()


def fill(value: Any, known: Mapping[str, str | int]) -> Any:
    """Settings with $NAME replaced; a number stays a number."""
    if isinstance(value, Mapping):
        return {key: fill(item, known) for key, item in value.items()}
    if isinstance(value, list):
        return [fill(item, known) for item in value]
    if isinstance(value, str) and value.startswith("$"):
        return known[value[1:]]
    return Template(value).substitute(known) if isinstance(value, str) else value


def _parts(
    parts: Mapping[str, Any], settings: Mapping[str, Any], family: Family
) -> dict[str, float]:
    """Weights as they are given, or the share of blocks that each parent has."""
    if not any(isinstance(share, str) for share in parts.values()):
        return dict(parts)
    roles = {str(folder): role for role, folder in family.models.items()}
    sources = [source for piece in settings["slices"] for source in piece["sources"]]
    counts = dict.fromkeys(parts, 0)
    for source in sources:
        first, end = source["layer_range"]
        counts[roles[source["model"]]] += end - first
    return {role: count / sum(counts.values()) for role, count in counts.items()}


def _interpolated(points: list[float], blocks: int) -> np.ndarray:
    """Values (blocks,) between equally spaced points, as mergekit takes a list of numbers."""
    return np.interp(np.linspace(0, 1, blocks), np.linspace(0, 1, len(points)), points)


def make_merge(merge: Merge, work: Path, mergekit: Path) -> Path:
    """The folder of a merge, made by mergekit unless it is there.

    Args:
        merge: what to make.
        work: folder of the folders of merges.
        mergekit: folder into which mergekit was installed (`pip install --target`).

    Raises:
        SystemExit: mergekit failed; its last line is shown.
    """
    folder = folder_of(work, merge.name)
    if (folder / "model.safetensors").exists():
        return folder
    work.mkdir(parents=True, exist_ok=True)
    config = folder.with_suffix(".yaml")
    config.write_text(yaml.safe_dump(dict(merge.settings)), "utf-8")
    command = [sys.executable, "-m", "mergekit.scripts.run_yaml", str(config), str(folder)]
    done = subprocess.run(
        [*command, "--quiet", "--random-seed", "1"],
        env=os.environ | {"PYTHONPATH": str(mergekit), "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise SystemExit(f"{merge.name}: mergekit: {done.stderr.strip().splitlines()[-1]}")
    return folder
