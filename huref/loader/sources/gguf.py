"""A GGUF file, whole or split, as the published checkpoint it was made from."""

import re
from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from huref.errors import CheckpointError, UnsupportedModelError
from huref.loader.formats.gguf import Header, read_header
from huref.loader.ranges import ByteSource
from huref.loader.repository import Repository, part_names
from huref.loader.sources.gguf_names import (
    DEEPSEEK_SETTINGS,
    DIALECTS,
    FALCON_40B,
    MIXTRAL_DIALECT,
    SETTINGS,
    Dialect,
)
from huref.loader.stored_tensors import Index, StoredTensors
from huref.loader.tensors import (
    Derived,
    DerivedTensors,
    TensorInfo,
    TensorStore,
    renamed,
    reordered,
    rotary_halves,
)
from huref.loader.vocabulary import Token
from huref.loader.vocabulary.gguf import parse_gguf_vocabulary

# Of several quantisations side by side, the one nearest to the original that is still small.
PREFERENCE = ("q8_0", "f16", "bf16", "q6_k", "q5_k", "q5", "q4_k", "q4", "f32", "q3", "iq", "q2")
_NAME = re.compile(r"(?:blk\.(?P<i>\d+)\.)?(?P<role>\w+)(?:\.(?P<e>\d+))?(?P<end>\.\w+)")
SPLIT_LATENT = ".attn_k_b.weight"  # and its v_b: newer converters' halves of attn_kv_b
_NOT_THE_MODEL = ("mmproj", "imatrix", "-vocab", "lora")


