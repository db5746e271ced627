"""Networks without units that undo each other, by their weights and by what they do on the text."""

import torch
from torch import Tensor

from huref.architecture.block import FeedForward
from huref.architecture.running import Running
from huref.invariants.block_use import LinearUnits, UnitUse
from huref.invariants.opposite_gates import choose_units, resolve_opposite_gates
from huref.invariants.signs import Seen


class SimplerNetworks:
    """Leaves out what undoes itself, the same each time that a network is read.

    Args:
        running: the model's activation.
        signs: where the number of units that were left out is noted.
    """

    def __init__(self, running: Running, signs: Seen):
        self._running, self._signs = running, signs
        # What the text showed of a network, by the indices of block and expert.
        self._steps: dict[tuple[int, int], list[LinearUnits | Tensor]] = {}

    def read(self, index: int, expert: int, network: FeedForward) -> FeedForward:
        """A network as it is read: without opposite gates, and as `simplify` has left it."""
        running = self._running
        found = resolve_opposite_gates(network, running.activation, running.homogeneous)
        if (removed := network.up.shape[1] - found.up.shape[1]) > 0:
            self._signs.opposite[index] = removed
        for step in self._steps.get((index, expert), ()):
            found = self._take(found, step)
        return found

    def simplify(self, index: int, expert: int, network: FeedForward, use: UnitUse) -> FeedForward:
        """A network without units that undo each other on the text; itself if none do."""
        # Linear units are found at once; the search for others takes seconds where there are many.
        for find in (lambda: use.linear, use.find_idle):
            step = find() if find is not None else None
            if step is None:
                continue
            found = self._take(network, step)
            removed = network.up.shape[1] - found.up.shape[1]
            if removed > 0:
                self._signs.undone[index] = self._signs.undone.get(index, 0) + removed
                self._steps.setdefault((index, expert), []).append(step)
                return found
        return network

    def _take(self, network: FeedForward, step: LinearUnits | Tensor) -> FeedForward:
        """Leave out units that sum to nothing, or that are linear on the text."""
        if isinstance(step, LinearUnits):
            running = self._running
            return resolve_opposite_gates(network, running.activation, running.homogeneous, step)
        stays = torch.ones(network.up.shape[1], dtype=torch.bool)
        stays[step] = False
        return choose_units(network, stays) if len(step) else network
