"""A short forward pass: what each head, hidden unit and block does on a text.

The canonical blocks that are read anyway run in float32 over a few short sequences of token ids,
one block after the other, so that only one is in memory. What is measured of a block is data
(`BlockUse`); the residual stream stays in the pass. See docs/maths.md, Function.
"""

from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from huref.architecture.block import Attention, FeedForward, LatentAttention, Mixture
from huref.architecture.running import Running, running
from huref.architecture.weights import is_finite
from huref.invariants.block_run import TINY, BlockRunner
from huref.invariants.block_use import (
    BlockUse,
    HalfUse,
    LinearUnits,
    Observer,
    Simplify,
    UnitUse,
)
from huref.invariants.canonical_heads import group_heads
from huref.invariants.reproducible import eigh, energy, one_thread
from huref.invariants.token_rows import TokenRows
from huref.invariants.zero_sums import find_zero_sum

WIDEST = 2048  # width up to which directions that nothing writes are looked for in every basis
SAME_PATTERN = 0.999  # cosine of the weights that two heads give to the tokens of the text
CANCELLED = 0.1  # of the energy of the largest of heads that attend alike: they undo each other
LINEAR = 0.02  # of what varies in a unit's activation: what a linear function leaves of it
UNUSED = 1e-4  # of the upper quartile of the energies; a mean would be that of outliers


class StreamOverflowError(ArithmeticError):
    """The residual stream became infinite or NaN; weights are then weighed as they stand."""


