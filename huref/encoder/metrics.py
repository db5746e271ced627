"""The two figures of merit of an encoder, over the last steps of a training run."""

from collections import deque
from typing import Any

import torch
from torch import Tensor

FLOOR = 0.035  # mean |cos| of independent Gaussian vectors in 512 dimensions


class FiguresOfMerit:
    """max |E[cos z] - rho| over five ranges of rho, and mean |cos z| of unrelated models."""

    def __init__(self, window: int = 50) -> None:
        self._pairs: deque[Tensor] = deque(maxlen=window)
        self._strangers: deque[float] = deque(maxlen=window)

    def add(self, rho: Tensor, cosines: Tensor, strangers: Tensor) -> None:
        """Add a step: ICS and cosines of related pairs (n,), cosines of unrelated ones (k,)."""
        self._pairs.append(torch.stack([rho, cosines]).detach().float().cpu())
        self._strangers.append(float(strangers.detach().abs().mean()))

    def state(self) -> dict[str, list[Any]]:
        """The window, for `restore`."""
        return {"pairs": list(self._pairs), "strangers": list(self._strangers)}

    def restore(self, state: dict[str, list[Any]]) -> None:
        """Load a saved window."""
        self._pairs.extend(pairs.cpu() for pairs in state["pairs"])
        self._strangers.extend(state["strangers"])

    @property
    def gap(self) -> float:
        """Largest |mean cos - mean rho| over the fifths of [0, 1] with at least eight pairs."""
        if not self._pairs:
            return float("nan")
        rho, cosines = torch.cat(list(self._pairs), dim=1)
        fifths = (rho * 5).long().clamp(0, 4)
        gaps = [
            float((cosines - rho)[fifths == i].mean().abs())
            for i in range(5)
            if int((fifths == i).sum()) >= 8
        ]
        return max(gaps, default=float("nan"))

    @property
    def stranger_cosine(self) -> float:
        """Mean |cos z| of unrelated models; `FLOOR` is the least possible for Gaussian latents."""
        return sum(self._strangers) / len(self._strangers) if self._strangers else float("nan")
