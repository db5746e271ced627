"""Function-preserving copies of a model, for audits of the fingerprint.

Each kind of attack changes a model's weights and preserves its outputs up to rounding; those in
`INEXACT` change the outputs a little. An adversary may do the same, and the plain kinds may be the
work of a harmless exporter. docs/measured/attacks.md reports the effect of each on the fingerprint.
"""

from collections.abc import Sequence
from pathlib import Path

import torch

from huref.attacks.kinds import (
    DISGUISES,
    EXACT,
    FRAMINGS,
    INEXACT,
    KINDS,
    PLAIN,
    TRAINED,
    why_inexact,
)
from huref.attacks.opening import open_editable
from huref.attacks.student import Effort
from huref.errors import AttackError

__all__ = [
    "DISGUISES", "EXACT", "FRAMINGS", "INEXACT", "KINDS", "PLAIN", "TRAINED", "Effort", "attack",
]  # fmt: skip


def attack(
    model: str | Path,
    kinds: Sequence[str],
    out: str | Path,
    seed: int = 0,
    other: str | Path | None = None,
    effort: Effort | None = None,
) -> list[str]:
    """Write a copy of a model after applying some attacks, one after the other.

    Args:
        model: a folder, a file beside its config, or a Hub id, which is downloaded whole into the
            user's cache; Llama-, Gemma-, OLMo-2-, GPT-2- or NeoX-like.
        kinds: names from `KINDS`, or "all" for every plain and exact one that applies to the
            model. They are applied in the given order, but extreme-scales after all others, whose
            noise follows the sizes of weights; upcycling and noisy-experts come last.
        out: folder to write to; it must not exist yet.
        seed: of all random numbers.
        other: the model whose parts the copy gets, for kinds in `FRAMINGS`.
        effort: steps, blocks and text of kinds in `TRAINED`; their own where it is None.

    Returns:
        The kinds that were applied, in order.

    Raises:
        AttackError: a kind is unknown, or not exact for the model's architecture.
    """
    unknown = [kind for kind in kinds if kind != "all" and kind not in KINDS]
    if unknown or not kinds:
        what = f"unknown attack {', '.join(unknown)}" if unknown else "no attack was named"
        raise AttackError(what, advice=f"choose among all, {', '.join(KINDS)}")
    if Path(out).exists():
        raise AttackError("it already exists", file=out, advice="name a new folder")
    if other is None and (framing := [kind for kind in kinds if kind in FRAMINGS]):
        raise AttackError(f"{framing[0]} needs a second model", advice="name it with --other")
    editable = open_editable(str(model))
    parts = None if other is None else open_editable(str(other))
    generator = torch.Generator().manual_seed(seed)
    names: list[str] = []
    for kind in kinds:
        exact = [name for name in EXACT if not why_inexact(name, editable)]
        names += exact if kind == "all" else [kind]
    names.sort(key=lambda kind: kind == "extreme-scales")
    for kind in names:
        if reason := why_inexact(kind, editable):
            raise AttackError(
                f"{kind} would change what the model computes: {reason}", model=str(model)
            )
        if kind in FRAMINGS:
            assert parts is not None
            FRAMINGS[kind](editable, generator, parts)
        elif kind in TRAINED:
            TRAINED[kind](editable, generator, effort or Effort())
        else:
            (PLAIN | DISGUISES)[kind](editable, generator)
    editable.save(Path(out))
    return names
