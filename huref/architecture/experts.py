"""Routed experts, one at a time."""

from dataclasses import replace

from torch import Tensor

from huref.architecture.layout import Experts, tensor_fields
from huref.architecture.weights import finite, read_tensors
from huref.loader.checkpoint import Checkpoint


class ExpertSource:
    """One expert's tensors at a time, however a block stores them."""

    def __init__(self, checkpoint: Checkpoint, experts: Experts, count: int):
        self._checkpoint = checkpoint
        self._experts = experts
        self.count = count
        routed = tensor_fields(replace(experts, shared=None, scale=()))
        self._names = {role: names for role, names in routed.items() if names}
        self._scales: Tensor | None = None
        if experts.scale:
            self._scales = read_tensors(checkpoint, {"scale": experts.scale[0]})["scale"]

    def read(self, index: int) -> dict[str, Tensor]:
        """The tensors of one expert, by role, float32, as one expert's would be stored.

        What scales its output is multiplied into down.

        Raises:
            CheckpointError: one is missing.
            WeightsError: one holds NaN or infinite values.
        """
        tensors = self._read(index)
        if self._scales is not None:
            tensors["down"] = tensors["down"] * self._scales[index]
        return tensors

    def _read(self, index: int) -> dict[str, Tensor]:
        if self._experts.stacked == "no":
            return read_tensors(self._checkpoint, {r: n[index] for r, n in self._names.items()})
        tensors = {}
        for role, (name, *_) in self._names.items():
            each = 1
            if self._experts.stacked == "rows":
                each = self._checkpoint.entry(name).shape[0] // self.count
            rows = range(index * each, (index + 1) * each)
            part = finite(self._checkpoint, name, self._checkpoint.read_rows(name, rows))
            tensors[role] = part if self._experts.stacked == "rows" else part[0]
        return tensors
