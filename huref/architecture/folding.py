"""A block's norms as linear maps, multiplied into the matrices next to them."""

from collections.abc import Mapping

from torch import Tensor

from huref.architecture.layout import Norms


class Folding:
    """The block's norms as linear maps, multiplied into the matrices next to them.

    A LayerNorm also subtracts the mean of what it reads: the all-ones direction is projected out
    of the rows of a matrix that reads it, and out of what is written for it to read.

    Args:
        norms: the layout's part.
        gains: as stored, by place; a gain of several streams is (streams * d).
        streams: number of residual streams that a gain holds one for each of.
        convolutions: the last weight of each kernel, by place.
        enabled: only the published terms leave norms and convolutions out.
    """

    def __init__(
        self,
        norms: Norms,
        gains: Mapping[str, Tensor],
        streams: int = 1,
        convolutions: Mapping[str, Tensor] | None = None,
        enabled: bool = True,
    ):
        self._norms = norms
        self._gains = {
            place: gain.reshape(streams, -1).mean(dim=0) + norms.offset
            for place, gain in gains.items()
        }
        self._convolved = {place: 1 + last for place, last in (convolutions or {}).items()}
        self._enabled = enabled
        self._centred = norms.kind == "layernorm"

    def reading(self, half: str, weight: Tensor) -> Tensor:
        """A matrix (d, out) of a half that reads the residual stream.

        `half` is "attention", "ffn", or "experts" for routed ones, which read what "ffn" reads
        where they have no norm of their own.
        """
        if not self._enabled or self._norms.place == "after":
            return weight
        gain = self._gains.get(half, self._gains.get("ffn") if half == "experts" else None)
        folded = weight if gain is None else gain[:, None] * weight
        return folded - folded.mean(dim=0, keepdim=True) if self._centred else folded

    def features(self, role: str, weight: Tensor) -> Tensor:
        """A matrix (d, out) of keys "k" or values "v"."""
        factor = self._convolved.get(role) if self._enabled else None
        return self.reading("attention", weight if factor is None else weight * factor)

    def writing(self, half: str, weight: Tensor) -> Tensor:
        """A matrix (in, d) of a half that writes to the residual stream.

        `half` is "attention", "ffn", or "experts" and "shared" for what a mixture adds up before
        it is the feed-forward network's output.
        """
        if not self._enabled:
            return weight
        outer = "attention" if half == "attention" else "ffn"
        inner = self._gains.get(f"{outer}_inner")
        folded = weight if inner is None else inner[:, None] * weight
        folded = folded - folded.mean(dim=1, keepdim=True) if self._centred else folded
        own = None if half == outer else self._gains.get(f"{half}_out")
        for factor in (own, self._gains.get(f"{outer}_out"), self._convolved.get(f"{outer}_out")):
            folded = folded if factor is None else folded * factor
        return folded
