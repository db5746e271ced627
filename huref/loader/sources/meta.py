"""Meta's own release format: params.json and tensor-parallel consolidated.NN.pth files.

Each part holds a slice of every matrix; parts are put together along the axis that was cut. The
names become those of the published Hugging Face conversion, and the rows of q and k, stored in
interleaved rotary pairs, its order.
"""

import fnmatch
import re
from dataclasses import replace
from functools import cached_property
from typing import Any

import torch

from huref.errors import CheckpointError
from huref.loader.ranges import ByteSource
from huref.loader.repository import Repository, read_json
from huref.loader.stored_tensors import Index, StoredTensors, read_index
from huref.loader.tensors import (
    Derived,
    DerivedTensors,
    StoredTensor,
    TensorInfo,
    TensorStore,
    rotary_halves,
)
from huref.loader.vocabulary import Token
from huref.loader.vocabulary.files import open_vocabulary

FILES = ("consolidated.*.pth", "consolidated*.safetensors")
WEIGHTS = (".pth", ".safetensors", ".bin", ".pt")
# Published name, its name here, and the axis along which parts are cut (None: all hold it).
NAMES: tuple[tuple[str, str, int | None], ...] = (
    ("model.embed_tokens", "tok_embeddings", -1),  # Llama 1, 2 cut columns; Llama 3 cuts rows
    ("model.norm", "norm", None),
    ("lm_head", "output", 0),
    ("model.layers.{i}.input_layernorm", "layers.{i}.attention_norm", None),
    ("model.layers.{i}.self_attn.q_proj", "layers.{i}.attention.wq", 0),
    ("model.layers.{i}.self_attn.k_proj", "layers.{i}.attention.wk", 0),
    ("model.layers.{i}.self_attn.v_proj", "layers.{i}.attention.wv", 0),
    ("model.layers.{i}.self_attn.o_proj", "layers.{i}.attention.wo", 1),
    ("model.layers.{i}.post_attention_layernorm", "layers.{i}.ffn_norm", None),
    ("model.layers.{i}.mlp.gate_proj", "layers.{i}.feed_forward.w1", 0),
    ("model.layers.{i}.mlp.down_proj", "layers.{i}.feed_forward.w2", 1),
    ("model.layers.{i}.mlp.up_proj", "layers.{i}.feed_forward.w3", 0),
)
_BLOCK = re.compile(r"layers\.(\d+)\.")


