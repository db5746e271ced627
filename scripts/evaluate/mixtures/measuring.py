"""What huref and modelDNA say of a merge."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

import huref
from huref.lineage.evidence import Mixing
from scripts.evaluate.mixtures.making import ROLES, Family, Merge

DECOMPOSE = "from modeldna.cli import app; app()"


@dataclass(frozen=True)
class Estimate:
    """A method's answer.

    Attributes:
        shares: role -> share; None where it gave none.
        width: the largest half width of the 95 % intervals; None where it gives none.
        error: the largest error of a block's share of the second parent, where that varies.
        words: the method and the base as told, or why there are no shares.
    """

    shares: Mapping[str, float] | None
    width: float | None
    error: float | None
    words: str

    def farthest(self, truth: Mapping[str, float]) -> float | None:
        """The largest error of a share; a parent that was not named has the share 0."""
        if self.shares is None:
            return None
        roles = set(truth) | set(self.shares)
        return max(abs(truth.get(role, 0) - self.shares.get(role, 0)) for role in roles)


def take_apart(merge: Merge, folder: Path, family: Family) -> Estimate:
    """What huref answers from a table with all models of the family, at full depth."""
    shown = {*ROLES, *merge.parts} - (set() if merge.base_shown else {"base"})
    models = [path for role, path in family.models.items() if role in shown]
    table = huref.compare([*models, *family.others, folder], depth="full")
    others = [mixing for mixing in table.mixings if Path(mixing.child) != folder]
    called = ", ".join(Path(mixing.child).name for mixing in others)
    wrong = f"; {called} called one" if called else ""
    for mixing in table.mixings:
        if mixing not in others:
            estimate = _estimate(mixing, merge, family)
            return replace(estimate, words=estimate.words + wrong)
    return Estimate(None, None, None, f"no mixture found{wrong}")


def _estimate(mixing: Mixing, merge: Merge, family: Family) -> Estimate:
    roles = {str(path): role for role, path in family.models.items()}
    names = [roles.get(parent, Path(parent).name) for parent in mixing.parents]
    words: str = mixing.method or "method not told"
    if mixing.base:
        words += f", {roles.get(mixing.base, Path(mixing.base).name)}"
    if mixing.shares is None or mixing.low is None or mixing.high is None:
        return Estimate(None, None, None, mixing.why)
    width = max((high - low) / 2 for low, high in zip(mixing.low, mixing.high, strict=True))
    shares = dict(zip(names, mixing.shares, strict=True))
    return Estimate(shares, width, _error_by_block(mixing, names, merge), words)


def _error_by_block(mixing: Mixing, names: list[str], merge: Merge) -> float | None:
    if merge.second is None:
        return None
    _, role = merge.parts
    errors = [1.0]  # unless every block has an answer
    if role in names and mixing.blocks:
        place = names.index(role)
        errors = []
        for half, truth in merge.second.items():
            for block, share in zip(mixing.blocks, truth, strict=True):
                part = getattr(block, half)
                errors.append(1.0 if part is None else abs(part.shares[place] - share))
    return float(max(errors))


def decompose(merge: Merge, folder: Path, family: Family, modeldna: Path) -> Estimate:
    """What modelDNA answers, told the parents, and the base where the merge has one.

    Args:
        merge: what was made.
        folder: where it is.
        family: the models that it was made of.
        modeldna: folder into which modelDNA was installed (`pip install --target`).
    """
    command = [sys.executable, "-c", DECOMPOSE, "decompose", str(folder)]
    command += [str(family.models[role]) for role in merge.parts]
    based = str(family.models["base"]) == merge.settings.get("base_model")
    if based and merge.base_shown:
        command += ["--base", str(family.models["base"])]
    done = subprocess.run(
        [*command, "--full", "--json"],
        env=os.environ | {"PYTHONPATH": str(modeldna), "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
    )
    if done.returncode:
        return Estimate(None, None, None, (done.stderr or done.stdout).strip().splitlines()[-1])
    data = json.loads(done.stdout)
    roles = {str(path): role for role, path in family.models.items()}
    alphas = {roles[parent]: share for parent, share in data["alphas"].items()}
    alphas.pop("base", None)
    total = sum(alphas.values())
    shares = {role: share / total for role, share in alphas.items()} if total else None
    error = None
    if merge.second is not None:
        _, role = merge.parts
        layers = np.array(data["per_layer"][str(family.models[role])])
        fits = len(layers) == family.blocks
        error = (
            float(max(np.abs(layers - part).max() for part in merge.second.values()))
            if fits
            else None
        )
    return Estimate(shares, None, error, "told the parents")
