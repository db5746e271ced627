"""From a checkpoint to terms weighed by use: emitted anchors, a forward pass, blocks that write.

Blocks are run in order, each read once. A block counts where it writes a share of the stream; the
recipe's positions are places among those. See docs/maths.md, Function.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from huref.architecture.balance import balance_attention, balance_network
from huref.architecture.block import (
    Attention,
    FeedForward,
    LatentAttention,
    Mixture,
)
from huref.architecture.reader import ModelReader
from huref.errors import WeightsError
from huref.invariants.block_units import (
    BlockUnits,
    NetworkUnits,
    join_blocks,
    measure_network,
)
from huref.invariants.block_use import BlockUse, HalfUse, Observer, UnitUse
from huref.invariants.canonical_heads import read_anchors, weigh_heads
from huref.invariants.canonical_units import (
    EqualUnits,
    as_dense,
    attention_without,
    merge_equal_units,
    used_attention,
    without_directions,
)
from huref.invariants.chosen_rows import choose_rows, fit_of_strings
from huref.invariants.effect import BackwardPass, BlockEffect
from huref.invariants.embedding_relations import relate_embeddings
from huref.invariants.emitted_anchors import choose_for_function
from huref.invariants.extracted import Depth, Extract
from huref.invariants.forward import (
    ForwardPass,
    StreamOverflowError,
    directions_energy,
    row_space,
    unused_directions,
)
from huref.invariants.function_terms import used_attention_terms, used_network
from huref.invariants.function_use import Forward, FunctionUse, Sign
from huref.invariants.halves import Half, Place
from huref.invariants.measured_halves import AttentionPart, Measured, NetworkPart, Progress
from huref.invariants.signs import Seen, foresight, misfit, signs_of
from huref.invariants.simpler_networks import SimplerNetworks
from huref.invariants.static_use import use_as_it_stands
from huref.invariants.terms import flatten, whiten
from huref.invariants.text import text_ids
from huref.invariants.token_rows import TokenRows
from huref.invariants.traits import Traits, count_levels
from huref.invariants.unit_features import (
    EVERY_TOKEN,
    EXPERTS_KEPT,
    sketch_rows,
    token_signs,
)
from huref.invariants.weight_samples import EMBEDDINGS, HEAD, Sampler, WeightSamples
from huref.loader.checkpoint import Checkpoint
from huref.recipe import Recipe

WRITES = 0.05  # share of the stream's norm from which a block counts
CANCEL = (
    0.2  # halves cancel whose writes sum to less of the largest; honest ones keep 0.86 and more
)
MOST_CANCELLING = 6  # consecutive blocks whose halves are looked at together
# Of the stream's directions; fewer that the head leaves unread are no sign. The first blocks of
# public models write into some dimensions that the last norm's gain all but suppresses.
LEAST_UNREAD = 0.05
# Units times squared width of a block up to which all units get barcodes at full depth; a model of
# 3 billion weights has fewer. Samples of permuted units never meet, and where strings were
# renumbered nothing but barcodes finds counterparts.
MOST_CODED = 1e11
KEPT = 2**28  # numbers of blocks that stay in memory for the pass backwards


class FunctionReading:
    """Reads one checkpoint under a recipe whose terms are weighed by use.

    Args:
        checkpoint: the model.
        recipe: which anchors and which blocks.
        depth: see `extract_terms`.
    """

    def __init__(self, checkpoint: Checkpoint, recipe: Recipe, depth: Depth):
        self.checkpoint, self.depth = checkpoint, depth
        self.sampler = Sampler()
        checkpoint.observe = None if depth == "terms" else self.sampler
        self.reader = ModelReader(checkpoint)
        self.anchors, self.recipe, self.unemitted = choose_for_function(checkpoint, recipe)
        filled = self.anchors.filled
        self.tokens = TokenRows(self.reader)
        text, self.own_text = text_ids(checkpoint)
        self.text = text[:, : self.reader.count_positions()]
        self.table_ids = choose_rows(self.tokens, self.anchors, self.text)
        self.table = self.tokens.embeddings(self.table_ids)
        rows = self.table[: len(filled)]
        if torch.equal(rows, rows[:1].expand_as(rows)) and rows.any():
            raise WeightsError("the anchors' embeddings are all equal")
        self.unread = self._unread_directions()
        self.rows = rows - (rows @ self.unread.T) @ self.unread
        if not self.rows.any():
            raise WeightsError("the embeddings are all zero")
        E = torch.zeros(self.recipe.m, self.rows.shape[1])
        E[filled] = self.rows
        self.E = whiten(E, self.recipe.damping)
        self.S = None if depth == "terms" else sketch_rows(self.anchors, self.E)
        by_id = {token.id: token for token in checkpoint.vocabulary}
        self.spelling = fit_of_strings(by_id, self.table_ids, self.table, self.anchors)
        self.signs = Seen()

    def extract(self) -> Extract:
        """All measurements.

        Raises:
            WeightsError: no block writes anything, or terms are not finite.
        """
        needed = max(self.recipe.layers) + 1
        state = self._read(everything=self.depth == "full")
        working, all_measured = state.working, state.measured()
        if len(working) < needed and not all(block.index in all_measured for block in working):
            state = self._read(everything=True)  # fewer blocks than the recipe counts to
            working, all_measured = state.working, state.measured()
        if not working:
            raise WeightsError("no block writes anything; its weights are all zero")
        layers, recipe = self._positions([block.index for block in working], needed)
        measured = [all_measured[index] for index in layers]
        terms = flatten(torch.stack([block.terms for block in measured]), recipe.damping)
        if not (torch.isfinite(terms).all() and terms.any(dim=(1, 2, 3)).all()):
            raise WeightsError(
                f"the blocks {list(layers)} give no terms that can be compared: the anchors' "
                "embeddings are all equal, or products of the weights overflow"
            )
        traits = Traits(
            vocabulary=len(self.checkpoint.vocabulary),
            blocks=len(self.reader.attention_blocks),
            width=self.rows.shape[1],
            levels=measured[0].levels,
        )
        extract = Extract(terms, self.anchors, layers, recipe, traits=traits)
        order = [*dict.fromkeys(layers), *(i for i in all_measured if i not in layers)]
        blocks = [b for i in order if (b := all_measured[i].units) is not None]
        blocks += state.left_over() if self.depth == "full" else []
        shares = torch.zeros(0)
        if blocks:
            units, barcodes, relations = join_blocks(blocks)
            extract = replace(extract, units=units, barcodes=barcodes, relations=relations)
            shares = _joined_shares(blocks)
        sketched = list(dict.fromkeys([*layers, *all_measured]))
        if self.depth == "terms":
            sketched = []
        function = FunctionUse(
            forward=self._forward(state),
            energy=_energies(state.energy),
            effects=_effects(state.effects),
            unit_shares=shares,
            blocks=torch.tensor(sketched, dtype=torch.int32),
            terms=self._sketch(sketched, all_measured, dict(zip(layers, terms, strict=True))),
            embeddings=relate_embeddings(self.rows, self.anchors.filled, self.recipe.m),
            signs=tuple(self._signs(state)),
        )
        return replace(extract, function=function, samples=self._samples(state))

    def _samples(self, state: Progress) -> WeightSamples | None:
        """Samples of all blocks that were read, and of the anchors' rows in both tables."""
        if self.depth == "terms":
            return None
        filled = self.anchors.filled
        ids = [self.anchors.ids[i] for i in filled]
        tables = {EMBEDDINGS: self.tokens.embeddings(ids), HEAD: self.tokens.stored_head(ids)}
        for part, rows in tables.items():
            if rows is not None:
                self.sampler.see_table(part, rows, filled, self.recipe.m)
        return self.sampler.collect(self.reader, state.energy)

    def _forward(self, state: Progress) -> Forward:
        if state.overflowed:
            return "none"
        return "exact" if self._pass.exact else "approximate"

    def _signs(self, state: Progress) -> list[Sign]:
        return signs_of(self.signs, self.unemitted, state.overflowed)

    def _positions(self, working: Sequence[int], needed: int) -> tuple[tuple[int, ...], Recipe]:
        """Indices of the recipe's blocks; if there are too few, positions are shifted down."""
        missing = max(needed - len(working), 0)
        recipe = self.recipe
        if missing:
            shallow = tuple(max(position - missing, 0) for position in recipe.layers)
            recipe = replace(recipe, name=f"{recipe.name}+shallow", layers=shallow)
        return tuple(working[position] for position in recipe.layers), recipe

    def _read(self, everything: bool) -> Progress:
        """Run blocks in order until the recipe's are found, or all.

        Args:
            everything: measure every block that works, and with depth "full" run all of them.
        """
        self.signs = Seen(own_text=self.own_text, spelling=self.spelling)
        basis, units = row_space(self.E), self.S is not None
        self._pass = ForwardPass(self.tokens, self.text, basis, self.table, self.unread, units)
        self._starts: dict[int, Tensor] = {}
        self._networks = SimplerNetworks(self._pass.running, self.signs)
        self._kept: dict[int, tuple[Attention | LatentAttention, FeedForward | Mixture]] = {}
        state = Progress()
        needed = max(self.recipe.layers) + 1
        recent: list[tuple[Half, Tensor, Tensor]] = []  # what was added, and `written` before
        added: dict[Half, Tensor] = {}
        for index in self.reader.attention_blocks:
            use, parts = self._block(
                state, index, everything or state.may_add_to(self.recipe.layers)
            )
            state.energy[index] = use
            for (half, rows, part), moved in zip(parts, self._pass.moved, strict=True):
                state.add(half, part)
                added[half] = moved
                before = (half, moved[self._pass.counted], self._pass.written)
                recent = [*recent[1 - 2 * MOST_CANCELLING :], before]
                undone = _last_to_cancel([moved for _, moved, _ in recent])
                if undone and not state.overflowed:
                    run = recent[-undone:]
                    self.signs.cancelling.append(tuple(dict.fromkeys(h.index for h, _, _ in run)))
                    state.remove(half for half, _, _ in run if half in state.halves)
                    self._pass.forget(run[0][2])
                    recent = []
                elif not state.overflowed:
                    self._pass.note_written(rows, half.share)
            if not state.overflowed and not any(_works(half) for _, half in _halves(use)):
                self.signs.silent.append(index)
            if len(state.working) == needed:
                self._drop_drowned(state, added)
            state.forget_attention()
            if state.has_closed(needed) and not (everything and self.depth == "full"):
                break
        if not state.overflowed:
            self.signs.whole = len(state.energy) == len(self.reader.attention_blocks)
            if self.own_text:
                self.signs.loss = misfit(self.tokens, self._pass)
                self.signs.foresight = foresight(self.tokens, self._pass)
            if self.depth == "full" and self.signs.whole:
                self._go_back(state)
        return state

    def _drop_drowned(self, state: Progress, added: Mapping[Half, Tensor]) -> None:
        """Let blocks not count whose writes are lost in what later ones have written since.

        Embeddings may be small beside what the first real block writes; a block in front of it that
        writes a share of the embeddings writes nothing that anyone reads.
        """
        if state.overflowed:
            return
        for block in state.working:
            moved = torch.stack([added[half] for half in block.halves]).sum(dim=0)
            if self._pass.share_now(moved) < WRITES:
                self.signs.silent += dict.fromkeys(half.index for half in block.halves)
                state.remove(block.halves, measurements=False)

    def _unread_directions(self) -> Tensor:
        """Orthonormal rows (n, d): directions of the stream that the output head does not read."""
        head = self.tokens.head(self.table_ids)
        if head is None:
            return torch.zeros(0, self.table.shape[1])
        found = unused_directions(directions_energy(head, torch.full((len(head),), 1 / len(head))))
        few = len(found) < LEAST_UNREAD * self.table.shape[1]
        return found[:0] if few else found

    def _read_block(self, index: int) -> tuple[Attention | LatentAttention, FeedForward | Mixture]:
        """A block; with depth "full" it stays in memory for the pass back, if there is room."""
        if index in self._kept:
            return self._kept[index]
        ffn = self._resolved(index, as_dense(self.reader, index, self.reader.read_ffn(index)))
        attention = self.reader.read_attention(index)
        planes = None
        if isinstance(attention, Attention):
            head_dim = attention.q.shape[1] // attention.heads
            planes = self._pass.running.planes(index, head_dim)
        attention = balance_attention(attention, planes)
        if self.depth == "full" and isinstance(ffn, FeedForward):
            size = (self.rows.shape[1] * ffn.up.shape[1]) * 4  # up, gate, down and attention
            if (len(self._kept) + 1) * size <= KEPT:
                self._kept[index] = attention, ffn
        return attention, ffn

    def _resolved(self, index: int, ffn: FeedForward | Mixture) -> FeedForward | Mixture:
        """A network, or a mixture of such, of balanced units, none of which undo each other."""

        def resolve(expert: int, network: FeedForward) -> FeedForward:
            balanced = balance_network(network, self._pass.running.homogeneous)
            return self._networks.read(index, expert, balanced)

        if isinstance(ffn, FeedForward):
            return resolve(EVERY_TOKEN, ffn)
        read, shared = ffn.read, ffn.shared
        shared = None if shared is None else resolve(EVERY_TOKEN, shared)
        return replace(ffn, shared=shared, read=lambda expert: resolve(expert, read(expert)))

    def _go_back(self, state: Progress) -> None:
        """Measure what every block adds to the logits, and give the units these shares.

        Blocks that were not kept are read once more; from the Hub they are not.
        """
        if self.checkpoint.repository.remote and len(self._kept) < len(self._starts):
            return
        ids = torch.unique(self._pass.ids).tolist()
        back = BackwardPass(self._pass, self.tokens.head(ids))
        for index, start in reversed(self._starts.items()):
            effect = back.step(index, *self._read_block(index), start)
            self._kept.pop(index, None)
            if not torch.isfinite(back.gradient).all():
                return
            state.effects[index] = effect
        for index, part in state.networks.items():
            part.use_effects(state.effects[index])

    def _block(
        self, state: Progress, index: int, wanted: bool
    ) -> tuple[BlockUse, Iterable[tuple[Half, Tensor, AttentionPart | NetworkPart | None]]]:
        """Run one stored block, and measure its halves if they are wanted.

        Returns:
            What the block does, and of each half what it writes to the anchors, (m, d), and its
            measurements.
        """
        attention, ffn = self._read_block(index)
        if self.depth == "full":
            self._starts[index] = self._pass.x
        unwritten = self._pass.unwritten() if not state.overflowed else None
        first = index in self.recipe.layers or not state.attention
        recipe_block = state.may_add_to(self.recipe.layers)
        experts = 1 if isinstance(ffn, FeedForward) else min(ffn.count + 1, EXPERTS_KEPT)
        networks: list[NetworkUnits] = []
        merges: dict[int, EqualUnits] = {}
        written = torch.zeros_like(self.E)

        def observe(expert: int, network: FeedForward, use: UnitUse, mass: float) -> None:
            if unwritten is not None and len(unwritten):
                if not self.reader.layout.embedding.factor:  # which has a low rank by design
                    self.signs.see_unwritten(unwritten, network)
                network = without_directions(network, unwritten)
                network = balance_network(network, self._pass.running.homogeneous)
            merged = merge_equal_units(network, use, self._pass.running.homogeneous)
            self.signs.see_network(index, expert, network, use, merged.equal.removed)
            written.add_(mass * used_network(merged.network, merged.use, self.E))
            if wanted and self.S is not None:
                merges[expert] = merged.equal
                shares = None if merged.use.shares is None else mass * merged.use.shares
                width, units = merged.network.up.shape
                small = experts * units * width**2 <= MOST_CODED
                whole = self.depth == "full" and (recipe_block or small)
                networks.append(measure_network(merged.network, expert, self.S, whole, shares))

        use = self._run(state, index, attention, ffn, observe)
        self.signs.see_block(index, use, attention)
        if unwritten is not None and len(unwritten):
            attention = attention_without(attention, unwritten)
        anchors = read_anchors(attention, self.E)
        weights = weigh_heads(attention, use, anchors)
        qk, by_attention = used_attention_terms(attention, weights, anchors)
        first_half, second_half = (
            Half(index, place, half.counted, state.overflowed or _works(half))
            for place, half in _halves(use)
        )
        if not wanted:
            return use, ((first_half, by_attention, None), (second_half, written, None))
        attention_part = AttentionPart(
            torch.stack([qk, by_attention @ self.E.T]),
            count_levels(attention.o) if first else None,
            None if self.S is None else used_attention(attention, weights),
        )
        network_part = NetworkPart(written @ self.E.T, merges, networks, attention_part.attention)
        return use, (
            (first_half, by_attention, attention_part),
            (second_half, written, network_part),
        )

    def _run(
        self,
        state: Progress,
        index: int,
        attention: Attention | LatentAttention,
        ffn: FeedForward | Mixture,
        observe: Observer,
    ) -> BlockUse:
        """Run a block; where numbers overflow, weigh its parts as they stand."""
        if not state.overflowed:
            try:
                simplify = partial(self._networks.simplify, index)
                use = self._pass.run(index, attention, ffn, observe, simplify)
            except StreamOverflowError:
                state.overflowed = True
                state.halves.clear()
                state.attention.clear()
                state.networks.clear()
            else:
                if isinstance(ffn, FeedForward):
                    network = self._pass.take_dense()
                    observe(EVERY_TOKEN, network, use.units[EVERY_TOKEN], 1.0)
                    if index in self._kept:
                        self._kept[index] = attention, network
                return use
        return use_as_it_stands(attention, ffn, self.E, observe)

    def _sketch(
        self,
        blocks: Sequence[int],
        measured: Mapping[int, Measured],
        flattened: Mapping[int, Tensor],
    ) -> Tensor:
        """P^T T P of the flattened terms of some blocks, (n, 3, SKETCHED, SKETCHED) float16.

        `flattened` has those (3, m, m) that are known: flattening takes longest of all.
        """
        P = token_signs(self.anchors)
        found = []
        for index in blocks:
            known = flattened.get(index)
            if known is None:
                known = flatten(measured[index].terms, self.recipe.damping)
            sketch = P.T @ known @ P
            scale = sketch.square().mean(dim=(1, 2), keepdim=True).sqrt().clamp(min=1e-30)
            found.append((sketch / scale).half())
        return torch.stack(found) if found else torch.zeros(0, 3, P.shape[1], P.shape[1]).half()