class ForwardPass:
    """The residual stream of some sequences on their way through a model's blocks.

    Args:
        tokens: the model's embeddings.
        ids: token ids, (sequences, length); every sequence begins as the model's texts begin.
        basis: orthonormal rows (k, d) that span the anchors' embeddings.
        embedded: embeddings of many tokens (n, d), from which unwritten directions are told.
        unread: orthonormal rows (n, d): directions that the output head does not read.
        unit_shares: whether each unit's share in what its network writes is wanted.
    """

    def __init__(
        self,
        tokens: TokenRows,
        ids: Tensor,
        basis: Tensor,
        embedded: Tensor,
        unread: Tensor | None = None,
        unit_shares: bool = True,
    ):
        reader = self.reader = tokens.reader
        self.ids, self._basis, self._unread = ids, basis, unread
        self._unit_shares = unit_shares
        self.shape = (ids.shape[0], ids.shape[1])
        distinct, places = torch.unique(ids.flatten(), return_inverse=True)
        rows = tokens.embeddings(distinct.tolist())
        learned = reader.read_positions(self.shape[1])
        self.running: Running = running(
            reader.layout, reader.config, rows.shape[1], learned is not None
        )
        self.runner = BlockRunner(reader, self.running, self.shape)
        self.x = rows[places] * self.running.embedding_scale  # (sequences * length, d)
        if learned is not None and learned.shape[1] == self.x.shape[1]:
            self.x = self.x + learned.repeat(self.shape[0], 1)
        # Energy of what is written to each direction of the stream: (d, d), or its diagonal (d,).
        self._written = embedded.new_zeros(())
        self.note_written(embedded, 1.0)
        # The first token of a text attends to itself alone and often holds a huge constant.
        self.counted = torch.ones(self.shape, dtype=torch.bool)
        self.counted[:, 0] = False
        self.counted = self.counted.flatten()
        self._dense: list[FeedForward] = []  # at most one
        # What the two halves of the last block added to the stream.
        self.moved: tuple[Tensor, ...] = (torch.zeros_like(self.x),) * 2

    @property
    def exact(self) -> bool:
        """Whether hidden states of this family are known to agree with the module's."""
        return self.running.exact

    def run(
        self,
        index: int,
        attention: Attention | LatentAttention,
        ffn: FeedForward | Mixture,
        observe: Observer | None = None,
        simplify: Simplify | None = None,
    ) -> BlockUse:
        """Run one block and move the stream past it.

        Args:
            index: of the block.
            attention: of the block.
            ffn: of the block.
            observe: is shown each network of a mixture while it is in memory.
            simplify: is shown each network first; what it returns runs in its place.

        Raises:
            StreamOverflowError: a number overflows.
        """
        start, runner = self.x, self.runner
        written, heads, moments, energies, undone = self._attend(index, attention)
        self._check(written)
        parallel = self.running.parallel
        middle = start if parallel else runner.added(index, "attention", start, written)
        output, units, routing, agree = self._feed(index, middle, ffn, observe, simplify)
        self._check(output)
        if parallel:
            self.moved = tuple(self.running.residual_scale * half for half in (written, output))
            after = start + self.running.residual_scale * (written + output)
        else:
            after = runner.added(index, "ffn", middle, output)
            self.moved = middle - start, after - middle
        halves = self._half(written, start), self._half(output, middle)
        unread = self._unread_share(written, output)
        use = BlockUse(*halves, heads, moments, energies, units, routing, agree, unread, undone)
        self.x = after
        return use

    def note_written(self, rows: Tensor, share: float) -> None:
        """Add what a block writes to the energies, which the embeddings begin with a sum of 1.

        Args:
            rows: what the block writes to some inputs, (n, d).
            share: of the stream's norm, counted up to 1; its square is what is added.
        """
        whole = float(energy(rows))
        if whole > 0:
            weight = torch.full((len(rows),), min(share, 1.0) ** 2 / whole)
            self._written = self._written + directions_energy(rows, weight)

    @property
    def written(self) -> Tensor:
        """Energy of what was written to each direction so far; to be given to `forget`."""
        return self._written

    def forget(self, written: Tensor) -> None:
        """Set the energies back to what they were, where blocks undid each other since."""
        self._written = written

    def unwritten(self) -> Tensor:
        """Orthonormal rows (n, d): directions that neither embeddings nor earlier blocks use."""
        return unused_directions(self._written)

    def _unread_share(self, *written: Tensor) -> float:
        """Share of the energy that halves write in directions that the head does not read."""
        if self._unread is None or not len(self._unread):
            return 0.0
        counted = torch.cat([half[self.counted] for half in written])
        unread = energy(counted @ self._unread.T)
        return float(unread / energy(counted).clamp(min=TINY))

    def _readable(self, x: Tensor) -> Tensor:
        """Rows x (n, d) without the directions that the output head does not read."""
        if self._unread is None or not len(self._unread):
            return x
        return x - (x @ self._unread.T) @ self._unread

    def _check(self, values: Tensor) -> None:
        if not is_finite(values):
            raise StreamOverflowError

    def take_dense(self) -> FeedForward:
        """The network of the last block as it was run; it is not kept here any longer."""
        return self._dense.pop()

    def share_now(self, moved: Tensor) -> float:
        """What an earlier block added to the stream, (tokens, d), as a share of the stream now."""
        return self._compare(moved, self.x).counted

    def _half(self, written: Tensor, stream: Tensor) -> HalfUse:
        return self._compare(self.running.residual_scale * written, stream)

    def _compare(self, written: Tensor, stream: Tensor) -> HalfUse:
        scaled = self._readable(written[self.counted])
        read = self._readable(stream[self.counted])
        ratio = scaled.norm(dim=1) / read.norm(dim=1).clamp(min=TINY)
        within = (scaled @ self._basis.T).norm(dim=1)
        within = within / (read @ self._basis.T).norm(dim=1).clamp(min=TINY)
        usual = min(float(part.quantile(0.25)) for part in (ratio, within))
        return HalfUse(float(ratio.mean()), float(within.mean()), usual)

    def _attend(
        self, index: int, attention: Attention | LatentAttention
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """What attention writes (tokens, d), and of `BlockUse` what concerns heads."""
        mixed, pattern = self.runner.mix_heads(index, attention, self.x)
        written = mixed.flatten(1) @ attention.o
        heads = mixed.shape[1]
        o = attention.o.reshape(heads, -1, attention.o.shape[1])
        stream = self.x[self.counted].norm(dim=1, keepdim=True).clamp(min=TINY)
        total = written[self.counted] / stream
        # <z_h o_h, total> = <z_h, total o_h^T>, without each head's output.
        z = mixed[self.counted] / stream[:, None]
        moments = torch.einsum("thi,thj->hij", z, z) / max(len(z), 1)
        shares, energies = torch.empty(heads), torch.empty(heads)
        for head in range(heads):
            with one_thread():
                shares[head] = (z[:, head] * (total @ o[head].T)).sum()
            energies[head] = (moments[head] * (o[head] @ o[head].T)).sum().clamp(min=0).sqrt()
        shares = shares / energy(total).clamp(min=TINY)
        undone = torch.zeros(heads, dtype=torch.bool)
        for group in _alike(pattern[:, :, 1:].transpose(0, 1).flatten(1)):
            together = energy(z[:, group].flatten(1) @ o[group].flatten(0, 1)) / max(len(z), 1)
            undone[group] = float(together.sqrt()) < CANCELLED * float(energies[group].max())
        written = self.runner.finish_attention(index, attention, written)
        return written, shares, moments, energies, undone

    def _feed(
        self,
        index: int,
        stream: Tensor,
        ffn: FeedForward | Mixture,
        observe: Observer | None,
        simplify: Simplify | None,
    ) -> tuple[Tensor, dict[int, UnitUse], Tensor | None, float]:
        """What the feed-forward half writes, its units, the routing, and how far experts agree."""
        x = self.runner.reads("ffn", stream)
        scale = stream[self.counted].norm(dim=1, keepdim=True).clamp(min=TINY)

        def run(expert: int, network: FeedForward) -> tuple[FeedForward, Tensor, UnitUse]:
            output, use = self._network(x, network, scale)
            while simplify is not None:
                found = simplify(expert, network, use)
                if found is network:
                    break
                network = found
                output, use = self._network(x, network, scale)
            return network, output, replace(use, find_idle=None)  # which holds the hidden states

        if isinstance(ffn, FeedForward):
            network, output, use = run(-1, ffn)
            self._dense = [network]
            return self.runner.out(index, "ffn", output), {-1: use}, None, 1.0
        units: dict[int, UnitUse] = {}
        output = torch.zeros_like(x)
        if ffn.shared is not None:
            shared, output, units[-1] = run(-1, ffn.shared)
            if observe is not None:
                observe(-1, shared, units[-1], 1.0)
        routing = self.runner.route(index, x, ffn.count)
        routed, alone = torch.zeros_like(x), 0.0
        for expert in range(ffn.count):
            network, written, units[expert] = run(expert, ffn.read(expert))
            if observe is not None:
                mass = float(routing[self.counted, expert].mean())
                observe(expert, network, units[expert], mass)
            weighed = routing[:, expert, None] * written
            routed = routed + weighed
            alone += float(energy(weighed))
        agree = float(energy(routed).sqrt()) / max(alone**0.5, TINY)
        masses = routing[self.counted].mean(dim=0)
        return self.runner.out(index, "ffn", output + routed), units, masses, agree

    def _network(self, x: Tensor, network: FeedForward, scale: Tensor) -> tuple[Tensor, UnitUse]:
        """What a network writes, and what its units do; `scale` is the norm of the stream."""
        gates = self.runner.gates(x, network)
        active, hidden = self.runner.activate(x, network, gates)
        output = hidden @ network.down
        shares = None
        if self._unit_shares:
            own, total = hidden[self.counted] / scale, output[self.counted] / scale
            shares = (own * (total @ network.down.T)).sum(dim=0)
            shares = shares / energy(total).clamp(min=TINY)
        if "down" in network.biases:
            output = output + network.biases["down"]
        find_idle = partial(find_zero_sum, hidden[self.counted] / scale, network.down)
        active = active[self.counted]
        linear = linear_units(gates[self.counted], active)
        return output, UnitUse(active.square().mean(dim=0).sqrt(), shares, linear, find_idle)


def linear_units(gates: Tensor, active: Tensor) -> LinearUnits:
    """The units whose activations are linear on the text, by least squares.

    Args:
        gates: what the activations are taken of, (tokens, units).
        active: the activations, (tokens, units).
    """
    middle, level = gates.mean(dim=0), active.mean(dim=0)
    y, a = gates - middle, active - level
    spread = y.square().sum(dim=0).clamp(min=TINY)
    slopes = (y * a).sum(dim=0) / spread
    left = (a - slopes * y).square().sum(dim=0)
    varies = slopes.square() * spread > TINY**0.5 * float(spread.max())
    places = (varies & (left < LINEAR**2 * slopes.square() * spread)).nonzero().flatten()
    return LinearUnits(places, slopes[places], (level - slopes * middle)[places])


def _alike(patterns: Tensor) -> list[list[int]]:
    """Groups of two or more heads that attend alike, from the weights of tokens (heads, n)."""
    rows = patterns / patterns.norm(dim=1, keepdim=True).clamp(min=TINY)
    return group_heads(rows @ rows.T > SAME_PATTERN)


def directions_energy(rows: Tensor, weights: Tensor) -> Tensor:
    """Sum of w x x^T over rows x (n, d), or its diagonal for a wide stream."""
    if rows.shape[1] > WIDEST:
        return weights @ rows.square()
    return rows.T @ (weights[:, None] * rows)


def unused_directions(written: Tensor) -> Tensor:
    """Orthonormal rows (n, d): directions with next to no energy (see `directions_energy`).

    In a stream wider than WIDEST only whole dimensions are found.
    """
    if written.ndim == 1:
        unused = written < UNUSED * written.quantile(0.75)
        places = unused.nonzero().flatten()
        rows = torch.zeros(len(places), len(unused))
        rows[torch.arange(len(places)), places] = 1
        return rows
    energies, directions = eigh(written.double())
    unused = energies < UNUSED * energies.quantile(0.75)
    found: Tensor = directions[:, unused].T.float()
    return found


def row_space(E: Tensor) -> Tensor:
    """Orthonormal rows (k, d) that span the rows of whitened embeddings E (m, d)."""
    if len(E) > E.shape[1]:  # the smaller of the two Gram matrices
        squared, vectors = eigh((E.T @ E).double())
        kept = squared > 1e-3 * squared.sum() / len(E)
        directions: Tensor = vectors[:, kept].T
        return directions.float()
    squared, vectors = eigh((E @ E.T).double())
    kept = squared > 1e-3 * squared.mean()
    basis: Tensor = (vectors[:, kept].T @ E.double()) / squared[kept, None].sqrt()
    return basis.float()
