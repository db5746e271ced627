"""Logit differences from argmaxes alone: which bias vector to try next, and what it proves.

An answer "token j wins under bias b" says l_i - l_j <= b_j - b_i for every i: a difference
constraint. All of them together are kept as a matrix of shortest paths, so that every answer
sharpens every interval (Carlini et al. 2024, section on logprob-free attacks).
"""

import math
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from huref.errors import EndpointError

Method = Literal["one-of-n", "hyperrectangle", "bisection"]


class Differences:
    """What is known of the logits of n tokens, up to a common constant.

    Args:
        tokens: n.
        span: all differences are within -span..span (nat).
        slack: contradictions up to this size (nat) are rounding.

    Attributes:
        bound: (n, n) upper bounds of l_i - l_j.
        reference: the token that intervals are relative to; best the most probable one.
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
        """Take in that `winner` had the largest biased logit, and close under shortest paths.

        Raises:
            EndpointError: the answers contradict each other.
        """
        edge = bias[winner] - bias  # l_i - l_winner <= edge_i
        through = (self.bound + edge[None, :]).min(axis=1)  # l_a - l_winner, by any i
        through = np.minimum(through, self.bound[:, winner])
        if through[winner] < -self._slack:
            raise EndpointError(
                "the endpoint's answers contradict each other: the same prompt and bias do not "
                "always give the same token, or its ids changed their meaning"
            )
        through[winner] = 0.0
        np.minimum(self.bound, through[:, None] + self.bound[winner][None, :], out=self.bound)


def next_bias(
    known: Differences, precision: float, method: Method = "one-of-n"
) -> NDArray[np.float64] | None:
    """The bias vector (n,) to ask for next; None once every interval is within `precision`.

    one-of-n: each of the n open tokens wins with probability 1/n if its logit is uniform over
    its interval, which is the most that one answer can say. hyperrectangle: every open token is
    as likely above the reference as below. bisection: one token at a time. Tokens that are done,
    or not in turn, are held below the reference.
    """
    open_ = known.width > precision
    open_[known.reference] = False
    count = int(open_.sum())
    if count == 0:
        return None
    bias = -known.high - 2 * precision - 1.0
    bias[known.reference] = 0.0
    if method == "bisection":
        token = int(np.argmax(known.width))
        bias[token] = -known.middle[token]
        return bias
    share = 0.5
    if method == "one-of-n" and count > 1:
        share = math.exp(-math.log(count + 1) / count)
    bias[open_] = -((1 - share) * known.low + share * known.high)[open_]
    return bias
