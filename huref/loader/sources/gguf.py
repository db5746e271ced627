"""A GGUF file, whole or split, seen as the published checkpoint that it was converted from.

This module reads the metadata: configuration and vocabulary. `gguf_tensors` gives the tensors, the
experts of a mixture among them, under the published names listed in `gguf_names`.
"""

from dataclasses import replace
from functools import cached_property
from typing import Any

from huref.errors import CheckpointError, UnsupportedModelError, locating
from huref.loader.formats.gguf import Header, read_header
from huref.loader.ranges import ByteSource
from huref.loader.repository import Repository, part_names
from huref.loader.sources.gguf_names import (
    ARCHITECTURES,
    DEEPSEEK_SETTINGS,
    FALCON_40B,
    MIXTRAL_ARCHITECTURE,
    SETTINGS,
    GgufArchitecture,
)
from huref.loader.sources.gguf_tensors import open_published_tensors
from huref.loader.stored_tensors import Index, StoredTensors
from huref.loader.tensors import TensorStore
from huref.loader.vocabulary import Token
from huref.loader.vocabulary.gguf import parse_gguf_vocabulary

# Of several quantisations in one folder, the first of these is read: near the original, yet small.
PREFERENCE = ("q8_0", "f16", "bf16", "q6_k", "q5_k", "q5", "q4_k", "q4", "f32", "q3", "iq", "q2")
_NOT_THE_MODEL = ("mmproj", "imatrix", "-vocab", "lora")


class GgufModel:
    """Configuration, vocabulary and tensors of a GGUF file in their published form."""

    def __init__(self, repository: Repository, file: str):
        self.repository = repository
        self.files = part_names(file, repository.files)
        self._headers: dict[str, Header] = {}

    def _header(self, source: ByteSource) -> Header:
        if source.name not in self._headers:
            self._headers[source.name] = read_header(source)
        return self._headers[source.name]

    @cached_property
    def metadata(self) -> dict[str, Any]:
        """The first file's metadata. Raises CheckpointError when parts of the model are missing."""
        first = self.repository.open(self.files[0], cache=True)
        metadata = self._header(first).metadata
        count = metadata.get("split.count", 1)
        if count not in (0, len(self.files)):
            raise CheckpointError(
                f"the file is one of {count} parts, but {len(self.files)} were found",
                model=self.repository.model,
                file=first.name,
                advice="put all parts into one folder",
            )
        return metadata

    @cached_property
    def architecture(self) -> GgufArchitecture:
        """How this architecture's GGUF files differ from its published checkpoints.

        Raises:
            UnsupportedModelError: the architecture is not in the table.
        """
        name = self.metadata.get("general.architecture")
        architecture = ARCHITECTURES.get(str(name))
        if architecture is None:
            raise UnsupportedModelError(
                f"GGUF files of architecture {name!r} are not supported; "
                f"supported: {', '.join(sorted(ARCHITECTURES))}",
                model=self.repository.model,
                file=self.files[0],
            )
        if name == "llama" and self._setting("expert_count"):
            return MIXTRAL_ARCHITECTURE
        if name == "falcon" and "blk.0.attn_norm_2.weight" in self._stored.names:
            return replace(architecture, names={**architecture.names, **FALCON_40B})
        return architecture

    def _setting(self, key: str) -> Any:
        """One setting of the architecture; where it is a list by block, the first block's."""
        value = self.metadata.get(f"{self.metadata.get('general.architecture')}.{key}")
        return value[0] if isinstance(value, list) and value else value

    @cached_property
    def config(self) -> dict[str, Any]:
        """The metadata's settings under the keys of config.json."""
        config: dict[str, Any] = {"model_type": self.architecture.model_type}
        tables = [SETTINGS]
        if self.architecture.model_type.startswith("deepseek"):
            tables.append(DEEPSEEK_SETTINGS)
        for table in tables:
            for key, names in table.items():
                value = self._setting(key)
                if value not in (None, 0):
                    config |= dict.fromkeys(names, value)
        tokens = self.metadata.get("tokenizer.ggml.tokens")
        config["vocab_size"] = len(tokens) if isinstance(tokens, list) else None
        if self.architecture.model_type == "falcon":
            kv_heads = config.get("num_kv_heads")
            config["multi_query"] = kv_heads == 1
            config["new_decoder_architecture"] = kv_heads != 1
        key_length = self._setting("attention.key_length_mla") or config.get("head_dim")
        if "qk_rope_head_dim" in config and isinstance(key_length, int):
            config["qk_nope_head_dim"] = key_length - config["qk_rope_head_dim"]
        return config

    @cached_property
    def vocabulary(self) -> list[Token]:
        """The vocabulary in the metadata."""
        with locating(model=self.repository.model, file=self.files[0]):
            return parse_gguf_vocabulary(self.metadata)

    @cached_property
    def _stored(self) -> StoredTensors:
        def index(source: ByteSource) -> Index:
            return self._header(source).tensors

        _ = self.metadata  # checks that no part is missing
        return StoredTensors(self.repository, self.files, read_index=index)

    @cached_property
    def tensors(self) -> TensorStore:
        """See Contents."""
        with locating(model=self.repository.model):
            return open_published_tensors(self._stored, self.architecture, self._head_counts)

    def _head_counts(self) -> tuple[int, int]:
        """Number of query heads and of key-value heads.

        Raises:
            CheckpointError: the metadata gives no positive number.
        """
        queries = self._require_positive(self.config.get("num_attention_heads"))
        groups = self.config.get("num_key_value_heads")
        return queries, queries if groups is None else self._require_positive(groups)

    def _require_positive(self, count: Any) -> int:
        if type(count) is not int or count <= 0:
            raise CheckpointError(
                f"the metadata gives {count!r} as number of attention heads",
                model=self.repository.model,
                file=self.files[0],
                advice="convert the model again",
            )
        return count


def find_gguf(repository: Repository) -> str | None:
    """The GGUF file to read: the one that the user named, or the best of a folder, or None."""
    if repository.chosen is not None:
        return repository.chosen if repository.chosen.endswith(".gguf") else None
    files = [
        name
        for name in sorted(repository.files)
        if name.endswith(".gguf") and not any(word in name.lower() for word in _NOT_THE_MODEL)
    ]
    return min(files, key=_rank) if files else None


def _rank(name: str) -> tuple[int, str]:
    lower = name.lower()
    for rank, kind in enumerate(PREFERENCE):
        if kind in lower:
            return rank, name
    return len(PREFERENCE), name
