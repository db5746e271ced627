"""From a checkpoint to its terms: choose anchors and blocks, whiten embeddings, multiply."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice

import torch
from torch import Tensor

from huref.architecture.block import Block
from huref.architecture.reader import ModelReader
from huref.errors import AnchorError, WeightsError, locating
from huref.invariants.anchors import Anchors, choose_anchors
from huref.invariants.block_units import (
    BlockUnits,
    join_blocks,
    measure_block,
    measure_networks,
    term_and_networks,
)
from huref.invariants.extracted import Depth, Extract
from huref.invariants.function_reading import FunctionReading
from huref.invariants.function_terms import FUNCTION
from huref.invariants.published import PUBLISHED, published_terms, ranked_anchors
from huref.invariants.terms import attention_terms, ffn_term, flatten, whiten
from huref.invariants.towers import join_samples, sample_towers
from huref.invariants.traits import Traits, count_levels
from huref.invariants.unit_features import sketch_rows
from huref.loader.checkpoint import Checkpoint
from huref.recipe import Recipe

__all__ = ["Depth", "Extract", "extract_terms", "writes"]

NOOP = 1e-4  # a block that writes less than this share of the residual stream is a no-op
NOOP_ROWS = 32  # number of anchors on which that share is measured


def extract_terms(checkpoint: Checkpoint, recipe: Recipe, depth: Depth = "recipe") -> Extract:
    """Read the tensors that the recipe needs and compute terms and unit measurements.

    Args:
        checkpoint: the model.
        recipe: which anchors and which blocks. Where the vocabulary has too few Latin tokens, all
            tokens are used; where the model has fewer blocks than the recipe needs, its last ones
            are used. Both change the recipe, and its name with it.
        depth: "terms" leaves out the measurements of units, which take longer than the terms.
            "recipe" measures the units of the recipe's blocks, with barcodes for a sample of them.
            "full" measures all blocks, with barcodes for every unit of the recipe's blocks and
            for a sample of the units of the others. "components" also samples what a multimodal
            model holds beside its language model.

    Raises:
        AnchorError: the vocabulary is too small even with all tokens.
        WeightsError: weights are all zero, NaN or infinite.
    """
    with locating(model=checkpoint.model):
        if recipe.terms == PUBLISHED:
            return _extract_as_published(checkpoint, recipe)
        inner: Depth = "full" if depth == "components" else depth
        if recipe.terms == FUNCTION:
            extract = FunctionReading(checkpoint, recipe, inner).extract()
        else:
            extract = _extract(checkpoint, recipe, inner)
        if depth != "components":
            return extract
        return replace(extract, samples=join_samples(extract.samples, sample_towers(checkpoint)))


def _extract(checkpoint: Checkpoint, recipe: Recipe, depth: Depth) -> Extract:
    reader = ModelReader(checkpoint)
    anchors, recipe = _choose_anchors(checkpoint, recipe)
    rows = reader.embeddings([anchors.ids[i] for i in anchors.filled])
    if not rows.any():
        raise WeightsError("the embeddings are all zero")
    E = torch.zeros(recipe.m, rows.shape[1])
    E[anchors.filled] = rows
    E = whiten(E, recipe.damping)
    layers, recipe = _choose_blocks(reader, rows, recipe)
    S = None if depth == "terms" else sketch_rows(anchors, E)
    # A shallow model may use one block twice.
    measured = {i: _measure_block(reader, i, E, S, depth == "full") for i in dict.fromkeys(layers)}
    terms = flatten(torch.stack([measured[i].terms for i in layers]), recipe.damping)
    if not (torch.isfinite(terms).all() and terms.any(dim=(1, 2, 3)).all()):
        raise WeightsError(
            f"the blocks {list(layers)} give no terms that can be compared: the anchors' "
            "embeddings are all equal, or products of the weights overflow"
        )
    traits = Traits(
        vocabulary=len(checkpoint.vocabulary),
        blocks=len(reader.attention_blocks),
        width=rows.shape[1],
        levels=measured[layers[0]].levels,
    )
    extract = Extract(terms, anchors, layers, recipe, traits=traits)
    if S is None:
        return extract
    blocks = [block.units for block in measured.values() if block.units is not None]
    if depth == "full":
        others = [index for index in reader.attention_blocks if index not in layers]
        blocks += [_measure_units(reader, index, S) for index in others]
    units, barcodes, relations = join_blocks(blocks)
    return replace(extract, units=units, barcodes=barcodes, relations=relations)


def _choose_anchors(checkpoint: Checkpoint, recipe: Recipe) -> tuple[Anchors, Recipe]:
    """Choose anchors by the recipe's rule, or by the rule "all" if that gives too few."""
    try:
        return choose_anchors(checkpoint.vocabulary, recipe.m, recipe.anchors), recipe
    except AnchorError:
        if recipe.anchors == "all":
            raise
        recipe = replace(recipe, name=f"{recipe.name}+all-tokens", anchors="all")
        return choose_anchors(checkpoint.vocabulary, recipe.m, "all"), recipe


