"""Function-preserving copies of a model, to audit a fingerprint with.

Each kind changes a model's weights so that its outputs stay what they were (up to rounding), or
nearly so, where `EXACT` does not list it. They are what an adversary, or a harmless exporter,
might do; docs/measured/attacks.md has what each does to a fingerprint.
"""

from collections.abc import Sequence
from pathlib import Path

import torch

from huref.attacks.kinds import EXACT, KINDS, applies
from huref.attacks.opening import open_editable
from huref.errors import AttackError

__all__ = ["EXACT", "KINDS", "attack"]


def attack(model: str | Path, kinds: Sequence[str], out: str | Path, seed: int = 0) -> list[str]:
    """Write a copy of a model that has been through some attacks, one after the other.

    Args:
        model: a folder, a file beside its config, or a Hub id, which is downloaded whole into the
            user's cache; Llama-, Gemma-, OLMo-2-, GPT-2- or NeoX-like.
        kinds: names from `KINDS`, or "all" for every exact one that applies to the model.
        out: folder to write to; it must not exist yet.
        seed: of everything random in it.

    Returns:
        The kinds that were applied, in order.

    Raises:
        AttackError: an unknown kind, or one that the model's architecture does not allow.
    """
    unknown = [kind for kind in kinds if kind != "all" and kind not in KINDS]
    if unknown or not kinds:
        raise AttackError(f"unknown attack {unknown}; known: all, {', '.join(KINDS)}")
    if Path(out).exists():
        raise AttackError(f"{out}: already exists; name a new folder")
    editable = open_editable(str(model))
    generator = torch.Generator().manual_seed(seed)
    names: list[str] = []
    for kind in kinds:
        every = [name for name in EXACT if not applies(name, editable)]
        names += every if kind == "all" else [kind]
    for kind in names:
        if reason := applies(kind, editable):
            raise AttackError(f"{model}: {kind} would change what the model computes: {reason}")
        KINDS[kind](editable, generator)
    editable.save(Path(out))
    return names
