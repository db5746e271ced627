"""A block's norms as linear maps, multiplied into the neighbouring matrices."""

from collections.abc import Mapping

from torch import Tensor

from huref.architecture.resolved import ResolvedNorms


class Folding:
    """Multiplies a block's norms and convolutions into the neighbouring matrices.

    A LayerNorm also subtracts the mean of its input: the all-ones direction is projected out of
    the rows of a matrix that reads its output, and out of what is written for it to read.

    Args:
        norms: the block's norms.
        gains: as stored, by place; of several streams, (streams * d).
        last_weights: the last weight of each convolution's kernel, by place.
        enabled: false for the published recipe, which leaves norms and convolutions out.
        betas: the norms' own biases, by place.
    """

    def __init__(
        self,
        norms: ResolvedNorms,
        gains: Mapping[str, Tensor],
        last_weights: Mapping[str, Tensor],
        enabled: bool = True,
        betas: Mapping[str, Tensor] | None = None,
    ):
        self._betas = betas or {}
        self._gains = {
            place: gain.reshape(norms.streams, -1).mean(dim=0) + norms.offset
            for place, gain in gains.items()
        }
        self._convolved = {place: 1 + last for place, last in last_weights.items()}
        self._folds_reading = enabled and norms.place == "before"
        self._enabled = enabled
        self._centred = norms.kind == "layernorm"

    def reading(self, half: str, weight: Tensor) -> Tensor:
        """A matrix (d, out) of a half that reads the residual stream.

        `half` is "attention", "ffn", or "experts" for routed experts, which read what "ffn" reads
        where they have no norm of their own.
        """
        if not self._folds_reading:
            return weight
        gain = self._gains.get(half, self._gains.get("ffn") if half == "experts" else None)
        folded = weight if gain is None else gain[:, None] * weight
        return folded - folded.mean(dim=0, keepdim=True) if self._centred else folded

    def reading_bias(self, half: str, weight: Tensor, bias: Tensor | None) -> Tensor | None:
        """A bias (out) with what the norm's own bias adds through a matrix (d, out) as stored."""
        if bias is not None and len(bias) != weight.shape[1]:
            bias = None
        beta = self._betas.get(half)
        if beta is None or not self._folds_reading or len(beta) != len(weight):
            return bias
        return beta @ weight if bias is None else beta @ weight + bias

    def out_bias(self, half: str, bias: Tensor | None) -> Tensor | None:
        """The bias (d) of a matrix that writes to the stream, before a norm of what is written."""
        if bias is not None and self._centred and self._enabled:
            return bias - bias.mean()
        return bias

    @property
    def gains(self) -> Mapping[str, Tensor]:
        """The gains by place, offsets added."""
        return self._gains

    def features(self, role: str, weight: Tensor) -> Tensor:
        """A matrix (d, out) of keys "k" or values "v"."""
        factor = self._convolved.get(role) if self._enabled else None
        return self.reading("attention", weight if factor is None else weight * factor)

    def writing(self, half: str, weight: Tensor) -> Tensor:
        """A matrix (in, d) of a half that writes to the residual stream.

        `half` is "attention", "ffn", or "experts" or "shared" for the networks that a mixture sums
        into its output.
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
