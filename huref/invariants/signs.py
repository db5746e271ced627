"""Signs of disguise: what honest training does not leave behind.

`Seen` collects figures while blocks are run; `signs_of` says which of them are signs. Thresholds
are far from what the zoo's models and SmolLM2-135M show. See docs/maths.md, Function.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import combinations

import torch
from torch import Tensor

from huref.architecture.block import FeedForward, SelfAttention
from huref.invariants.block_use import BlockUse, UnitUse
from huref.invariants.forward import ForwardPass
from huref.invariants.function_use import Sign
from huref.invariants.reproducible import row_norms
from huref.invariants.token_rows import TokenRows
from huref.loader.vocabulary.spelling import Token

UNEMITTED = 0.4  # share of the tried anchor strings; simplified tokenizers reach 0.28
EQUAL = 0.02  # share of a network's units that equal gates make superfluous
NULL = 1e-6  # of the median norm: a vector that is zero but for rounding
NULL_UNITS = 0.02  # share of a network's units without effect
READ = 0.01  # of the share of a network's weights that directions of the stream have on average
HEADS = 2.0  # sum of the absolute shares of heads, which is 1 where none work against others
EXPERTS = 0.4  # of `BlockUse.experts_agree`
MISFIT = 1.2  # of `misfit`, with all blocks run; the zoo's models have at most 1.05
FORESIGHT = 3.0  # standard deviations; public models have 6 and more, renumbered copies up to 2.4
SPELLING = 2.0  # standard errors; public models have 60 and more, briefly trained ones 0.9 to 12
FEWEST_SPELLINGS = 8
UNREAD = 0.01  # share of the energy that a block writes where the output head does not read


@dataclass
class Seen:
    """Figures of the blocks that were run.

    Attributes:
        own_text: the text's ids are its tokenizer's, not random ones.
        silent: indices of blocks that write next to nothing.
        cancelling: sets of blocks that undo each other.
        equal: units that equal gates make superfluous, by block.
        opposite: units that opposite gates make superfluous, by block.
        undone: units whose outputs on the text undo each other, by block.
        null_units: units without effect, by block.
        null_heads: heads without effect, by block.
        opposed_heads: sums of the absolute shares of heads that work against others, by block.
        experts: how far experts agree, by block.
        unwritten: directions that are read, and that neither embeddings nor blocks use.
        unread: share of what a block writes where the output head does not read, by block.
        loss: see `misfit`.
        foresight: see `foresight`.
        spelling: see `spelling_fit`.
        whole: whether all blocks were run.
    """

    own_text: bool = True
    silent: list[int] = field(default_factory=list)
    cancelling: list[tuple[int, ...]] = field(default_factory=list)
    equal: dict[int, int] = field(default_factory=dict)
    opposite: dict[int, int] = field(default_factory=dict)
    undone: dict[int, int] = field(default_factory=dict)
    null_units: dict[int, int] = field(default_factory=dict)
    null_heads: dict[int, int] = field(default_factory=dict)
    opposed_heads: dict[int, float] = field(default_factory=dict)
    experts: dict[int, float] = field(default_factory=dict)
    unwritten: int = 0
    unread: dict[int, float] = field(default_factory=dict)
    loss: float | None = None
    foresight: float | None = None
    spelling: float | None = None
    whole: bool = False

    def see_unwritten(self, unused: Tensor, network: FeedForward) -> None:
        """Count directions that nothing writes and that a network reads nevertheless."""
        W = network.up if network.gate is None else network.gate
        share = float((unused @ W).square().sum() / W.square().sum().clamp(min=1e-30))
        if share > READ * len(unused) / len(W):
            self.unwritten = max(self.unwritten, len(unused))

    def see_network(
        self, index: int, expert: int, network: FeedForward, use: UnitUse, removed: int
    ) -> None:
        """Count the superfluous units of a network, and those without effect."""
        units = network.up.shape[1]
        if removed > EQUAL * units:
            self.equal[index] = self.equal.get(index, 0) + removed
        null = torch.zeros(units, dtype=torch.bool)
        for vectors in (network.up.T, network.down):
            norms = row_norms(vectors)
            null |= norms <= NULL * norms.max()
        if network.gate is not None:  # a pruned unit has no gate either
            norms = row_norms(network.gate.T)
            null &= norms > NULL * norms.max()
        if int(null.sum()) > NULL_UNITS * units:
            self.null_units[index] = self.null_units.get(index, 0) + int(null.sum())

    def see_block(self, index: int, use: BlockUse, attention: SelfAttention) -> None:
        """Count the heads of a block without effect, and those that work against others."""
        energy = use.head_energy
        null = int((energy <= NULL * energy.max()).sum())
        if null and float(energy.max()) > 0:
            self.null_heads[index] = null
        against = float(use.heads.abs().sum())
        undone = use.undone is not None and bool(use.undone.any())
        if use.units and (against > HEADS or undone):
            self.opposed_heads[index] = against
        if use.unread > UNREAD:
            self.unread[index] = use.unread
        if use.experts_agree < EXPERTS:
            self.experts[index] = use.experts_agree


def misfit(tokens: TokenRows, run: ForwardPass) -> float | None:
    """Loss of the next token among the text's own, over the loss of guessing; None if unknown.

    Below 1 the stream knows something of the text. Needs the rows of the head for the tokens of
    the text, not the whole head.
    """
    found = _next_token_logits(tokens, run)
    if found is None:
        return None
    logits, places = found
    reader = tokens.reader
    cap = reader.config.get("final_logit_softcapping")
    if cap:
        logits = torch.tanh(logits / cap) * cap
    scale = reader.config.get("logits_scaling")
    if scale:
        logits = logits / float(scale)
    target: Tensor = places[:, 1:]
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), target.flatten())
    counts = torch.bincount(places.flatten()).float()
    shares = counts / counts.sum()
    guess = float(-(shares * shares.log()).sum())  # knowing the frequencies, nothing else
    return float(loss) / guess if math.isfinite(float(loss)) else None


def foresight(tokens: TokenRows, run: ForwardPass) -> float | None:
    """How much the stream says of the text's next tokens, in standard deviations; None if unknown.

    With L the logits (n, n) that position i gives to the next token of position j, rows and columns
    without their means, the sum of L_ii has mean 0 and variance sum L_ij^2 / (n - 1) if every
    assignment of next tokens to positions is equally likely. So it is about normal where strings
    were renumbered, and already after the first block it is not where they fit.
    """
    found = _next_token_logits(tokens, run)
    if found is None:
        return None
    logits, places = found
    L = logits.flatten(0, 1)[:, places[:, 1:].flatten()].double()
    L = L - L.mean(dim=0) - L.mean(dim=1, keepdim=True) + L.mean()
    variance = float(L.square().sum()) / (len(L) - 1)
    return float(L.trace()) / variance**0.5 if 0 < variance < math.inf else None


def _next_token_logits(tokens: TokenRows, run: ForwardPass) -> tuple[Tensor, Tensor] | None:
    """Logits (texts, length - 1, distinct) of the text's tokens, and which each is (texts, length).

    None where the head reads another width than the stream's.
    """
    distinct, places = torch.unique(run.ids, return_inverse=True)
    rows = tokens.head(distinct.tolist())
    if rows is None or rows.shape[1] != run.x.shape[1]:
        return None
    x = run.runner.normal(run.x)
    return (x @ rows.T).reshape(*run.shape, -1)[:, :-1], places


def spelling_fit(tokens: Sequence[Token], rows: Tensor) -> float | None:
    """How much more alike embeddings are of strings that differ in case or a leading space.

    Their mean cosine, less the mean over all, in standard errors: about normal where strings and
    rows were paired at random. None for fewer than FEWEST_SPELLINGS pairs.

    Args:
        tokens: some tokens of the vocabulary.
        rows: their embeddings, (n, d).
    """
    words: dict[bytes, list[int]] = {}
    for place, token in enumerate(tokens):
        if word := token.text.strip().lower():
            words.setdefault(word, []).append(place)
    pairs = [pair for places in words.values() for pair in combinations(places, 2)]
    if len(pairs) < FEWEST_SPELLINGS:
        return None
    centred = torch.nn.functional.normalize(rows - rows.mean(dim=0), dim=1)
    a, b = torch.tensor(pairs).T
    cosines = (centred[a] * centred[b]).sum(dim=1)
    every = (centred @ centred.T)[torch.ones(len(rows), len(rows)).triu(1) > 0]
    error = float(every.std()) / len(pairs) ** 0.5
    return float(cosines.mean() - every.mean()) / error if error > 0 else None


def _blocks(indices: list[int]) -> str:
    words = ", ".join(str(index) for index in indices[:8])
    return f"block {words}" if len(indices) == 1 else f"blocks {words}"


def signs_of(seen: Seen, unemitted: float, overflowed: bool) -> list[Sign]:
    """The signs of disguise, each with a sentence."""
    signs = []

    def add(kind: str, words: str) -> None:
        signs.append(Sign(kind, words))

    if seen.silent:
        add("silent block", f"{_blocks(seen.silent)} write next to nothing")
    if seen.cancelling:
        sets = "; ".join(
            f"{', '.join(map(str, blocks[:-1]))} and {blocks[-1]}" for blocks in seen.cancelling
        )
        add("cancelling blocks", f"blocks {sets} undo each other")
    if seen.equal:
        total = sum(seen.equal.values())
        add("equal gates", f"{total} hidden units of {_blocks([*seen.equal])} have another's gate")
    if seen.opposite:
        total = sum(seen.opposite.values())
        add("opposite gates", f"{total} hidden units of {_blocks([*seen.opposite])} undo others")
    if seen.undone:
        total = sum(seen.undone.values())
        add(
            "cancelling units", f"{total} hidden units of {_blocks([*seen.undone])} undo each other"
        )
    if seen.null_units:
        total = sum(seen.null_units.values())
        add(
            "unit without effect",
            f"{total} hidden units of {_blocks([*seen.null_units])} have no effect",
        )
    if seen.null_heads:
        total = sum(seen.null_heads.values())
        add("head without effect", f"{total} heads of {_blocks([*seen.null_heads])} write nothing")
    if seen.opposed_heads:
        add("cancelling heads", f"heads of {_blocks([*seen.opposed_heads])} cancel each other")
    if seen.experts:
        add("cancelling experts", f"experts of {_blocks([*seen.experts])} cancel each other")
    if seen.unwritten:
        add(
            "unwritten dimension",
            f"{seen.unwritten} dimensions of the stream are read, but nothing is written there",
        )
    if seen.unread:
        add(
            "unread dimension",
            f"{_blocks([*seen.unread])} write where the output head does not read",
        )
    if seen.own_text and seen.whole and seen.loss is not None and seen.loss > MISFIT:
        add(
            "tokenizer does not fit",
            "under its own tokenizer the model predicts text worse than a guess by frequency",
        )
    elif seen.spelling is not None and seen.spelling < SPELLING:
        add(
            "tokenizer does not fit",
            "tokens that differ in case or a leading space alone have embeddings no more alike "
            "than any two",
        )
    elif seen.own_text and seen.foresight is not None and seen.foresight < FORESIGHT:
        add(
            "tokenizer does not fit",
            "under its own tokenizer the blocks that were read say nothing of the next token",
        )
    if unemitted > UNEMITTED:
        add(
            "anchor not emitted",
            f"the tokenizer never emits {unemitted:.0%} of the strings that would be anchors",
        )
    return signs
