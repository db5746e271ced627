"""Reads a checkpoint's blocks into canonical form, through its layout."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import cached_property

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
from huref.architecture.config_values import config_ints, look_up
from huref.architecture.experts import ExpertSource
from huref.architecture.folding import Folding
from huref.architecture.layout import Experts, Layout
from huref.architecture.match import find_layout
from huref.architecture.noop import may_be_noop
from huref.architecture.resolve import (
    block_start,
    count_blocks,
    find_prefix,
    has_attention,
    has_ffn,
    missing_tensors,
    resolve_block,
)
from huref.architecture.weights import finite, read_part, read_tensors
from huref.errors import CheckpointError, UnsupportedModelError
from huref.loader.checkpoint import Checkpoint


class ModelReader:
    """A checkpoint seen as embedding rows and canonical blocks.

    Args:
        checkpoint: where the tensors are.
        layout: how to read it; found by the config or the tensors when it is not given.
        fold: fold the norms' gains in; only the published recipe leaves them out.
    """

    def __init__(self, checkpoint: Checkpoint, layout: Layout | None = None, fold: bool = True):
        self.checkpoint = checkpoint
        self.fold = fold
        self.config = checkpoint.config
        self._known = frozenset(checkpoint.names)
        self.layout = layout or find_layout(self.config, self._known, checkpoint.model)
        prefix = find_prefix(self.layout, self._known)
        if prefix is None:
            example = ", ".join(sorted(self._known)[:3]) or "nothing"
            raise UnsupportedModelError(
                f"{checkpoint.model}: config.json says model_type "
                f"{self.config.get('model_type')!r}, but the weights hold no "
                f"'{self.layout.embedding.weight[0]}' (found for instance {example}); config and "
                "weights do not belong together, or its layout is not known yet"
            )
        self.prefix = prefix

    @cached_property
    def block_count(self) -> int:
        """Number of blocks, from the config; a hybrid's other layers count too.

        Raises:
            CheckpointError: the config does not say, or says more than there are tensors.
        """
        count = count_blocks(self.layout, self.config, self.checkpoint.model)
        if count > len(self._known):
            raise CheckpointError(
                f"{self.checkpoint.model}: config.json says {count} blocks, but the weights hold "
                f"{len(self._known)} tensors; config and weights do not belong together"
            )
        return count

    @cached_property
    def attention_blocks(self) -> list[int]:
        """Indices of the layers with softmax attention, all of them but in hybrid families.

        Raises:
            UnsupportedModelError: there are none, as in a pure state-space model.
        """
        reuse = [v for k in self.layout.last_reuse_keys if (v := look_up(self.config, k))]
        count = self.block_count - (reuse[0] if reuse and isinstance(reuse[0], int) else 0)
        if self.layout.block_without_attention == "error":
            return list(range(count))
        found = [i for i in range(count) if has_attention(self._block(i))]
        if not found:
            raise UnsupportedModelError(
                f"{self.checkpoint.model}: not supported, because none of its "
                f"{self.block_count} layers has softmax attention"
            )
        return found

    def embeddings(self, ids: Sequence[int]) -> Tensor:
        """Embedding rows of some token ids, (len(ids), d) float32, as the first block sees them.

        Factors are multiplied out, a norm right after the embedding is applied, and where the
        blocks' norms are LayerNorms the mean of each row is subtracted.
        """
        layout, norms = self.layout.embedding, self.layout.norms
        name = self._outer(layout.weight)
        rows = finite(self.checkpoint, name, self.checkpoint.read_rows(name, ids))
        if factor := self._outer(layout.factor, required=False):
            rows = rows @ read_tensors(self.checkpoint, {"factor": factor})["factor"].T
        gain = self._outer(layout.norm, required=False)
        if gain or layout.normed:
            stored = read_tensors(self.checkpoint, {"gain": gain})["gain"] if gain else None
            with_offset = None if stored is None else stored + norms.offset
            rows = FeatureNorm(norms.kind, "width", with_offset)(rows[:, None])[:, 0]
        if self.fold and norms.kind == "layernorm" and norms.place == "before":
            rows = rows - rows.mean(dim=1, keepdim=True)
        return rows

    def _outer(self, names: Iterable[str], required: bool = True) -> str:
        found = next((self.prefix + n for n in names if self.prefix + n in self._known), "")
        if required and not found:
            wanted = " or ".join(names)
            raise CheckpointError(
                f"{self.checkpoint.model}: no tensor {wanted}; is a file missing?"
            )
        return found

    def _block(self, index: int) -> Layout:
        return resolve_block(self.layout, self.prefix, index, self._known, self.block_count)

    def _complete(self, index: int) -> Layout:
        """A block's tensors. Raises CheckpointError when one is missing."""
        block = self._block(index)
        missing = missing_tensors(self.layout, block)
        if missing or not has_attention(block):
            start, _ = block_start(self.layout, self.prefix, index, self.block_count)
            name = missing[0] if missing else self.layout.attention.o[0]
            raise CheckpointError(
                f"{self.checkpoint.model}: there is no tensor '{start}{name}' in the weights; is a "
                "file missing, or the config another model's?"
            )
        return block

    def _with_ffn(self, index: int) -> Layout:
        """The resolved block that holds the feed-forward network of an attention block."""
        block = self._block(index)
        while self.layout.ffn_in_next_block and not has_ffn(block):
            index += 1
            if index >= self.block_count or has_attention(block := self._block(index)):
                raise CheckpointError(
                    f"{self.checkpoint.model}: no feed-forward network follows the attention "
                    f"before layer {index}"
                )
        return block

    def may_be_noop(self, index: int) -> bool:
        """Whether a few rows of a block suggest that it does nothing; see `noop.may_be_noop`."""
        return may_be_noop(self.checkpoint, self._complete(index), self._with_ffn(index))

    def read_block(self, index: int) -> Block:
        """One block with its norm gains folded in.

        Raises:
            CheckpointError: a tensor is missing, or its shape contradicts the config.
            WeightsError: a tensor holds NaN or infinite values.
        """
        return Block(index, self.read_attention(index), self.read_ffn(index))

    def read_attention(self, index: int) -> Attention | LatentAttention:
        """The attention of one block, without reading its feed-forward network.

        Where that network reads what attention writes, o is carried on through its up, its down
        and the block's last map, so that it too writes to the residual stream.
        """
        attention = self._own_attention(index)
        if self.layout.ffn_reads == "stream":
            return attention
        network = self._own_ffn(index)
        assert isinstance(network, FeedForward)
        return replace(attention, o=attention.o @ network.up @ network.down)

    def _own_attention(self, index: int) -> Attention | LatentAttention:
        block = self._complete(index)
        return assemble_attention(
            block.attention,
            read_part(self.checkpoint, block.attention),
            self._folding(block),
            self.config,
            index,
            self.checkpoint.model,
        )

    def read_ffn(self, index: int) -> FeedForward | Mixture:
        """The feed-forward network of one block; of experts only the shared ones are read yet.

        Where it reads what attention writes, up and gate read the stream through attention's
        values, which is what they do for a token by itself.
        """
        network = self._own_ffn(index)
        if self.layout.ffn_reads == "stream":
            return network
        assert isinstance(network, FeedForward)
        values = self._own_attention(index).write(torch.eye(network.down.shape[1]))
        gate = None if network.gate is None else values @ network.gate
        return FeedForward(values @ network.up, gate, network.down)

    def _own_ffn(self, index: int) -> FeedForward | Mixture:
        block, model = self._with_ffn(index), self.checkpoint.model
        folding = self._folding(block)
        experts = block.experts
        if experts is None or not experts.down:
            assert block.ffn is not None
            network = assemble_network(
                block.ffn, read_part(self.checkpoint, block.ffn), folding, model
            )
            if block.out:
                out = read_tensors(self.checkpoint, {"out": block.out[0]})["out"]
                network = replace(network, down=network.down @ out.T)
            return network
        shared = experts.shared
        if shared is not None and shared.down:
            common = assemble_network(
                shared, read_part(self.checkpoint, shared), folding, model, "shared"
            )
        else:
            common = None
        source = ExpertSource(self.checkpoint, experts, self._count_experts(experts))
        return Mixture(
            source.count,
            lambda e: assemble_network(experts, source.read(e), folding, model, "experts"),
            common,
        )

    def _count_experts(self, experts: Experts) -> int:
        """The number of experts: the config's, and no fewer tensors than that."""
        count = config_ints(self.config, experts.count, self.checkpoint.model)[0]
        shape = self.checkpoint.entry(experts.down[0]).shape
        held = {"no": len(experts.down), "leading": shape[0], "rows": count}[experts.stacked]
        if held != count:
            raise CheckpointError(
                f"{self.checkpoint.model}: config.json says {count} experts, but there are {held} "
                f"of '{experts.down[0]}'; config and weights do not belong together"
            )
        return count

    def _folding(self, block: Layout) -> Folding:
        streams = 1
        if block.norms.streams:
            streams = config_ints(self.config, block.norms.streams, self.checkpoint.model)[0]
        kernels = read_part(self.checkpoint, block.convolutions)
        last = {place: kernel.flatten(1)[:, -1] for place, kernel in kernels.items()}
        return Folding(
            block.norms, read_part(self.checkpoint, block.norms), streams, last, self.fold
        )
