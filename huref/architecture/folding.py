"""A block's norms as linear maps, multiplied into the matrices next to them."""

from collections.abc import Mapping

from torch import Tensor

from huref.architecture.layout import Norms


class Folding:
    """The block's norms as linear maps, multiplied into the matrices next to them.

    A LayerNorm also subtracts the mean of what it reads: the all-ones direction is projected out
    of the rows of a matrix that reads it, and out of what is written for it to read.
    """

    def __init__(self, norms: Norms, gains: Mapping[str, Tensor], enabled: bool = True):
        self._norms = norms
        self._gains = {place: gain + norms.offset for place, gain in gains.items()}
        self._enabled = enabled
        self._centred = norms.kind == "layernorm"

    def reading(self, half: str, weight: Tensor) -> Tensor:
        """A matrix (d, out) of the half "attention" or "ffn" that reads the residual stream."""
        if not self._enabled or self._norms.place == "after":
            return weight
        gain = self._gains.get(half)
        folded = weight if gain is None else gain[:, None] * weight
        return folded - folded.mean(dim=0, keepdim=True) if self._centred else folded

    def writing(self, half: str, weight: Tensor) -> Tensor:
        """A matrix (in, d) of a half that writes to the residual stream."""
        if not self._enabled:
            return weight
        inner, outer = self._gains.get(f"{half}_inner"), self._gains.get(f"{half}_out")
        folded = weight if inner is None else inner[:, None] * weight
        folded = folded - folded.mean(dim=1, keepdim=True) if self._centred else folded
        return folded if outer is None else folded * outer
