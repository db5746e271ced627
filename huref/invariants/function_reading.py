"""From a checkpoint to terms weighed by use: emitted anchors, a forward pass, blocks that write.

Blocks are run in order, each read once. A block counts where it writes a share of the stream; the
recipe's positions are places among those. See docs/maths.md, Function.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from huref.architecture.block import Attention, FeedForward, LatentAttention, Mixture, SelfAttention
from huref.architecture.reader import ModelReader
from huref.errors import AnchorError, WeightsError
from huref.invariants.anchors import Anchors, choose_anchors, choose_emitted
from huref.invariants.block_units import (
    BlockUnits,
    NetworkUnits,
    join_blocks,
    measure_block,
    measure_network,
)
from huref.invariants.canonical_units import (
    attention_without,
    merge_equal_units,
    used_attention,
    without_directions,
)
from huref.invariants.extracted import Depth, Extract
from huref.invariants.forward import (
    WIDEST,
    BlockUse,
    ForwardPass,
    HalfUse,
    Observer,
    StreamOverflowError,
    UnitUse,
    row_space,
)
from huref.invariants.function_terms import used_attention_terms, used_network
from huref.invariants.function_use import Forward, FunctionUse, Sign
from huref.invariants.signs import Seen, misfit, signs_of
from huref.invariants.terms import flatten, whiten
from huref.invariants.text import text_ids
from huref.invariants.traits import Traits, count_levels
from huref.invariants.unit_features import EVERY_TOKEN, sketch_rows, token_signs
from huref.loader.checkpoint import Checkpoint
from huref.recipe import Recipe

WRITES = 0.02  # share of the stream's norm from which a block counts
EVEN = 1e-3  # norm of a router, less its mean over experts, over the root of the width
MOST_DENSE = 2**28  # numbers in up of a mixture that is read as one dense network
CANCEL = 0.1  # two blocks cancel whose writes sum to less than this share of either


@dataclass
class _Measured:
    """The measurements of one block that may count."""

    terms: Tensor
    levels: float | None
    units: BlockUnits | None


@dataclass
class _State:
    """What the pass over the blocks has found so far."""

    working: list[int] = field(default_factory=list)
    measured: dict[int, _Measured] = field(default_factory=dict)
    energy: dict[int, BlockUse] = field(default_factory=dict)
    overflowed: bool = False


class FunctionReading:
    """Reads one checkpoint under a recipe whose terms are weighed by use.

    Args:
        checkpoint: the model.
        recipe: which anchors and which blocks.
        depth: see `extract_terms`.
    """

    def __init__(self, checkpoint: Checkpoint, recipe: Recipe, depth: Depth):
        self.checkpoint, self.depth = checkpoint, depth
        self.reader = ModelReader(checkpoint)
        self.anchors, self.recipe, self.unemitted = _choose(checkpoint, recipe)
        filled = self.anchors.filled
        self.rows = self.reader.embeddings([self.anchors.ids[i] for i in filled])
        if not self.rows.any():
            raise WeightsError("the embeddings are all zero")
        E = torch.zeros(self.recipe.m, self.rows.shape[1])
        E[filled] = self.rows
        self.E = whiten(E, self.recipe.damping)
        self.S = None if depth == "terms" else sketch_rows(self.anchors, self.E)
        self.signs = Seen()

    def extract(self) -> Extract:
        """All measurements.

        Raises:
            WeightsError: no block writes anything, or terms are not finite.
        """
        needed = max(self.recipe.layers) + 1
        state = self._read(everything=self.depth == "full")
        if len(state.working) < needed and not all(
            index in state.measured for index in state.working
        ):
            state = self._read(everything=True)  # fewer blocks than the recipe counts to
        if not state.working:
            raise WeightsError("no block writes anything; its weights are all zero")
        layers, recipe = self._positions(state.working, needed)
        measured = [state.measured[index] for index in layers]
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
        order = [*dict.fromkeys(layers), *(i for i in state.measured if i not in layers)]
        blocks = [b for i in order if (b := state.measured[i].units) is not None]
        shares = torch.zeros(0)
        if blocks:
            units, barcodes, relations = join_blocks(blocks)
            extract = replace(extract, units=units, barcodes=barcodes, relations=relations)
            shares = _joined_shares(blocks)
        sketched = list(dict.fromkeys([*layers, *state.measured]))
        if self.depth == "terms":
            sketched = []
        function = FunctionUse(
            forward=self._forward(state),
            energy=_energies(state.energy),
            unit_shares=shares,
            blocks=torch.tensor(sketched, dtype=torch.int32),
            terms=self._sketch([state.measured[i].terms for i in sketched]),
            signs=tuple(self._signs(state)),
        )
        return replace(extract, function=function)

    def _forward(self, state: _State) -> Forward:
        if state.overflowed:
            return "none"
        return "exact" if self._pass.exact else "approximate"

    def _signs(self, state: _State) -> list[Sign]:
        return signs_of(self.signs, self.unemitted, state.overflowed)

    def _positions(self, working: Sequence[int], needed: int) -> tuple[tuple[int, ...], Recipe]:
        """Indices of the recipe's blocks; if there are too few, positions are shifted down."""
        missing = max(needed - len(working), 0)
        recipe = self.recipe
        if missing:
            shallow = tuple(max(position - missing, 0) for position in recipe.layers)
            recipe = replace(recipe, name=f"{recipe.name}+shallow", layers=shallow)
        return tuple(working[position] for position in recipe.layers), recipe

    def _read(self, everything: bool) -> _State:
        """Run blocks in order until the recipe's are found, or all.

        Args:
            everything: measure every block that works, and with depth "full" run all of them.
        """
        ids, own = text_ids(self.checkpoint)
        self.signs = Seen(own_text=own)
        self._pass = ForwardPass(self.reader, ids, row_space(self.E), self._embedded())
        state = _State()
        needed = max(self.recipe.layers) + 1
        previous: tuple[int, Tensor, Tensor] | None = None
        for index in self.reader.attention_blocks:
            wanted = everything or len(state.working) in self.recipe.layers
            before, written = self._pass.x, self._pass.written
            use, measured = self._block(state, index, wanted)
            state.energy[index] = use
            moved = self._pass.x - before
            works = state.overflowed or use.share >= WRITES
            if previous is not None and _cancel(previous[1], moved):
                self.signs.cancelling.append((previous[0], index))
                if previous[0] in state.working:
                    state.working.remove(previous[0])
                state.measured.pop(previous[0], None)
                self._pass.forget(previous[2])
                works, moved = False, torch.zeros_like(moved)
            if works:
                state.working.append(index)
                if measured is not None:
                    state.measured[index] = measured
            elif not state.overflowed and use.share < WRITES:
                self.signs.silent.append(index)
            previous = (index, moved, written)
            if len(state.working) == needed and not (everything and self.depth == "full"):
                break
        if not state.overflowed and own:
            self.signs.loss = misfit(self.reader, self._pass)
            self.signs.whole = len(state.energy) == len(self.reader.attention_blocks)
        return state

    def _embedded(self) -> Tensor:
        """Embeddings of more tokens than the stream has dimensions, where that is not too many."""
        width, count = self.rows.shape[1], len(self.checkpoint.vocabulary)
        if len(self.rows) >= 2 * width or width > WIDEST:
            return self.rows
        size = min(2 * width, count)
        start = (count - size) // 2  # adjacent rows are read in one request
        ids = [token.id for token in self.checkpoint.vocabulary[start : start + size]]
        return torch.cat([self.rows, self.reader.embeddings(ids)])

    def _block(self, state: _State, index: int, wanted: bool) -> tuple[BlockUse, _Measured | None]:
        """Run one block and measure it if it is wanted."""
        ffn = _as_dense(self.reader, index, self.reader.read_ffn(index))
        attention = self.reader.read_attention(index)
        unwritten = self._pass.unwritten() if not state.overflowed else None
        first = index in self.recipe.layers or not state.measured
        every_unit = self.depth == "full" and len(state.working) in self.recipe.layers
        networks: list[NetworkUnits] = []
        written = torch.zeros_like(self.E)

        def observe(expert: int, network: FeedForward, use: UnitUse, mass: float) -> None:
            if unwritten is not None and len(unwritten):
                if not self.reader.layout.embedding.factor:  # which has a low rank by design
                    self.signs.see_unwritten(unwritten, network)
                network = without_directions(network, unwritten)
            merged = merge_equal_units(network, use)
            self.signs.see_network(index, expert, network, use, merged.removed)
            if not wanted:
                return
            written.add_(mass * used_network(merged.network, merged.use, self.E))
            if self.S is not None:
                networks.append(
                    measure_network(merged.network, expert, self.S, every_unit, merged.use.shares)
                )

        use = self._run(state, index, attention, ffn, observe)
        self.signs.see_block(index, use, attention)
        if not wanted:
            return use, None
        qk, vo = used_attention_terms(attention, use, self.E)
        if unwritten is not None and len(unwritten):
            attention = attention_without(attention, unwritten)
        counted = used_attention(attention, use)
        units = measure_block(index, networks, counted) if networks else None
        terms = torch.stack([qk, vo, written @ self.E.T])
        return use, _Measured(terms, count_levels(attention.o) if first else None, units)

    def _run(
        self,
        state: _State,
        index: int,
        attention: Attention | LatentAttention,
        ffn: FeedForward | Mixture,
        observe: Observer,
    ) -> BlockUse:
        """Run a block; where numbers overflow, weigh its parts as they stand."""
        if not state.overflowed:
            try:
                use = self._pass.run(index, attention, ffn, observe)
            except StreamOverflowError:
                state.overflowed = True
                state.working.clear()
                state.measured.clear()
            else:
                if isinstance(ffn, FeedForward):
                    observe(EVERY_TOKEN, ffn, use.units[EVERY_TOKEN], 1.0)
                return use
        return _as_it_stands(attention, ffn, self.E, observe)

    def _sketch(self, terms: Sequence[Tensor]) -> Tensor:
        """P^T T P of flattened terms (3, m, m), (n, 3, SKETCHED, SKETCHED) float16."""
        P = token_signs(self.anchors)
        found = []
        for block in terms:
            sketch = P.T @ flatten(block, self.recipe.damping) @ P
            scale = sketch.square().mean(dim=(1, 2), keepdim=True).sqrt().clamp(min=1e-30)
            found.append((sketch / scale).half())
        return torch.stack(found) if found else torch.zeros(0, 3, P.shape[1], P.shape[1]).half()