def _choose_blocks(
    reader: ModelReader, rows: Tensor, recipe: Recipe
) -> tuple[tuple[int, ...], Recipe]:
    """Indices of the recipe's blocks. If the model has too few, positions are shifted down."""
    needed = max(recipe.layers) + 1
    working = list(islice(_working_blocks(reader, rows), needed))
    if not working:
        raise WeightsError("no block writes anything; its weights are all zero")
    missing = needed - len(working)
    if missing:
        shallow = tuple(max(position - missing, 0) for position in recipe.layers)
        recipe = replace(recipe, name=f"{recipe.name}+shallow", layers=shallow)
    return tuple(working[position] for position in recipe.layers), recipe


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


@dataclass(frozen=True)
class _BlockMeasurements:
    """The terms (3, m, m) of a block, the result of `count_levels`, and its units."""

    terms: Tensor
    levels: float | None
    units: BlockUnits | None


def _measure_block(
    reader: ModelReader, index: int, E: Tensor, S: Tensor | None, every_unit: bool
) -> _BlockMeasurements:
    """Measure a block, and its units if sketch rows S are given.

    The feed-forward network leaves memory before attention is read.
    """
    if S is None:
        ffn, networks = ffn_term(reader.read_ffn(index), E), None
    else:
        ffn, networks = term_and_networks(reader.read_ffn(index), E, S, every_unit)
    attention = reader.read_attention(index)
    units = None if networks is None else measure_block(index, networks, attention)
    terms = torch.stack([*attention_terms(attention, E), ffn])
    return _BlockMeasurements(terms, count_levels(attention.o), units)


def _measure_units(reader: ModelReader, index: int, S: Tensor) -> BlockUnits:
    """Measure a block's units without its terms."""
    networks = measure_networks(reader.read_ffn(index), S)
    return measure_block(index, networks, reader.read_attention(index))


def _working_blocks(reader: ModelReader, rows: Tensor) -> Iterator[int]:
    """Indices of the blocks that are not no-ops, ascending."""
    sample = rows[:NOOP_ROWS]
    for index in reader.attention_blocks:
        if not reader.may_be_noop(index) or writes(reader.read_block(index), sample) >= NOOP:
            yield index


def writes(block: Block, rows: Tensor) -> float:
    """Norm of what a block writes, divided by the norm of the residual stream.

    Measured on embedding rows (n, d), scaled as RMSNorm scales them, without activations and
    softmax: the larger of attention's value path and the bilinear feed-forward network.
    """
    x = rows / rows.square().mean(dim=1, keepdim=True).sqrt().clamp(min=1e-12)
    written = max(block.attention.write(x).norm(), block.ffn.write(x).norm())
    return float(written / rows.norm())