def _halves(use: BlockUse) -> tuple[tuple[Place, HalfUse], tuple[Place, HalfUse]]:
    return ("attention", use.attention), ("ffn", use.ffn)


def _works(half: HalfUse) -> bool:
    """Whether a half writes enough to count, and to most tokens."""
    return half.counted >= WRITES and half.usual >= WRITES / 2


def _last_to_cancel(parts: Sequence[Tensor]) -> int:
    """How many of the last parts sum to nothing beside the largest of them; 0 if none do."""
    together, largest = torch.zeros_like(parts[-1]), 0.0
    for count, part in enumerate(reversed(parts), 1):
        together, largest = together + part, max(largest, float(part.norm()))
        if count > 1 and float(together.norm()) < CANCEL * largest:
            return count
    return 0


def _joined_shares(blocks: Sequence[BlockUnits]) -> Tensor:
    """The shares of all units whose features are kept, in the order of `join_blocks`."""
    in_order = sorted(blocks, key=lambda block: block.layer)
    parts = [part for block in in_order for part in block.features]
    return torch.cat(
        [torch.zeros(len(p.features)) if p.shares is None else p.shares.float() for p in parts]
    )


def _energies(energy: dict[int, BlockUse]) -> Tensor:
    rows = [
        [
            float(index),
            use.attention.share,
            use.attention.token_share,
            use.ffn.share,
            use.ffn.token_share,
        ]
        for index, use in energy.items()
    ]
    return torch.tensor(rows).reshape(-1, 5)


def _effects(effects: dict[int, BlockEffect]) -> Tensor:
    """Index, and what attention and the feed-forward half add, as shares of all, (blocks, 3)."""
    rows = torch.tensor([[i, e.attention, e.ffn] for i, e in sorted(effects.items())])
    rows = rows.reshape(-1, 3).float()
    rows[:, 1:] /= rows[:, 1:].sum().clamp(min=1e-30)
    return rows