def _as_dense(reader: ModelReader, index: int, ffn: FeedForward | Mixture) -> FeedForward | Mixture:
    """A mixture whose experts are all active with equal weights, as a dense network."""
    if isinstance(ffn, FeedForward) or ffn.count == 1:
        return ffn
    chosen = reader.config.get("num_experts_per_tok")
    router = reader.read_router(index)
    if chosen != ffn.count or router is None:
        return ffn
    even = router - router.mean(dim=1, keepdim=True)
    if float(even.norm()) > EVEN * float(len(router) ** 0.5):
        return ffn
    first = ffn.read(0)
    if first.up.numel() * ffn.count > MOST_DENSE or first.biases:
        return ffn
    experts = [first, *(ffn.read(expert) for expert in range(1, ffn.count))]
    downs = [expert.down / ffn.count for expert in experts]
    if ffn.shared is not None:
        experts, downs = [*experts, ffn.shared], [*downs, ffn.shared.down]
    if any(expert.gate is None for expert in experts):
        return ffn
    gates = [expert.gate for expert in experts if expert.gate is not None]
    return FeedForward(
        torch.cat([expert.up for expert in experts], dim=1),
        torch.cat(gates, dim=1),
        torch.cat(downs),
    )


def _cancel(a: Tensor, b: Tensor) -> bool:
    largest = max(float(a.norm()), float(b.norm()))
    return largest > 0 and float((a + b).norm()) < CANCEL * largest


