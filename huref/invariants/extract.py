"""From a checkpoint to its terms: anchors, whitened embeddings, and the blocks that count."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice
from typing import Literal

import torch
from torch import Tensor

from huref.architecture.block import Block, Mixture
from huref.architecture.reader import ModelReader
from huref.errors import AnchorError, WeightsError
from huref.invariants.anchors import Anchors, choose_anchors
from huref.invariants.barcodes import Barcodes
from huref.invariants.published import PUBLISHED, published_terms, ranked_anchors
from huref.invariants.relations import Relations
from huref.invariants.terms import attention_terms, ffn_term, flatten, whiten
from huref.invariants.traits import Traits, count_levels
from huref.invariants.unit_features import UnitCollector, UnitFeatures, sketch_rows
from huref.loader.checkpoint import Checkpoint
from huref.recipe import Recipe

NOOP = 1e-4  # a block writing less than this share of the residual stream does nothing
NOOP_ROWS = 32  # anchors on which that share is measured
Depth = Literal["terms", "recipe", "full"]


@dataclass(frozen=True)
class Extract:
    """The terms (layers, 3, m, m) float32 of a model, and how they came about.

    The published recipe gives terms and no more.
    """

    terms: Tensor
    anchors: Anchors
    layers: tuple[int, ...]
    recipe: Recipe
    units: UnitFeatures | None = None
    barcodes: Barcodes | None = None
    traits: Traits | None = None
    relations: Relations | None = None


def extract_terms(checkpoint: Checkpoint, recipe: Recipe, depth: Depth = "recipe") -> Extract:
    """Read what the recipe names and multiply it into terms.

    The depth "terms" gives no units, barcodes and relations, which take longer than the terms.
    With the depth "full" every block is read, not only the recipe's: its units, and the barcodes
    of a sample of them, as of the recipe's blocks of all.

    A vocabulary with too few Latin tokens uses all of its tokens, and a model with fewer blocks
    than the recipe asks for its last ones; both get a recipe of their own name.

    Raises:
        AnchorError: the vocabulary is too small even so.
        WeightsError: weights are all zero, NaN or infinite.
    """
    if recipe.terms == PUBLISHED:
        return _extract_as_published(checkpoint, recipe)
    reader = ModelReader(checkpoint)
    try:
        anchors = choose_anchors(checkpoint.vocabulary, recipe.m, recipe.anchors)
    except AnchorError:
        if recipe.anchors == "all":
            raise
        anchors = choose_anchors(checkpoint.vocabulary, recipe.m, "all")
        recipe = replace(recipe, name=f"{recipe.name}+all-tokens", anchors="all")
    rows = reader.embeddings([anchors.ids[i] for i in anchors.filled])
    if not rows.any():
        raise WeightsError(f"{checkpoint.model}: the embeddings are all zero")
    E = torch.zeros(recipe.m, rows.shape[1])
    E[anchors.filled] = rows
    whitened = whiten(E, recipe.damping)
    working = list(islice(_working_blocks(reader, rows), max(recipe.layers) + 1))
    if not working:
        raise WeightsError(
            f"{checkpoint.model}: every block writes nothing; its weights are all zero"
        )
    missing = max(recipe.layers) + 1 - len(working)
    if missing:
        shallow = tuple(max(position - missing, 0) for position in recipe.layers)
        recipe = replace(recipe, name=f"{recipe.name}+shallow", layers=shallow)
    chosen = tuple(working[position] for position in recipe.layers)
    units = None if depth == "terms" else UnitCollector(sketch_rows(anchors, whitened))
    # A shallow model may have to give one block twice.
    whole = depth == "full"
    measured = {i: _terms(reader, i, whitened, units, whole) for i in dict.fromkeys(chosen)}
    flat = flatten(torch.stack([measured[i][0] for i in chosen]), recipe.damping)
    if not (torch.isfinite(flat).all() and flat.any(dim=(1, 2, 3)).all()):
        raise WeightsError(
            f"{checkpoint.model}: the blocks {list(chosen)} give no terms that can be compared; "
            "the anchors' embeddings are all alike, or products of the weights overflow"
        )
    if units is not None and whole:
        for index in reader.attention_blocks:
            if index not in chosen:
                _observe(reader, index, units)
    traits = Traits(
        vocabulary=len(checkpoint.vocabulary),
        blocks=len(reader.attention_blocks),
        width=rows.shape[1],
        levels=measured[chosen[0]][1],
    )
    extract = Extract(flat, anchors, chosen, recipe, traits=traits)
    if units is None:
        return extract
    return replace(
        extract, units=units.collected(), barcodes=units.barcodes(), relations=units.relations()
    )


def _extract_as_published(checkpoint: Checkpoint, recipe: Recipe) -> Extract:
    reader = ModelReader(checkpoint, fold=False)
    anchors, rule = ranked_anchors(checkpoint.vocabulary, recipe.m, recipe.anchors)
    if len(anchors) < recipe.m:
        name = f"{recipe.name}+{len(anchors)}-tokens"
        recipe = replace(recipe, name=name, m=len(anchors))
    E = reader.embeddings(anchors.ids)
    blocks = reader.attention_blocks
    chosen = tuple(blocks[max(position, -len(blocks))] for position in recipe.layers)
    terms = [published_terms(reader.read_attention(i), reader.read_ffn(i), E) for i in chosen]
    return Extract(torch.stack(terms), anchors, chosen, replace(recipe, anchors=rule))


def _terms(
    reader: ModelReader, index: int, E: Tensor, units: UnitCollector | None, whole: bool
) -> tuple[Tensor, float | None]:
    """The terms (3, m, m) of a block and its weights' levels; its units go to the collector.

    Attention and feed-forward network are in memory one after the other.
    """
    network = reader.read_ffn(index)
    if units is not None:
        units.expect(index, whole)
        network = units.observe(index, network)
    ffn = ffn_term(network, E)
    attention = reader.read_attention(index)
    if units is not None:
        units.conclude(index, attention)
    qk, vo = attention_terms(attention, E)
    return torch.stack([qk, vo, ffn]), count_levels(attention.o)


def _observe(reader: ModelReader, index: int, units: UnitCollector) -> None:
    """Take a block's units without its terms."""
    units.expect(index)
    ffn = units.observe(index, reader.read_ffn(index))
    if isinstance(ffn, Mixture):
        for expert in range(ffn.count):
            ffn.read(expert)
    units.conclude(index, reader.read_attention(index))


def _working_blocks(reader: ModelReader, rows: Tensor) -> Iterator[int]:
    """Indices of the blocks that change the residual stream, first to last."""
    sample = rows[:NOOP_ROWS]
    for index in reader.attention_blocks:
        if not reader.may_be_noop(index) or writes(reader.read_block(index), sample) >= NOOP:
            yield index


def writes(block: Block, rows: Tensor) -> float:
    """How much a block adds to the residual stream, as a share of what is there.

    Activations and softmax are left out: the attention's value path and the bilinear feed-forward
    network, on embedding rows (n, d) as RMSNorm would scale them. The larger of the two counts.
    """
    x = rows / rows.square().mean(dim=1, keepdim=True).sqrt().clamp(min=1e-12)
    written = max(block.attention.write(x).norm(), block.ffn.write(x).norm())
    return float(written / rows.norm())
