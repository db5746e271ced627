"""Meta's own release format: params.json and tensor-parallel consolidated.NN.pth files.

Each file ("part") holds a slice of every matrix; the slices are concatenated along the axis that
was split. Names, and the order of the rows of q and k, are converted to those of the Hugging Face
checkpoint: Meta stores rotary pairs interleaved.
"""

import fnmatch
import re
from collections.abc import Mapping
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
from huref.loader.vocabulary.encoder import TextEncoder, begins_with
from huref.loader.vocabulary.files import open_encoder, open_vocabulary

FILES = ("consolidated.*.pth", "consolidated*.safetensors")
WEIGHTS = (".pth", ".safetensors", ".bin", ".pt")
# Published name, Meta's name, and the axis that was split (None: each part holds all of it).
NAMES: tuple[tuple[str, str, int | None], ...] = (
    ("model.embed_tokens", "tok_embeddings", -1),  # columns in Llama 1 and 2, rows in Llama 3
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
_SHARD = re.compile(r"consolidated-\d{5}-of-(?P<count>\d{5})\.safetensors")
_BLOCK = re.compile(r"layers\.(\d+)\.")


class MetaModel:
    """Configuration, vocabulary and tensors of a consolidated checkpoint."""

    def __init__(self, repository: Repository):
        self.repository = repository
        top = [name for name in repository.files if "/" not in name]
        self.files = next(f for f in (sorted(fnmatch.filter(top, p)) for p in FILES) if f)
        # Mistral's files hold whole tensors each, Meta's a slice of every tensor.
        shards = [match for name in self.files if (match := _SHARD.fullmatch(name))]
        self._are_shards = len(shards) == len(self.files)
        if self._are_shards and len(shards) != int(shards[0]["count"]):
            raise CheckpointError(
                f"of {int(shards[0]['count'])} shards {int(shards[0]['count']) - len(shards)} are "
                "missing",
                model=repository.model,
                advice="download the missing shards, too",
            )

    @staticmethod
    def is_in(repository: Repository) -> bool:
        """Whether a repository holds such a checkpoint and no Hugging Face weights beside it."""
        if "params.json" not in repository.files:
            return False
        if repository.chosen is not None:
            return _is_part(repository.chosen)
        weights = [name for name in repository.files if name.endswith(WEIGHTS) and "/" not in name]
        return bool(weights) and all(map(_is_part, weights))

    @cached_property
    def params(self) -> dict[str, Any]:
        """The settings in params.json."""
        return read_json(self.repository, "params.json")

    def _number(self, key: str, default: Any = None) -> int:
        value = self.params.get(key, default)
        if type(value) is not int or value <= 0:
            raise CheckpointError(
                f"it has {key} = {value!r}", model=self.repository.model, file="params.json"
            )
        return value

    def _rows_of(self, name: str) -> int:
        entry = self.tensors.entry(name)
        if len(entry.shape) != 2:
            raise CheckpointError(
                f"its shape {list(entry.shape)} is not that of a matrix",
                model=self.repository.model,
                file=entry.file,
                tensor=name,
            )
        return entry.shape[0]

    @cached_property
    def config(self) -> dict[str, Any]:
        """The settings of params.json under the keys of config.json."""
        heads = self._number("n_heads")
        config = {
            "model_type": "llama",
            "hidden_size": self._number("dim"),
            "num_hidden_layers": self._number("n_layers"),
            "num_attention_heads": heads,
            "num_key_value_heads": self._number("n_kv_heads", heads),
            "rms_norm_eps": self.params.get("norm_eps"),
            "intermediate_size": self._rows_of("model.layers.0.mlp.up_proj.weight"),
            "vocab_size": self._rows_of("model.embed_tokens.weight"),
        }
        if "head_dim" in self.params:
            config["head_dim"] = self._number("head_dim")
        return config

    @cached_property
    def vocabulary(self) -> list[Token]:
        """See Contents. tokenizer.model is SentencePiece's or, from Llama 3 on, tiktoken's."""
        return open_vocabulary(self.repository)

    @cached_property
    def encoder(self) -> TextEncoder | None:
        """See Contents."""
        return open_encoder(self.repository, begins_with(self.config), self.vocabulary)

    @cached_property
    def _stored(self) -> StoredTensors:
        """The tensors of all parts as one store; tensor NAME in FILE is called FILE:NAME."""
        numbers = [int(n) for file in self.files for n in re.findall(r"\.(\d+)\.pth$", file)]
        if numbers and numbers != list(range(len(numbers))):
            raise CheckpointError(
                f"of the consolidated files, only numbers {numbers} were found",
                model=self.repository.model,
                advice="put all of them into one folder",
            )
        if self._are_shards:
            first = self.files[0]
            return StoredTensors(
                self.repository, self.files, read_index=lambda source: _read_part(source, first)
            )
        return StoredTensors(self.repository, self.files, read_index=_read_part)

    @cached_property
    def tensors(self) -> TensorStore:
        """The complete matrices under their published names."""
        stored = {name.removeprefix(f"{self.files[0]}:") for name in self._stored.names}
        blocks = {match[1] for name in stored if (match := _BLOCK.match(name))}
        sources: dict[str, tuple[str, int | None]] = {}
        for published, name, axis in NAMES:
            for block in blocks if "{i}" in name else [""]:
                for suffix in (".weight", ".bias"):
                    source = name.format(i=block) + suffix
                    if source in stored:
                        sources[published.format(i=block) + suffix] = (source, axis)
        return DerivedTensors(
            self._stored, sources, lambda name: self._derive(name, *sources[name])
        )

    @property
    def full_names(self) -> Mapping[str, str | None]:
        """See Contents."""
        return {name: name for name in self.tensors.names}

    @property
    def format(self) -> str:
        """See Contents."""
        return "consolidated"

    @property
    def quantisation(self) -> str | None:
        """See Contents."""
        return None

    def _derive(self, name: str, source: str, axis: int | None) -> Derived:
        parts = self.files[:1] if self._are_shards else self.files
        pieces = [self._stored.entry(f"{file}:{source}") for file in parts]
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
                f"its {info.shape[0]} rows do not divide into {heads} heads",
                model=self.repository.model,
                file=info.file,
                tensor=info.name,
            )
        return rotary_halves(info.shape[0], heads)

    def _repetition(self, pieces: list[StoredTensor]) -> int:
        """In how many consecutive parts each key-value head is stored."""
        heads = self._number("n_heads")
        head_dim = self.params.get("head_dim") or self._number("dim") // heads
        rows = self._number("n_kv_heads", heads) * head_dim
        return max(sum(piece.shape[0] for piece in pieces) // rows, 1)


def _is_part(name: str) -> bool:
    return any(fnmatch.fnmatch(name, pattern) for pattern in FILES)


def _read_part(source: ByteSource, part: str = "") -> Index:
    entries = read_index(source)
    part = part or source.name
    return {
        f"{part}:{name}": replace(entry, name=f"{part}:{name}") for name, entry in entries.items()
    }


def _joined_shape(pieces: list[StoredTensor], axis: int) -> tuple[int, ...]:
    """The shape of the concatenated pieces. Raises CheckpointError when they do not fit."""
    shape = list(pieces[0].shape)
    for piece in pieces[1:]:
        other = list(piece.shape)
        if len(other) != len(shape) or other[axis] != pieces[0].shape[axis]:
            raise _misfit(piece, pieces[0])
        other[axis] = shape[axis]
        if other != shape:
            raise _misfit(piece, pieces[0])
        shape[axis] += piece.shape[axis]
    return tuple(shape)


def _misfit(piece: StoredTensor, first: StoredTensor) -> CheckpointError:
    return CheckpointError(
        f"its shape {list(piece.shape)} does not fit {list(first.shape)} in {first.file}",
        file=piece.file,
        tensor=piece.name.removeprefix(f"{piece.file}:"),
    )
