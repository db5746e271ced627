"""Reads a checkpoint's blocks into canonical form, through its layout."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from huref.architecture.block import Attention, Block, FeedForward
from huref.architecture.layout import Layout, find_layout
from huref.errors import CheckpointError, UnsupportedModelError, WeightsError
from huref.loader.checkpoint import Checkpoint

PROBED_ROWS = 8  # of each matrix, to see cheaply whether a block might do nothing
# Products of root mean squares; trained blocks have about 4e-4 and 1e-5.
TINY_ATTENTION = 1e-8
TINY_FFN = 1e-12


def config_int(config: Mapping[str, Any], keys: Iterable[str], model: str) -> int:
    """The first of several config keys that holds a positive integer."""
    for key in keys:
        value = config.get(key)
        if value is not None:
            if type(value) is not int or value <= 0:
                raise CheckpointError(f"{model}: config.json has {key} = {value!r}")
            return value
    raise CheckpointError(f"{model}: config.json has none of {', '.join(keys)}")


class ModelReader:
    """A checkpoint seen as embedding rows and canonical blocks."""

    def __init__(self, checkpoint: Checkpoint, layout: Layout | None = None):
        self.checkpoint = checkpoint
        self.layout = layout or find_layout(checkpoint.config, checkpoint.model)
        self.prefix = self._find_prefix()

    def _find_prefix(self) -> str:
        names = set(self.checkpoint.names)
        for prefix in self.layout.prefixes:
            if prefix + self.layout.embedding in names:
                return prefix
        example = ", ".join(sorted(names)[:3]) or "nothing"
        raise UnsupportedModelError(
            f"{self.checkpoint.model}: config.json says model_type "
            f"{self.checkpoint.config.get('model_type')!r}, but the weights hold no "
            f"'{self.layout.embedding}'; found for instance {example}"
        )

    @property
    def block_count(self) -> int:
        """Number of blocks, from the config."""
        return config_int(self.checkpoint.config, self.layout.layers, self.checkpoint.model)

    def embeddings(self, ids: Sequence[int]) -> Tensor:
        """Embedding rows of some token ids, (len(ids), d) float32."""
        name = self.prefix + self.layout.embedding
        return self._finite(name, self.checkpoint.read_rows(name, ids))

    def _name(self, index: int, name: str) -> str:
        return self.prefix + self.layout.block.format(i=index) + name

    def _finite(self, name: str, tensor: Tensor) -> Tensor:
        values = tensor.float()
        if not torch.isfinite(values).all():
            file = self.checkpoint.entry(name).file
            raise WeightsError(f"{file}: tensor '{name}' holds NaN or infinite values")
        return values

    def may_be_noop(self, index: int) -> bool:
        """Whether a few rows of a block suggest that both of its halves write nothing.

        Reads some rows only. A block that does nothing, because one of its factors is zero or as
        good as zero, is always found; one that is found may still turn out to do something.
        """
        size = {
            role: self._probe(self._name(index, name))
            for role, name in {**self.layout.tensors, **self.layout.norms}.items()
        }
        attention = size["attention"] * size["v"] * size["o"]
        ffn = size["ffn"] ** 2 * size["up"] * size["gate"] * size["down"]
        return attention < TINY_ATTENTION and ffn < TINY_FFN

    def _probe(self, name: str) -> float:
        """Root mean square of the first rows of a matrix, or of a whole vector."""
        shape = self.checkpoint.entry(name).shape
        if len(shape) == 2:
            sample = self.checkpoint.read_rows(name, range(min(PROBED_ROWS, shape[0])))
        else:
            sample = self.checkpoint.read([name])[name]
        return float(sample.float().square().mean().sqrt())

    def read_block(self, index: int) -> Block:
        """One block with its norm gains folded in.

        Raises:
            CheckpointError: a tensor is missing, or its shape contradicts the config.
            WeightsError: a tensor holds NaN or infinite values.
        """
        layout = self.layout
        names = {role: self._name(index, name) for role, name in layout.tensors.items()}
        norms = {place: self._name(index, name) for place, name in layout.norms.items()}
        raw = self.checkpoint.read([*names.values(), *norms.values()])
        heads, kv_heads = self._head_counts({r: raw[n].shape for r, n in names.items()}, names)

        def linear(role: str) -> Tensor:
            return self._finite(names[role], raw.pop(names[role])).T  # (out, in) -> (in, out)

        def gain(place: str) -> Tensor:  # (d, 1): scales the input rows of what it feeds
            return (self._finite(norms[place], raw[norms[place]]) + layout.norm_offset)[:, None]

        before_attention, before_ffn = gain("attention"), gain("ffn")
        return Block(
            index=index,
            attention=Attention(
                q=before_attention * linear("q"),
                k=before_attention * linear("k"),
                v=before_attention * linear("v"),
                o=linear("o"),
                heads=heads,
                kv_heads=kv_heads,
            ),
            ffn=FeedForward(
                up=before_ffn * linear("up"),
                gate=before_ffn * linear("gate"),
                down=linear("down"),
            ),
        )

    def _head_counts(
        self, shapes: Mapping[str, Sequence[int]], names: Mapping[str, str]
    ) -> tuple[int, int]:
        """Query and key-value heads from the config, checked against the tensors' shapes."""
        config, model = self.checkpoint.config, self.checkpoint.model
        heads = config_int(config, self.layout.heads, model)
        kv_heads = config_int(config, self.layout.kv_heads, model)
        for role, shape in shapes.items():
            if len(shape) != 2:
                raise CheckpointError(f"{model}: '{names[role]}' is not a matrix: {list(shape)}")
        width, hidden = shapes["q"][1], shapes["up"][0]
        if any(config.get(key) is not None for key in self.layout.head_dim):
            head_dim = config_int(config, self.layout.head_dim, model)
        else:
            head_dim = shapes["q"][0] // heads
        expected = {
            "q": (heads * head_dim, width),
            "k": (kv_heads * head_dim, width),
            "v": (kv_heads * head_dim, width),
            "o": (width, heads * head_dim),
            "up": (hidden, width),
            "gate": (hidden, width),
            "down": (width, hidden),
        }
        for role, shape in expected.items():
            if tuple(shapes[role]) != shape:
                raise CheckpointError(
                    f"{model}: '{names[role]}' has shape {list(shapes[role])}, but config.json "
                    f"({heads} heads, {kv_heads} key-value heads) asks for {list(shape)}"
                )
        if heads % kv_heads:
            raise CheckpointError(f"{model}: {heads} heads do not divide into {kv_heads} groups")
        return heads, kv_heads
