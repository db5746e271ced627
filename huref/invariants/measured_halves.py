"""What a pass over the stored blocks has measured so far: halves, and the blocks they make."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from huref.architecture.block import SelfAttention
from huref.invariants.block_units import BlockUnits, NetworkUnits, measure_block
from huref.invariants.block_use import BlockUse
from huref.invariants.canonical_units import EqualUnits
from huref.invariants.effect import BlockEffect
from huref.invariants.halves import Half, Joined, join_halves


@dataclass
class AttentionPart:
    """The measurements of attention that may count.

    Attributes:
        terms: qk and vo, (2, m, m).
        levels: see `count_levels`; None where nobody needs it.
        attention: for the barcodes of a network that may follow.
    """

    terms: Tensor
    levels: float | None
    attention: SelfAttention | None


@dataclass
class NetworkPart:
    """The measurements of a feed-forward half that may count.

    Attributes:
        term: (m, m).
        merges: its units with equal gates, by the number of the network.
        networks: what is needed of its networks until its attention is known.
        attention: of the same stored block.
        units: of its networks.
    """

    term: Tensor
    merges: dict[int, EqualUnits]
    networks: list[NetworkUnits]
    attention: SelfAttention | None
    units: BlockUnits | None = None

    def use_effects(self, effect: BlockEffect) -> None:
        """Give the units their shares in what the block adds to the logits."""
        if self.units is not None:
            parts = tuple(
                replace(part, shares=self.merges[part.expert].merge_shares(found))
                if (found := effect.units.get(part.expert)) is not None
                else part
                for part in self.units.features
            )
            self.units = replace(self.units, features=parts)


@dataclass(frozen=True)
class Measured:
    """The measurements of a block of the function: terms (3, m, m), levels and units."""

    terms: Tensor
    levels: float | None
    units: BlockUnits | None


@dataclass
class Progress:
    """What the pass over the blocks has found so far.

    Attributes:
        halves: of the stored blocks, but for those that undo each other.
        attention, networks: what was measured of halves, by the index of the stored block.
        energy, effects: of the stored blocks.
        overflowed: whether the stream did.
    """

    halves: list[Half] = field(default_factory=list)
    attention: dict[int, AttentionPart] = field(default_factory=dict)
    networks: dict[int, NetworkPart] = field(default_factory=dict)
    energy: dict[int, BlockUse] = field(default_factory=dict)
    effects: dict[int, BlockEffect] = field(default_factory=dict)
    overflowed: bool = False

    @property
    def working(self) -> list[Joined]:
        """The blocks of the function."""
        return join_halves(self.halves)

    def has_closed(self, count: int) -> bool:
        """Whether so many blocks are known and no later network will belong to them."""
        working = self.working
        return len(working) > count or (len(working) == count and not working[-1].open)

    def may_add_to(self, positions: Sequence[int]) -> bool:
        """Whether the next stored block may hold a part of a block at one of some positions."""
        working = self.working
        return len(working) in positions or (
            bool(working) and working[-1].open and len(working) - 1 in positions
        )

    def measured(self) -> dict[int, Measured]:
        """The measured blocks of the function by their index."""
        found = {}
        for block in self.working:
            attention = block.attention and self.attention.get(block.attention.index)
            network = block.ffn and self.networks.get(block.ffn.index)
            known = [part.terms for part in (attention,) if part]
            known += [part.term[None] for part in (network,) if part]
            if len(known) < len(block.halves):
                continue
            zero = torch.zeros_like(known[0][:1])
            qk_vo = attention.terms if attention else zero.expand(2, -1, -1)
            written = network.term[None] if network else zero
            found[block.index] = Measured(
                torch.cat([qk_vo, written]),
                attention.levels if attention else None,
                network.units if network else None,
            )
        return found

    def left_over(self) -> list[BlockUnits]:
        """Units of measured networks that are in no block: they may be another model's."""
        used = {block.ffn.index for block in self.working if block.ffn}
        parts = [part for index, part in self.networks.items() if index not in used]
        return [part.units for part in parts if part.units is not None]

    def add(self, half: Half, part: AttentionPart | NetworkPart | None) -> None:
        """Add the next half, with what was measured of it."""
        self.halves.append(half)
        if isinstance(part, AttentionPart):
            self.attention[half.index] = part
        elif part is not None:
            self.networks[half.index] = part
            attention = self._attention_before(half) or part.attention
            if part.networks and attention is not None:
                part.units = measure_block(half.index, part.networks, attention)
            part.networks, part.attention = [], None

    def remove(self, halves: Iterable[Half], measurements: bool = True) -> None:
        """Remove halves, and what was measured of them."""
        for half in halves:
            self.halves.remove(half)
            if measurements:
                (self.attention if half.place == "attention" else self.networks).pop(
                    half.index, None
                )

    def forget_attention(self) -> None:
        """Let attention leave memory that no later network can belong to."""
        working = self.working
        for index, part in self.attention.items():
            if working and index <= working[-1].index and not working[-1].open:
                part.attention = None

    def _attention_before(self, network: Half) -> SelfAttention | None:
        """The attention of a network's block, where it was measured."""
        block = next((block for block in self.working if block.ffn == network), None)
        if block is None or block.attention is None:
            return None
        part = self.attention.get(block.attention.index)
        return part.attention if part else None