class MetaModel:
    """Configuration, vocabulary and tensors of a consolidated checkpoint."""

    def __init__(self, repository: Repository):
        self.repository = repository
        top = [name for name in repository.files if "/" not in name]
        self.files = next(f for f in (sorted(fnmatch.filter(top, p)) for p in FILES) if f)

    @staticmethod
    def is_in(repository: Repository) -> bool:
        """Whether a repository holds such a checkpoint, and not the published form beside it."""
        if "params.json" not in repository.files:
            return False
        if repository.chosen is not None:
            return _is_part(repository.chosen)
        weights = [name for name in repository.files if name.endswith(WEIGHTS) and "/" not in name]
        return bool(weights) and all(map(_is_part, weights))

    @cached_property
    def params(self) -> dict[str, Any]:
        """params.json; Llama 4 and Pixtral nest nothing that is needed here."""
        return read_json(self.repository, "params.json")

    def _number(self, key: str, default: Any = None) -> int:
        value = self.params.get(key, default)
        if type(value) is not int or value <= 0:
            raise CheckpointError(f"{self.repository.model}: params.json has {key} = {value!r}")
        return value

    @cached_property
    def config(self) -> dict[str, Any]:
        """What the published config.json would say."""
        heads = self._number("n_heads")
        config = {
            "model_type": "llama",
            "hidden_size": self._number("dim"),
            "num_hidden_layers": self._number("n_layers"),
            "num_attention_heads": heads,
            "num_key_value_heads": self._number("n_kv_heads", heads),
            "rms_norm_eps": self.params.get("norm_eps"),
            "intermediate_size": self.tensors.entry("model.layers.0.mlp.up_proj.weight").shape[0],
            "vocab_size": self.tensors.entry("model.embed_tokens.weight").shape[0],
        }
        if "head_dim" in self.params:
            config["head_dim"] = self._number("head_dim")
        return config

    @cached_property
    def vocabulary(self) -> list[Token]:
        """From tokenizer.model, which is SentencePiece's or, from Llama 3 on, tiktoken's."""
        return open_vocabulary(self.repository)

    @cached_property
    def _stored(self) -> StoredTensors:
        """All parts as one store; tensor NAME of a FILE is called FILE:NAME."""
        numbers = [int(n) for file in self.files for n in re.findall(r"\.(\d+)\.pth$", file)]
        if numbers and numbers != list(range(len(numbers))):
            raise CheckpointError(
                f"{self.repository.model}: of the consolidated files, only numbers {numbers} are "
                "there; put all of them into one folder"
            )
        return StoredTensors(self.repository, self.files, read_index=_read_part)

    @cached_property
    def tensors(self) -> TensorStore:
        """The whole matrices under their published names."""
        held = {name.removeprefix(f"{self.files[0]}:") for name in self._stored.names}
        blocks = {match[1] for name in held if (match := _BLOCK.match(name))}
        sources: dict[str, tuple[str, int | None]] = {}
        for published, name, axis in NAMES:
            for block in blocks if "{i}" in name else [""]:
                for end in (".weight", ".bias"):
                    source = name.format(i=block) + end
                    if source in held:
                        sources[published.format(i=block) + end] = (source, axis)
        return DerivedTensors(
            self._stored, sources, lambda name: self._derive(name, *sources[name])
        )

    def _derive(self, name: str, source: str, axis: int | None) -> Derived:
        pieces = [self._stored.entry(f"{file}:{source}") for file in self.files]
        first = pieces[0]
        if axis == -1:
            axis = 0 if first.shape[-1] == self._number("dim") else 1
        if axis is None or axis >= len(first.shape):
            pieces = pieces[:1]
        elif source.endswith(("wk.weight", "wv.weight")):
            pieces = pieces[:: self._repetition(pieces)]
        shape = _joined_shape(pieces, axis or 0)
        info = TensorInfo(name, first.file, first.dtype, shape)
        names = tuple(piece.name for piece in pieces)
        if axis == 1:
            every = (True,) * len(names)
            return Derived(info, names, lambda parts: torch.cat(parts, dim=1), by_rows=every)
        order = torch.arange(shape[0]) if shape else torch.empty(0)
        if ".q_proj." in name or ".k_proj." in name:
            order = self._rotary_order(info, "n_heads" if ".q_proj." in name else "n_kv_heads")
        height = max(first.shape[0], 1) if shape else 1
        return Derived(
            info,
            names,
            lambda parts: torch.cat(parts)[order],
            locate=lambda row: divmod(int(order[row]), height),
        )

    def _rotary_order(self, info: TensorInfo, key: str) -> torch.Tensor:
        heads = self._number(key, self.params.get("n_heads"))
        if info.shape[0] % (2 * heads):
            raise CheckpointError(
                f"{info.file}: the rows of '{info.name}', {info.shape[0]}, do not divide into "
                f"{heads} heads"
            )
        return rotary_halves(info.shape[0], heads)

    def _repetition(self, pieces: list[StoredTensor]) -> int:
        """How many parts in a row hold the same key-value heads: more parts than heads."""
        heads = self._number("n_heads")
        head_dim = self.params.get("head_dim") or self._number("dim") // heads
        wanted = self._number("n_kv_heads", heads) * head_dim
        return max(sum(piece.shape[0] for piece in pieces) // wanted, 1)


def _is_part(name: str) -> bool:
    return any(fnmatch.fnmatch(name, pattern) for pattern in FILES)


def _read_part(source: ByteSource) -> Index:
    entries = read_index(source)
    return {
        f"{source.name}:{name}": replace(entry, name=f"{source.name}:{name}")
        for name, entry in entries.items()
    }


def _joined_shape(pieces: list[StoredTensor], axis: int) -> tuple[int, ...]:
    """The shape of pieces put together. Raises CheckpointError when they do not fit."""
    shape = list(pieces[0].shape)
    for piece in pieces[1:]:
        other = list(piece.shape)
        if len(other) != len(shape) or other[axis] != pieces[0].shape[axis]:
            raise CheckpointError(f"{piece.file}: '{piece.name}' does not fit {pieces[0].file}")
        other[axis] = shape[axis]
        if other != shape:
            raise CheckpointError(f"{piece.file}: '{piece.name}' does not fit {pieces[0].file}")
        shape[axis] += piece.shape[axis]
    return tuple(shape)
