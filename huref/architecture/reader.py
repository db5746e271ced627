"""Reads a checkpoint's blocks in canonical form, through its layout."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from huref.architecture.assemble import assemble_attention, assemble_network
from huref.architecture.block import (
    Attention,
    Block,
    FeatureNorm,
    FeedForward,
    LatentAttention,
    Mixture,
)
from huref.architecture.block_tensors import BlockFinder, count_blocks, find_prefix
from huref.architecture.complete_config import as_run, complete_config, names_as_run
from huref.architecture.config_values import look_up
from huref.architecture.experts import ExpertSource
from huref.architecture.folding import Folding
from huref.architecture.layout import Layout
from huref.architecture.match import find_layout
from huref.architecture.noop import may_be_noop
from huref.architecture.resolve import missing_tensor, resolve_block
from huref.architecture.resolved import (
    ResolvedAttention,
    ResolvedBlock,
    ResolvedExperts,
    ResolvedNetwork,
)
from huref.architecture.router import CORRECTIONS, Router, make_router
from huref.architecture.stored_experts import as_stored
from huref.architecture.weights import finite, read_biases, read_roles, read_tensors
from huref.errors import CheckpointError, UnsupportedModelError, WeightsError, locating
from huref.loader.checkpoint import Checkpoint

# Names of learned embeddings of positions.
POSITIONS = ("wpe.weight", "embed_positions.weight", "positions_embed.weight")
MISMATCH = "config and weights do not belong together"


class ModelReader:
    """A checkpoint as embedding rows and canonical blocks.

    Args:
        checkpoint: the model.
        layout: how to read it; found by the config or the tensors when it is not given.
        fold: fold the gains of the norms in; only the published recipe leaves them out.

    Raises:
        UnsupportedModelError: no layout fits the model.
    """

    def __init__(self, checkpoint: Checkpoint, layout: Layout | None = None, fold: bool = True):
        self.checkpoint = checkpoint
        self.fold = fold
        config: Mapping[str, Any] = checkpoint.config
        self._names = frozenset(checkpoint.names)
        if not checkpoint.all_settings_run:
            config, self._names = as_run(config), names_as_run(config, self._names)
        self.layout = layout or find_layout(checkpoint.config, self._names, checkpoint.model)
        prefix = find_prefix(self.layout, self._names)
        if prefix is None:
            examples = ", ".join(sorted(self._names)[:3]) or "no tensors"
            raise UnsupportedModelError(
                f"config.json says model_type {checkpoint.config.get('model_type')!r}, but the "
                f"weights hold no '{self.layout.embedding.weight[0]}' (they hold {examples} and so "
                "on)",
                model=checkpoint.model,
                advice=f"{MISMATCH}, or the model needs a layout of its own",
            )
        self.prefix = prefix
        self.config = complete_config(self.layout, prefix, config, self._names)
        if self.layout.experts is not None:
            embedding = self._find_outside_blocks(self.layout.embedding.weight)
            with locating(model=checkpoint.model):
                self.layout = as_stored(
                    self.layout,
                    prefix,
                    self._names,
                    lambda name: tuple(checkpoint.entry(name).shape),
                    checkpoint.entry(embedding).shape[-1],
                )
        self._blocks: dict[int, ResolvedBlock] = {}

    @cached_property
    def block_count(self) -> int:
        """Number of blocks according to the config, including a hybrid's without attention.

        Raises:
            CheckpointError: the config does not give it, or gives more than there are tensors.
        """
        with locating(model=self.checkpoint.model):
            count = count_blocks(self.layout, self.config)
            if count > len(self._names):
                raise CheckpointError(
                    f"config.json says {count} blocks, but the weights hold {len(self._names)} "
                    "tensors",
                    advice=MISMATCH,
                )
        return count

    @cached_property
    def _finder(self) -> BlockFinder:
        return BlockFinder(self.layout, self.prefix, self._names, self.block_count)

    @cached_property
    def attention_blocks(self) -> list[int]:
        """Indices of the blocks with softmax attention: all blocks, except in hybrid families.

        Raises:
            UnsupportedModelError: there are none, as in a pure state-space model.
        """
        reuse = [v for k in self.layout.last_reuse_keys if (v := look_up(self.config, k))]
        count = self.block_count - (reuse[0] if reuse and isinstance(reuse[0], int) else 0)
        if self.layout.block_without_attention == "error":
            return list(range(count))
        found = [i for i in range(count) if self._finder.find(i).has_attention]
        if not found:
            raise UnsupportedModelError(
                f"not supported, because none of its {self.block_count} blocks has softmax "
                "attention",
                model=self.checkpoint.model,
            )
        return found

    @cached_property
    def embedding_width(self) -> int:
        """Number of columns of the embedding table: the stream's width, unless it is factorised."""
        name = self._find_outside_blocks(self.layout.embedding.weight)
        return int(self.checkpoint.entry(name).shape[-1])

    def embeddings(self, ids: Sequence[int]) -> Tensor:
        """Embedding rows of some token ids, (len(ids), d) float32, as the first block reads them.

        Factors are multiplied out, a norm right after the embedding is applied, and where the
        block norms are LayerNorms the mean of each row is subtracted.
        """
        with locating(model=self.checkpoint.model):
            return self._embeddings(ids)

    def _embeddings(self, ids: Sequence[int]) -> Tensor:
        embedding, norms = self.layout.embedding, self.layout.norms
        name = self._find_outside_blocks(embedding.weight)
        if not name:
            alternatives = " or ".join(f"'{name}'" for name in embedding.weight)
            raise CheckpointError(
                f"there is no tensor {alternatives}", advice="check that no file is missing"
            )
        rows = finite(self.checkpoint, name, self.checkpoint.read_rows(name, ids))
        if factor := self._find_outside_blocks(embedding.factor):
            rows = rows @ read_tensors(self.checkpoint, {"factor": factor})["factor"].T
        gain = self._find_outside_blocks(embedding.norm)
        if gain or embedding.normed:
            stored = read_tensors(self.checkpoint, {"gain": gain})["gain"] if gain else None
            with_offset = None if stored is None else stored + norms.offset
            rows = FeatureNorm(norms.kind, "width", with_offset)(rows[:, None])[:, 0]
        if self.fold and norms.kind == "layernorm" and norms.place == "before":
            rows = rows - rows.mean(dim=1, keepdim=True)
        return rows

    def _find_outside_blocks(self, alternatives: Iterable[str]) -> str:
        names = (self.prefix + name for name in alternatives)
        return next((name for name in names if name in self._names), "")

    def resolve(self, index: int) -> ResolvedBlock:
        """The tensors and settings of one block; made once.

        Raises:
            CheckpointError: a tensor of an attention block is missing, or shapes and config
                contradict each other.
        """
        if index not in self._blocks:
            found = self._finder.find(index)
            with locating(model=self.checkpoint.model):
                self._blocks[index] = resolve_block(
                    self.layout, found, index, self.checkpoint, self.config
                )
        return self._blocks[index]

    def may_be_noop(self, index: int) -> bool:
        """Whether a few rows of a block suggest that it does nothing; see `noop.may_be_noop`."""
        with locating(model=self.checkpoint.model):
            block, _ = self._attention_of(index)
            return may_be_noop(self.checkpoint, block, self._network_of(index)[0])

    def read_block(self, index: int) -> Block:
        """One block with the gains of its norms folded in.

        Raises:
            CheckpointError: a tensor is missing, or its shape contradicts the config.
            WeightsError: a tensor holds NaN or infinite values.
        """
        return Block(index, self.read_attention(index), self.read_ffn(index))

    def gains(self, index: int, half: str) -> Mapping[str, Tensor]:
        """The gains of the norms of a block's half, "attention" or "ffn", by place."""
        with locating(model=self.checkpoint.model):
            block = self.resolve(index) if half == "attention" else self._network_of(index)[0]
            return self._folding(block).gains

    def read_router(self, index: int) -> Router | None:
        """The router of a block's mixture, or None where it has none.

        It is the block's only matrix with one row per expert that is no part of an expert.
        """
        with locating(model=self.checkpoint.model):
            block, experts = self._network_of(index)
            if not isinstance(experts, ResolvedExperts):
                return None
            own = {name for stored in block.tensors.values() for name in stored.names}
            for name in sorted(n for n in self._names if n.startswith(block.start)):
                if name in own or not name.endswith("weight"):
                    continue
                shape = self.checkpoint.entry(name).shape
                gain = block.norms.tensors.get("ffn")
                if len(shape) != 2 or shape[0] != experts.count:
                    continue
                if gain is None or gain.shape == (shape[1],):
                    return self._make_router(block, name, experts.count)
        return None

    def _make_router(self, block: ResolvedBlock, name: str, count: int) -> Router:
        """A block's router from its matrix and the vectors of one number per expert beside it."""
        weight = read_tensors(self.checkpoint, {"router": name})["router"].T
        folding = self._folding(block)
        beside = {}
        for other in (n for n in self._names if n.startswith(block.start)):
            end = other.rpartition(".")[2]
            is_own = other == name.removesuffix("weight") + "bias" or end in CORRECTIONS
            if is_own and math.prod(self.checkpoint.entry(other).shape) == count:
                beside[end] = read_tensors(self.checkpoint, {end: other})[end].flatten()
        shift = folding.reading_bias("ffn", weight, None)
        return make_router(self.config, folding.reading("ffn", weight), shift, beside)

    def count_positions(self) -> int | None:
        """How many positions the model has learned embeddings of; None where it has none.

        Raises:
            WeightsError: fewer than two, which no text fits.
        """
        name = self._positions_name()
        if name is None:
            return None
        entry = self.checkpoint.entry(name)
        count = (entry.shape[0] if entry.shape else 0) - self._padding_rows()
        if count < 2:
            raise WeightsError(
                f"embeddings of {max(count, 0)} positions are too few for a text",
                model=self.checkpoint.model,
                file=entry.file,
                tensor=name,
            )
        return count

    def read_positions(self, count: int) -> Tensor | None:
        """Learned embeddings of the first positions, (count, d), or None where there are none."""
        name = self._positions_name()
        if name is None:
            return None
        first = self._padding_rows()
        rows = self.checkpoint.read_rows(name, range(first, first + count))
        positions = finite(self.checkpoint, name, rows)
        centred = self.fold and self.layout.norms.kind == "layernorm"
        return positions - positions.mean(dim=1, keepdim=True) if centred else positions

    def _positions_name(self) -> str | None:
        prefixed = (n for n in self._names if n.startswith(self.prefix) and "layers." not in n)
        return next((n for n in prefixed if n.removeprefix(self.prefix) in POSITIONS), None)

    def _padding_rows(self) -> int:
        """How many rows before the first position are never used in a text."""
        return 2 if self.config.get("model_type") in ("opt", "biogpt") else 0

    def read_attention(self, index: int) -> Attention | LatentAttention:
        """The attention of one block, without reading its feed-forward network.

        Where that network reads what attention writes, o is multiplied by its up, its down and the
        block's last linear map, so that it maps to the residual stream.
        """
        with locating(model=self.checkpoint.model):
            attention = self._read_attention(index)
            if self.layout.ffn_reads == "stream":
                return attention
            network = self._read_network(index)
        assert isinstance(network, FeedForward)
        return replace(attention, o=attention.o @ network.up @ network.down)

    def read_ffn(self, index: int) -> FeedForward | Mixture:
        """The feed-forward network of one block; routed experts are read later, one at a time.

        Where it reads what attention writes, up and gate are multiplied by attention's value map,
        which is what attention does to a single token.
        """
        with locating(model=self.checkpoint.model):
            network = self._read_network(index)
            if self.layout.ffn_reads == "stream":
                return network
            assert isinstance(network, FeedForward)
            values = self._read_attention(index).write(torch.eye(network.down.shape[1]))
        gate = None if network.gate is None else values @ network.gate
        return FeedForward(values @ network.up, gate, network.down)

    def _attention_of(self, index: int) -> tuple[ResolvedBlock, ResolvedAttention]:
        """A block and its attention.

        Raises:
            CheckpointError: it has none.
        """
        block = self.resolve(index)
        if block.attention is None:
            missing = self._finder.find(index).missing
            raise missing_tensor(block.start + (missing or self.layout.attention.o)[0])
        return block, block.attention

    def _network_of(self, index: int) -> tuple[ResolvedBlock, ResolvedNetwork | ResolvedExperts]:
        """The feed-forward network of an attention block, and the block that holds it.

        Raises:
            CheckpointError: there is none.
        """
        block = self.resolve(index)
        while block.ffn is None:
            if not self.layout.ffn_in_next_block:
                raise CheckpointError(f"block {index} has no feed-forward network")
            following = block.index + 1
            if following < self.block_count:
                block = self.resolve(following)
            if following >= self.block_count or block.attention is not None:
                raise CheckpointError(
                    f"no feed-forward network follows the attention of block {index}"
                )
        return block, block.ffn

    def _read_attention(self, index: int) -> Attention | LatentAttention:
        block, attention = self._attention_of(index)
        tensors = read_roles(self.checkpoint, attention.tensors)
        biases = read_biases(self.checkpoint, attention.tensors, self._names)
        return assemble_attention(attention, tensors, self._folding(block), biases)

    def _read_network(self, index: int) -> FeedForward | Mixture:
        block, network = self._network_of(index)
        folding = self._folding(block)
        if isinstance(network, ResolvedExperts):
            return self._read_mixture(network, folding)
        tensors = read_roles(self.checkpoint, network.tensors)
        biases = read_biases(self.checkpoint, network.tensors, self._names)
        dense = assemble_network(network, tensors, folding, biases=biases)
        if block.out is not None:
            out = read_tensors(self.checkpoint, {"out": block.out.name})["out"]
            dense = replace(dense, down=dense.down @ out.T)
        return dense

    def _read_mixture(self, experts: ResolvedExperts, folding: Folding) -> Mixture:
        shared = None
        if experts.shared is not None:
            tensors = read_roles(self.checkpoint, experts.shared.tensors)
            shared = assemble_network(experts.shared, tensors, folding, "shared")
        source = ExpertSource(self.checkpoint, experts)

        def read(index: int) -> FeedForward:
            with locating(model=self.checkpoint.model):
                return assemble_network(experts.routed, source.read(index), folding, "experts")

        return Mixture(experts.count, read, shared)

    def _folding(self, block: ResolvedBlock) -> Folding:
        kernels = read_roles(self.checkpoint, block.convolutions)
        last_weights = {place: kernel.flatten(1)[:, -1] for place, kernel in kernels.items()}
        gains = read_roles(self.checkpoint, block.norms.tensors)
        betas = read_biases(self.checkpoint, block.norms.tensors, self._names)
        return Folding(block.norms, gains, last_weights, self.fold, betas)
