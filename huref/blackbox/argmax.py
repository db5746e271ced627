"""Logit differences from argmaxes alone: bounds on them, and the next bias vector to try.

If token j wins under bias b, then l_i - l_j <= b_j - b_i for every i. These difference constraints
are closed under shortest paths, so that every answer tightens all intervals (Carlini et al. 2024,
section on logprob-free attacks).
"""

import math
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from huref.errors import EndpointError

Method = Literal["one-of-n", "hyperrectangle", "bisection"]


class Differences:
    """Bounds on the differences between the logits of n tokens.

    Args:
        tokens: n.
        span: all differences are within -span..span (nat).
        slack: contradictions up to this size (nat) are attributed to rounding.

    Attributes:
        bound: (n, n) upper bounds of l_i - l_j.
        reference: the token to which intervals are relative; the most probable one is best.
    """

    def __init__(self, tokens: int, span: float, slack: float = 1e-4):
        self.bound = np.full((tokens, tokens), span)
        np.fill_diagonal(self.bound, 0.0)
        self.reference = 0
        self._slack = slack

    @property
    def low(self) -> NDArray[np.float64]:
        """Lower bounds of l_i - l_reference, (n,)."""
        row: NDArray[np.float64] = -self.bound[self.reference]
        return row

    @property
    def high(self) -> NDArray[np.float64]:
        """Upper bounds of l_i - l_reference, (n,)."""
        column: NDArray[np.float64] = self.bound[:, self.reference]
        return column

    @property
    def middle(self) -> NDArray[np.float64]:
        """The middles of the intervals, (n,)."""
        return (self.low + self.high) / 2

    @property
    def width(self) -> NDArray[np.float64]:
        """The widths of the intervals, (n,)."""
        return self.high - self.low

    def learn(self, winner: int, bias: NDArray[np.float64]) -> None:
        """Update the bounds: `winner` had the largest logit after adding `bias` (n,).

        Raises:
            EndpointError: the answers contradict each other.
        """
        edge = bias[winner] - bias  # l_i - l_winner <= edge_i
        through = (self.bound + edge[None, :]).min(axis=1)  # l_a - l_winner, over any i
        through = np.minimum(through, self.bound[:, winner])
        if through[winner] < -self._slack:
            raise EndpointError(
                "its answers contradict each other: the same prompt and bias do not always give "
                "the same token, or its ids changed their meaning"
            )
        through[winner] = 0.0
        np.minimum(self.bound, through[:, None] + self.bound[winner][None, :], out=self.bound)


def next_bias(
    known: Differences, precision: float, method: Method = "one-of-n"
) -> NDArray[np.float64] | None:
    """The bias vector (n,) to try next; None once every interval is narrower than `precision`.

    A token is open while its interval is wider than `precision`. The bias keeps all others below
    the reference.

    Args:
        known: the bounds so far.
        precision: width of the intervals to end with, nat.
        method: one-of-n: each open token wins with equal probability if logits are uniform over
            their intervals, so that an answer carries the most information. hyperrectangle: each
            open token is above the reference with probability 1/2. bisection: only the widest
            interval is halved.
    """
    is_open = known.width > precision
    is_open[known.reference] = False
    count = int(is_open.sum())
    if count == 0:
        return None
    bias = -known.high - 2 * precision - 1.0
    bias[known.reference] = 0.0
    if method == "bisection":
        token = int(np.argmax(known.width))
        bias[token] = -known.middle[token]
        return bias
    quantile = 0.5
    if method == "one-of-n" and count > 1:
        quantile = math.exp(-math.log(count + 1) / count)
    bias[is_open] = -((1 - quantile) * known.low + quantile * known.high)[is_open]
    return bias
