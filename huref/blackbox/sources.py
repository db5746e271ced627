"""What outputs are taken from: a model on this machine, or an endpoint."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray


class Source(Protocol):
    """Something with outputs.

    Attributes:
        name: what the user called it.
        vocabulary: number of token ids.
        requests: asked so far.
        room: requests that may still be asked; None without a limit.
        absolute: whether outputs are the served log-probabilities (or logits) themselves,
            rather than differences worked out from several answers.
        wobble: how far (nat) an output moves when the same is asked again.
        resolution: width (nat) of the intervals that outputs are known to, 0 when as served.
    """

    name: str
    vocabulary: int
    absolute: bool
    wobble: float
    resolution: float

    @property
    def requests(self) -> int: ...  # noqa: D102

    @property
    def room(self) -> int | None: ...  # noqa: D102

    def choose_ids(self, count: int, start: int = 0) -> NDArray[np.int64]:
        """`count` usable token ids, (count,), beginning at a place of a fixed order."""
        ...

    def cost(self, prompts: int, tokens: int) -> int:
        """About how many requests `outputs` would take."""
        ...

    def outputs(self, prompts: Sequence[str], ids: NDArray[np.int64]) -> NDArray[np.float64]:
        """Logits or log-probabilities, (prompts, ids), each row up to a constant."""
        ...
