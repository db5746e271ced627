"""What a model's blocks do on the text that ships with huref, as a record stores it; and signs.

A *sign of disguise* is a property that honest training does not leave: a block that writes nothing,
equal gates, an anchor that the tokenizer never emits.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from huref.bounded_json import loads

Forward = Literal["exact", "approximate", "none"]
SIGN_KINDS = (
    "silent block", "cancelling blocks", "equal gates", "unwritten dimension", "anchor not emitted",
    "tokenizer does not fit", "head without effect", "cancelling heads", "unit without effect",
    "cancelling experts", "unread dimension", "opposite gates", "cancelling units",
)  # fmt: skip
SKETCHED = 64  # rows and columns of a block's sketched term
COLUMNS = 5  # of `energy`


@dataclass(frozen=True)
class Sign:
    """A sign of disguise: its kind, one of SIGN_KINDS, and a sentence for people."""

    kind: str
    words: str


@dataclass(frozen=True, eq=False)
class FunctionUse:
    """What the blocks that were read do on the text.

    Attributes:
        forward: "exact" where hidden states of the family are known to agree with the module's,
            "approximate" elsewhere, "none" where the pass overflowed and weights count as stored.
        energy: (blocks, 5) float32, in the order of the blocks: index; share of the stream's norm
            that attention writes; the same within the span of the anchors; both for the
            feed-forward half.
        effects: (blocks, 3) float32: index; what attention and the feed-forward half add to the
            logits, as shares of what all blocks add. Empty where it was not measured.
        unit_shares: (units,) float32, in the order of `UnitFeatures.features`: share of each unit
            in what its block's networks add to the logits; where that was not measured, in what
            they write.
        blocks: (n,) int32, indices of the blocks of `terms`.
        terms: (n, 3, SKETCHED, SKETCHED) float16: flattened terms of every working block that was
            measured, P^T T P with the signs P of the anchors' strings; of all with --depth full.
        embeddings: (m, m) float16, see `huref.invariants.embedding_relations`.
        signs: the signs of disguise that were found.
    """

    forward: Forward
    energy: Tensor
    effects: Tensor
    unit_shares: Tensor
    blocks: Tensor
    terms: Tensor
    embeddings: Tensor
    signs: tuple[Sign, ...] = ()

    def tensors(self) -> dict[str, Tensor]:
        """All tensors by field name."""
        return {name: getattr(self, name) for name in TENSORS}

    def metadata(self) -> dict[str, str]:
        """All other fields as strings."""
        signs = [{"kind": sign.kind, "words": sign.words} for sign in self.signs]
        return {"forward": self.forward, "signs": json.dumps(signs)}

    def fits(self) -> bool:
        """Whether shapes and values of the tensors are consistent."""
        return (
            self.energy.ndim == 2
            and self.energy.shape[1] == COLUMNS
            and self.effects.ndim == 2
            and self.effects.shape[1] == 3
            and self.unit_shares.ndim == 1
            and self.embeddings.ndim == 2
            and self.embeddings.shape[0] == self.embeddings.shape[1]
            and self.terms.shape == (len(self.blocks), 3, SKETCHED, SKETCHED)
            and all(bool(torch.isfinite(t).all()) for t in self.tensors().values())
        )


TENSORS = ("energy", "effects", "unit_shares", "blocks", "terms", "embeddings")


def parse_function_use(tensors: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> FunctionUse:
    """A FunctionUse from its `tensors()` and `metadata()`.

    Raises:
        ValueError, TypeError, KeyError: they are something else.
    """
    forward = metadata["forward"]
    if forward not in ("exact", "approximate", "none"):
        raise ValueError(f"forward is {forward!r}")
    signs = tuple(Sign(str(sign["kind"]), str(sign["words"])) for sign in loads(metadata["signs"]))
    parts = {name: tensors[name] for name in TENSORS}
    return FunctionUse(forward=forward, signs=signs, **parts)
