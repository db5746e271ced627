"""The interface of a source of outputs: a model on this machine, or an endpoint."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray


class Source(Protocol):
    """A model whose outputs can be measured.

    Attributes:
        name: as the user gave it.
        vocabulary: number of token ids.
        requests: number of requests so far.
        requests_left: number of requests that are still allowed; None without a limit.
        absolute: whether outputs are the served log-probabilities (or logits) themselves,
            rather than differences computed from several answers.
        jitter: largest change (nat) of an output between two identical queries.
        resolution: width (nat) of the intervals that contain the outputs, 0 if they are exact.
        obstacle: why outputs cannot be measured, and what it would take; None if they can.
    """

    name: str
    absolute: bool
    jitter: float
    resolution: float

    @property
    def vocabulary(self) -> int: ...  # noqa: D102

    @property
    def obstacle(self) -> str | None: ...  # noqa: D102

    @property
    def requests(self) -> int: ...  # noqa: D102

    @property
    def requests_left(self) -> int | None: ...  # noqa: D102

    def choose_ids(self, count: int, start: int = 0) -> NDArray[np.int64]:
        """Up to `count` usable token ids, (count,), from position `start` of a fixed order."""
        ...

    def cost(self, prompts: int, tokens: int) -> int:
        """Estimated number of requests of `outputs`."""
        ...

    def outputs(self, prompts: Sequence[str], ids: NDArray[np.int64]) -> NDArray[np.float64]:
        """Logits or log-probabilities, (prompts, ids), each row up to an additive constant."""
        ...
