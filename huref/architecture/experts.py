"""Routed experts, read one at a time."""

from torch import Tensor

from huref.architecture.resolved import ResolvedExperts
from huref.architecture.weights import finite, read_tensors
from huref.loader.checkpoint import Checkpoint


class ExpertSource:
    """Reads the tensors of one expert at a time, however a block stores them."""

    def __init__(self, checkpoint: Checkpoint, experts: ResolvedExperts):
        self._checkpoint = checkpoint
        self._experts = experts
        self._scales: Tensor | None = None
        if experts.scale is not None:
            self._scales = read_tensors(checkpoint, {"scale": experts.scale.name})["scale"]

    def read(self, index: int) -> dict[str, Tensor]:
        """The tensors of one expert by role, float32, in the orientation in which they are stored.

        The factor for the expert's output is multiplied into down.

        Raises:
            CheckpointError: a tensor is missing.
            WeightsError: a tensor holds NaN or infinite values.
        """
        tensors = self._read(index)
        if self._scales is not None:
            tensors["down"] = tensors["down"] * self._scales[index]
        return tensors

    def _read(self, index: int) -> dict[str, Tensor]:
        roles, stacked = self._experts.routed.tensors, self._experts.stacked
        if stacked == "no":
            names = {role: stored.names[index] for role, stored in roles.items()}
            return read_tensors(self._checkpoint, names)
        tensors = {}
        for role, stored in roles.items():
            height = stored.shape[0] // self._experts.count if stacked == "rows" else 1
            rows = range(index * height, (index + 1) * height)
            part = self._checkpoint.read_rows(stored.name, rows)
            values = finite(self._checkpoint, stored.name, part)
            tensors[role] = values if stacked == "rows" else values[0]
        return tensors
