"""Checks that a copy computes what its original computes: both are run on the same strings."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from huref.errors import AttackError

SEQUENCES, LENGTH = 2, 12


# Kinds after which strings no longer say which ids correspond; the ids are the same.
SAME_IDS = ("renumbered-strings", "renumbered-words", "renumbered-anchors")


def logit_difference(before: Path, after: Path, kinds: Sequence[str] = ()) -> float:
    """The largest difference between the logits of the same strings, over their standard deviation.

    Both models are run by transformers in float64, on random tokens of the original's vocabulary.
    Rounding to the original's dtype leaves about 1e-2 for bfloat16 and 1e-6 for float32.

    Args:
        before: the original's folder, or a file in it.
        after: the copy's folder, or a file in it.
        kinds: how the copy was made.

    Raises:
        AttackError: transformers is not installed.
    """
    before, after = (p.parent if p.is_file() else p for p in (before, after))
    old, new = _vocabulary(before), _vocabulary(after)
    if set(kinds) & set(SAME_IDS):
        new = old
    if "missing-config-keys" in kinds:
        raise AttackError(
            "transformers cannot run a copy whose config.json lacks the sizes",
            advice="check the copy without missing-config-keys",
        )
    pieces = sorted((piece for piece in old if piece in new), key=old.__getitem__)
    generator = torch.Generator().manual_seed(0)
    chosen = torch.randint(0, len(pieces), (SEQUENCES, LENGTH), generator=generator)
    first = _first_token(before)
    begins = [i for i, piece in enumerate(pieces) if old[piece] == first]
    if begins:  # as texts do
        chosen[:, 0] = begins[0]
    old_ids = torch.tensor([old[piece] for piece in pieces])
    new_ids = torch.tensor([new[piece] for piece in pieces])
    logits = _logits(before, old_ids[chosen])[:, :, old_ids]
    of_copy = _logits(after, new_ids[chosen])[:, :, new_ids]
    return float((logits - of_copy).abs().max() / logits.std())


def _first_token(folder: Path) -> int:
    """The id with which texts begin."""
    config = json.loads((folder / "config.json").read_text("utf-8"))
    first = config.get("bos_token_id")
    return first if isinstance(first, int) else 0


def _logits(folder: Path, ids: Tensor) -> Tensor:
    try:
        from transformers import AutoModelForCausalLM
        from transformers.utils import logging
    except ImportError as error:
        raise AttackError(
            "the check runs both models and needs transformers", advice="pip install 'huref[probe]'"
        ) from error
    if not sys.stderr.isatty():
        logging.disable_progress_bar()
    model = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float64, experts_implementation="eager"
    )
    with torch.no_grad():
        out: Tensor = model.eval()(ids).logits
    return out


def _vocabulary(folder: Path) -> dict[str, int]:
    data = json.loads((folder / "tokenizer.json").read_text("utf-8"))
    vocabulary: dict[str, int] = data["model"]["vocab"]
    return vocabulary