def _choose(checkpoint: Checkpoint, recipe: Recipe) -> tuple[Anchors, Recipe, float]:
    """Anchors, the recipe, and the share of the tried strings that the tokenizer does not emit.

    Where it emits too few, or cannot be run, strings are not checked. Where normal tokens are too
    few, added ones count as well, and then strings of every script.
    """
    tokens, encoder = checkpoint.vocabulary, checkpoint.encoder
    plain = [replace(t, kind="normal") if t.kind == "added" else t for t in tokens]
    rules = dict.fromkeys((recipe.anchors, "all"))
    share = 0.0
    for vocabulary in (tokens, plain):
        for rule in rules:
            named = recipe
            if rule != recipe.anchors:
                named = replace(recipe, name=f"{recipe.name}+all-tokens", anchors=rule)
            if encoder is not None:
                anchors, unemitted = choose_emitted(vocabulary, recipe.m, rule, encoder.emits)
                share = max(share, unemitted)
                if anchors is not None:
                    return anchors, named, share
            try:
                return choose_anchors(vocabulary, recipe.m, rule), named, share
            except AnchorError:
                if vocabulary is plain and rule == "all":
                    raise
    raise AnchorError("the vocabulary has no tokens")


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


def _as_it_stands(
    attention: SelfAttention, ffn: FeedForward | Mixture, E: Tensor, observe: Observer
) -> BlockUse:
    """A use under which every head and unit weighs what its weights weigh."""
    queries, keys = attention.features(E)
    values = attention.values(E)
    heads = queries.shape[1]
    o = attention.o.reshape(heads, -1, attention.o.shape[1])
    sizes, energies = torch.empty(heads), torch.empty(heads)
    for head in range(heads):
        k = keys[:, head * keys.shape[1] // heads]
        v = values[:, head * values.shape[1] // heads]
        sizes[head] = (queries[:, head] @ k.T).norm()
        energies[head] = (v @ o[head] @ E.T).norm()

    def show(expert: int, network: FeedForward, mass: float) -> None:
        gated = E @ (network.up if network.gate is None else network.gate)
        units = gated.shape[1]
        use = UnitUse(gated.square().mean(dim=0).sqrt(), torch.full((units,), 1 / units))
        observe(expert, network, use, mass)

    if isinstance(ffn, FeedForward):
        show(EVERY_TOKEN, ffn, 1.0)
    else:
        if ffn.shared is not None:
            show(EVERY_TOKEN, ffn.shared, 1.0)
        for expert in range(ffn.count):
            show(expert, ffn.read(expert), 1 / ffn.count)
    half = HalfUse(share=1.0, token_share=1.0)
    return BlockUse(half, half, sizes, energies, {})
