"""What a block, its heads and its hidden units do on a text, as data."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from huref.architecture.block import FeedForward


@dataclass(frozen=True)
class HalfUse:
    """What one half of a block writes on the text.

    Attributes:
        share: norm of what it writes over the norm of the stream that it reads, a mean over tokens.
        token_share: the same for the parts of both within the span of the anchors' embeddings.
        usual: what three quarters of the tokens reach of both.
    """

    share: float
    token_share: float
    usual: float = 1.0

    @property
    def counted(self) -> float:
        """The smaller of the two shares."""
        return min(self.share, self.token_share)


@dataclass(frozen=True)
class LinearUnits:
    """Units whose activations are linear on the text: act(y) = slope * y + intercept.

    Attributes:
        places: their indices, (n,) int64, ascending.
        slopes, intercepts: (n,).
    """

    places: Tensor
    slopes: Tensor
    intercepts: Tensor


@dataclass(frozen=True)
class UnitUse:
    """What the hidden units of one network do on the text.

    Attributes:
        active: root mean square of each unit's activation, (units,).
        shares: share of each unit in what the network writes, (units,): the inner product of its
            output with the sum of all, over the squared norm of the sum. They sum to one. None
            where they were not asked for.
        linear: units whose activations are linear on the text; None where no text was run.
        find_idle: finds units whose outputs sum to nothing, (n,) int64; None once that is done.
    """

    active: Tensor
    shares: Tensor | None
    linear: LinearUnits | None = None
    find_idle: Callable[[], Tensor] | None = None


@dataclass(frozen=True)
class BlockUse:
    """What a block does on the text.

    Attributes:
        attention, ffn: what each half writes.
        heads: (heads,), the share of each query head in what attention writes: the inner product
            of the head's output with the sum of all, over the squared norm of the sum. They sum to
            one, whatever cancels.
        moments: (heads, v, v), mean over tokens of z^T z, with z the values that attention has
            mixed, over the stream's norm.
        head_energy: (heads,), the root mean square of each head's output over the stream's norm.
        units: by the number of the network, -1 where every token passes it.
        routing: mean probability with which a token takes each expert, (experts,), or None.
        experts_agree: of a mixture, the norm of what its experts write together over the root of
            the sum of their squared norms: near zero where they cancel; 1 otherwise.
        unread: share of the energy that the block writes in directions that the output head does
            not read.
        undone: (heads,) bool, heads that attend alike and whose outputs sum to nothing; None where
            no text was run.
    """

    attention: HalfUse
    ffn: HalfUse
    heads: Tensor
    moments: Tensor
    head_energy: Tensor
    units: dict[int, UnitUse]
    routing: Tensor | None = None
    experts_agree: float = 1.0
    unread: float = 0.0
    undone: Tensor | None = None


# Called with the number of an expert (-1: dense or shared), the network and its use; returns a
# network of the same function, or the same object where nothing is to be left out.
Simplify = Callable[[int, FeedForward, UnitUse], FeedForward]
# Called with the number of an expert (-1: shared), the network, its use and its routing mass.
Observer = Callable[[int, FeedForward, UnitUse, float], None]