class GgufModel:
    """Configuration, vocabulary and tensors of a GGUF file under their published names."""

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
                f"{first.name}: it is one of {count} parts, but {len(self.files)} are there; "
                "put all parts into one folder"
            )
        return metadata

    @cached_property
    def dialect(self) -> Dialect:
        """How this architecture names things. Raises UnsupportedModelError for one not listed."""
        architecture = self.metadata.get("general.architecture")
        dialect = DIALECTS.get(str(architecture))
        if dialect is None:
            raise UnsupportedModelError(
                f"{self.files[0]}: GGUF files of architecture {architecture!r} are not supported; "
                f"supported: {', '.join(sorted(DIALECTS))}"
            )
        if architecture == "llama" and self._setting("expert_count"):
            return MIXTRAL_DIALECT
        if architecture == "falcon" and "blk.0.attn_norm_2.weight" in self._stored.names:
            return replace(dialect, names={**dialect.names, **FALCON_40B})
        return dialect

    def _setting(self, key: str) -> Any:
        """One setting of the architecture; the first block's where blocks differ."""
        value = self.metadata.get(f"{self.metadata.get('general.architecture')}.{key}")
        return value[0] if isinstance(value, list) and value else value

    @cached_property
    def config(self) -> dict[str, Any]:
        """What the published config.json would say."""
        config: dict[str, Any] = {"model_type": self.dialect.model_type}
        tables = [SETTINGS]
        if self.dialect.model_type.startswith("deepseek"):
            tables.append(DEEPSEEK_SETTINGS)
        for table in tables:
            for key, names in table.items():
                value = self._setting(key)
                if value not in (None, 0):
                    config |= dict.fromkeys(names, value)
        tokens = self.metadata.get("tokenizer.ggml.tokens")
        config["vocab_size"] = len(tokens) if isinstance(tokens, list) else None
        if self.dialect.model_type == "falcon":
            kv_heads = config.get("num_kv_heads")
            config["multi_query"] = kv_heads == 1
            config["new_decoder_architecture"] = kv_heads != 1
        key_length = self._setting("attention.key_length_mla") or config.get("head_dim")
        if "qk_rope_head_dim" in config and isinstance(key_length, int):
            config["qk_nope_head_dim"] = key_length - config["qk_rope_head_dim"]
        return config

    @cached_property
    def vocabulary(self) -> list[Token]:
        """The embedded vocabulary."""
        return parse_gguf_vocabulary(self.metadata, self.files[0])

    @cached_property
    def _stored(self) -> StoredTensors:
        def index(source: ByteSource) -> Index:
            return self._header(source).tensors

        _ = self.metadata
        return StoredTensors(self.repository, self.files, read_index=index)

    @cached_property
    def tensors(self) -> TensorStore:
        """The tensors under their published names, in their published form."""
        published: dict[str, str] = {}
        for name in self._stored.names:
            if (new := published_name(name, self.dialect.names)) is not None:
                published[new] = name
            elif name.endswith(SPLIT_LATENT) and name.replace("k_b", "v_b") in self._stored.names:
                whole = published_name(name.replace("k_b", "kv_b"), self.dialect.names)
                published.setdefault(whole or name, name)
        return DerivedTensors(
            self._stored, published, lambda name: self._derive(name, published[name])
        )

    def _derive(self, name: str, source: str) -> Derived:
        dialect, stored = self.dialect, self._stored.entry(source)
        match = _NAME.fullmatch(source)
        role = match["role"] if match else ""
        info = renamed(stored, name)
        if source.endswith(SPLIT_LATENT):
            return self._join_latent(name, source)
        if dialect.rotary_pairs and role in ("attn_q", "attn_k"):
            heads = self._heads("num_attention_heads" if role == "attn_q" else None)
            self._require_heads(stored, heads, 2)
            return reordered(info, source, rotary_halves(info.shape[0], heads))
        if dialect.fused_by_head and role == "attn_qkv":
            heads, groups = self._heads("num_attention_heads"), self._heads()
            self._require_heads(stored, heads + 2 * groups, 1)
            return reordered(info, source, fused_rows(info.shape[0], heads, groups))
        if dialect.norms_plus_one and source.endswith("norm.weight"):
            return Derived(info, (source,), lambda parts: parts[0].float() - 1, by_rows=(True,))
        if role in dialect.transposed and len(info.shape) == 2:
            turned = TensorInfo(name, info.file, info.dtype, info.shape[::-1])
            return Derived(turned, (source,), lambda parts: parts[0].T)
        return Derived(info, (source,), lambda parts: parts[0], by_rows=(True,))

    def _join_latent(self, name: str, source: str) -> Derived:
        """kv_b, which llama.cpp splits into keys (heads, r, nope) and values (heads, v, r)."""
        keys, values = (self._stored.entry(s) for s in (source, source.replace("k_b", "v_b")))
        if len(keys.shape) != 3 or values.shape[::2] != keys.shape[:2]:
            raise CheckpointError(
                f"{keys.file}: '{keys.name}' of shape {list(keys.shape)} and '{values.name}' of "
                f"shape {list(values.shape)} are not two parts of one projection"
            )
        heads, rank, nope = keys.shape
        shape = (heads * (nope + values.shape[1]), rank)
        info = TensorInfo(name, keys.file, keys.dtype, shape)
        return Derived(
            info,
            (keys.name, values.name),
            lambda parts: torch.cat([parts[0].mT, parts[1]], dim=1).flatten(0, 1),
        )

    def _heads(self, key: str | None = None) -> int:
        """Number of query heads, or of key-value heads without a key."""
        value = self.config.get(key or "num_key_value_heads")
        value = value if value is not None else self.config.get("num_attention_heads")
        if type(value) is not int or value <= 0:
            raise CheckpointError(
                f"{self.files[0]}: the metadata gives {value!r} as head count; convert it again"
            )
        return value

    def _require_heads(self, stored: TensorInfo, heads: int, multiple: int) -> None:
        if not stored.shape or stored.shape[0] % (heads * multiple):
            raise CheckpointError(
                f"{stored.file}: tensor '{stored.name}' of shape {list(stored.shape)} does not "
                f"divide into {heads} heads, as the metadata says; convert the model again"
            )


def published_name(name: str, names: Mapping[str, str]) -> str | None:
    """The published name of a GGUF tensor, or None when a checkpoint has no such tensor."""
    match = _NAME.fullmatch(name)
    if match is None:
        return None
    pattern = ("blk.{i}." if match["i"] else "") + match["role"] + (".{e}" if match["e"] else "")
    published = names.get(pattern)
    if published is None:
        return None
    return published.format(i=match["i"], e=match["e"]) + match["end"]


def fused_rows(rows: int, heads: int, groups: int) -> Tensor:
    """Where the rows of q, k, v fused by head lie when q, k and v are stored one after another.

    (rows,) int64: row i of the published matrix is stored at the i-th of these. Each of `groups`
    key-value heads is published as its query heads, then its key, its value.
    """
    size = rows // (heads + 2 * groups)
    queries = torch.arange(heads * size).view(groups, -1)
    keys = heads * size + torch.arange(groups * size).view(groups, -1)
    return torch.cat([queries, keys, keys + groups * size], dim=1).reshape(-1)


def find_gguf(repository: Repository) -> str | None:
    """The GGUF file to read: the chosen one, or the best of a folder; None when there is none."""
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
