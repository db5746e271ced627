"""The copies that are measured: each kind of attack alone, and combined."""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from huref.attacks import DISGUISES, FRAMINGS, KINDS, PLAIN, TRAINED, Effort, attack
from huref.attacks.kinds import why_inexact
from huref.attacks.opening import open_editable

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
COMBINED = {
    "everything exact": [
        "dead-units", "split-units", "cancelling-units", "dead-heads", "cancelling-heads",
        "split-heads", "dead-dimensions", "rotation", "head-maps", "gain-absorption",
    ],
    "everything": [
        "dead-units", "split-units", "split-heads", "dead-dimensions", "silent-blocks",
        "decoy-strings", "rotation", "head-maps", "ffn-permutation",
    ],
    "renumbered, split": ["renumbered-strings", "split-units"],
    "decoys, dead dimensions": ["decoy-strings", "ffn-permutation", "dead-dimensions"],
}  # fmt: skip
DISTILLED, PUSHED = 3000, 300  # steps


@dataclass(frozen=True)
class Case:
    """One copy.

    Attributes:
        base: folder of the source.
        name: of the kind or the combination.
        kinds: the attacks, in order; () for the source in another dtype.
        dtype: a key of `DTYPES`.
        host: folder of the model that the source's parts are put into, for a framing.
    """

    base: Path
    name: str
    kinds: tuple[str, ...]
    dtype: str
    host: Path | None = None

    @property
    def key(self) -> str:
        """A name that no other case has."""
        return f"{self.base.name} {self.name} {self.dtype}"

    @property
    def expected(self) -> tuple[str, ...]:
        """The verdicts that are right."""
        if self.host is not None:
            return "contains parts", "unrelated", "inconclusive"
        return ("descends",)


def cases_of(base: Path, host: Path | None, dtypes: list[str], only: list[str]) -> Iterator[Case]:
    """All cases of a base, as far as its architecture allows them."""
    editable = open_editable(str(base))
    single = {kind: [kind] for kind in (*PLAIN, *DISGUISES, *TRAINED)}
    for dtype in dtypes:
        for name, kinds in (single | COMBINED).items():
            fits = [kind for kind in kinds if not why_inexact(kind, editable)]
            if (only and name not in only) or (len(kinds) == 1 and not fits) or not fits:
                continue
            yield Case(base, name, tuple(fits), dtype)
        if host is None:
            continue
        for kind in FRAMINGS:
            if (not only or kind in only) and not why_inexact(kind, open_editable(str(host))):
                yield Case(base, kind, (kind,), dtype, host)


def make_copy(case: Case, folder: Path) -> Path:
    """Write a case's copy into an empty folder and return where it is."""
    source = cast(case.host or case.base, folder / "source", case.dtype)
    steps = DISTILLED if "distilled-blocks" in case.kinds else PUSHED
    out = folder / "copy"
    attack(source, case.kinds, out, other=case.base, effort=Effort(steps))
    return out


def cast(source: Path, out: Path, dtype: str) -> Path:
    """Write a model in another dtype."""
    shutil.copytree(source, out)
    for file in out.glob("*.safetensors"):
        tensors = {
            name: t.to(DTYPES[dtype]) if t.is_floating_point() else t
            for name, t in load_file(file).items()
        }
        save_file(tensors, file, {"format": "pt"})
    return out


def all_kinds() -> list[str]:
    """Every kind and combination."""
    return [*KINDS, *COMBINED]
