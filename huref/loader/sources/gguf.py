"""A GGUF file, whole or split, seen as the published checkpoint that it was converted from.

This module reads the metadata: configuration and vocabulary. `gguf_tensors` gives the tensors, the
experts of a mixture among them, under the published names listed in `gguf_names`.
"""

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from typing import Any

from huref.errors import CheckpointError, UnsupportedModelError, locating
from huref.loader.formats.ggml import type_name
from huref.loader.formats.gguf import MAGIC, Header, read_header
from huref.loader.look_around import explain_no_weights, find_split_by_hand
from huref.loader.ranges import ByteSource
from huref.loader.repository import Repository, part_names
from huref.loader.sources.gguf_names import (
    ARCHITECTURES,
    FALCON_40B,
    LATENT_SETTINGS,
    MIXTRAL_ARCHITECTURE,
    SETTINGS,
    GgufArchitecture,
)
from huref.loader.sources.gguf_settings import (
    FREQUENCY_FACTORS,
    MOST_FACTORS,
    SHORT_FACTORS,
    rotary_scaling,
    settings_of_type,
)
from huref.loader.sources.gguf_tensors import open_published_tensors
from huref.loader.stored_tensors import Index, StoredTensors
from huref.loader.tensors import TensorStore
from huref.loader.vocabulary import Token
from huref.loader.vocabulary.encoder import TextEncoder
from huref.loader.vocabulary.gguf import gguf_encoder, parse_gguf_vocabulary
from huref.loader.weight_files import has_weights

# Of several quantisations in one folder, the first of these is read: near the original, yet small.
PREFERENCE = ("q8_0", "f16", "bf16", "q6_k", "q5_k", "q5", "q4_k", "q4", "f32", "q3", "iq", "q2")
_NOT_THE_MODEL = ("mmproj", "imatrix", "-vocab", "lora-", "-lora")
MOST_COUNTED = 2000  # tensors whose types are counted
MOST_LOOKED_INTO = 12  # files whose first bytes are read to find what they are
_QUANTISATION = re.compile(
    r"(?<![a-z0-9])(?:ud|i1|imat|imatrix|gguf|ggml|(?:i?q|tq|mxfp)\d(?:[._-]?(?:k|0|1|m|s|l|xs|xxs|xl|nl|moe)"
    r"(?![a-z0-9]))*|bf16|fp16|f16|fp32|f32|fp8)(?![a-z0-9])"
)


class GgufModel:
    """Configuration, vocabulary and tensors of a GGUF file in their published form."""

    all_settings_run = True  # see Checkpoint

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
        self._require_model(metadata)
        count = metadata.get("split.count", 1)
        if count not in (0, len(self.files)):
            raise CheckpointError(
                f"the file is one of {count} parts, but {len(self.files)} were found",
                model=self.repository.model,
                file=first.name,
                advice="put all parts into one folder",
            )
        return metadata

    def _require_model(self, metadata: dict[str, Any]) -> None:
        """Raise UnsupportedModelError for a GGUF file that is not a language model's."""
        kind = metadata.get("general.type", "model")
        if kind == "adapter":
            raise UnsupportedModelError(
                "it is a LoRA adapter in a GGUF file",
                model=self.repository.model,
                file=self.files[0],
                advice="give the PEFT adapter that it was converted from, or merge it with "
                "llama.cpp's llama-export-lora",
            )
        if kind in ("mmproj", "imatrix") or metadata.get("general.architecture") == "clip":
            raise UnsupportedModelError(
                "it is the vision projector of a multimodal model, or an importance matrix",
                model=self.repository.model,
                file=self.files[0],
                advice="give the language model's GGUF file",
            )

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
        """One setting of the architecture; a list where blocks have different ones."""
        value = self.metadata.get(f"{self.metadata.get('general.architecture')}.{key}")
        if isinstance(value, list) and value and all(other == value[0] for other in value):
            return value[0]
        return value

    @cached_property
    def config(self) -> dict[str, Any]:
        """The metadata's settings under the keys of config.json."""
        config: dict[str, Any] = {"model_type": self.architecture.model_type}
        tables = [SETTINGS]
        if self.architecture.is_latent:
            tables.append(LATENT_SETTINGS)
        for table in tables:
            for key, names in table.items():
                value = self._setting(key)
                if value not in (None, 0, []):
                    config |= dict.fromkeys(names, value)
        tokens = self.metadata.get("tokenizer.ggml.tokens")
        config["vocab_size"] = len(tokens) if isinstance(tokens, list) else None
        config |= settings_of_type(self.architecture.model_type, self._setting, config)
        config |= rotary_scaling(
            self._setting, self._factors(FREQUENCY_FACTORS), self._factors(SHORT_FACTORS)
        )
        key_length = self._setting("attention.key_length_mla") or config.get("head_dim")
        if "qk_rope_head_dim" in config and isinstance(key_length, int):
            config["qk_nope_head_dim"] = key_length - config["qk_rope_head_dim"]
        return config

    def _factors(self, name: str) -> list[float]:
        """The numbers by which rotary frequencies are divided; [] where there are none."""
        if name not in self._stored.names:
            return []
        shape = self._stored.entry(name).shape
        if len(shape) != 1 or not 0 < shape[0] <= MOST_FACTORS:
            return []
        factors = self._stored.read([name])[name].double()
        return factors.tolist() if bool((factors > 0).all()) else []

    @cached_property
    def vocabulary(self) -> list[Token]:
        """The vocabulary in the metadata."""
        with locating(model=self.repository.model, file=self.files[0]):
            return parse_gguf_vocabulary(self.metadata)

    @cached_property
    def encoder(self) -> TextEncoder | None:
        """See Contents."""
        return gguf_encoder(self.metadata)

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

    @property
    def full_names(self) -> Mapping[str, str | None]:
        """See Contents."""
        return {name: name for name in self.tensors.names}

    @property
    def format(self) -> str:
        """See Contents."""
        return f"GGUF ({self.metadata.get('general.architecture')})"

    @cached_property
    def quantisation(self) -> str | None:
        """See Contents; the type of the file that its metadata states, or its most common one."""
        kinds = Counter(
            self._stored.entry(name).ggml_type
            for name in list(self._stored.names)[:MOST_COUNTED]
            if len(self._stored.entry(name).shape) > 1
        )
        kind = kinds.most_common(1)[0][0] if kinds else None
        return None if kind is None else type_name(kind)

    def _head_counts(self, block: int) -> tuple[int, int]:
        """Number of query heads and of key-value heads of a block.

        Raises:
            CheckpointError: the metadata gives no positive number.
        """
        counts = [self.config.get("num_attention_heads"), self.config.get("num_key_value_heads")]
        heads, groups = (
            count[block] if isinstance(count, list) and block < len(count) else count
            for count in counts
        )
        queries = self._require_positive(heads)
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
    """The GGUF file to read: the one that the user named, or the best of a folder, or None.

    Files are told by their first bytes where their name does not say what they are.

    Raises:
        CheckpointError: the folder holds GGUF files of different models.
    """
    if repository.chosen is not None:
        if find_split_by_hand([repository.chosen]) is not None:
            raise explain_no_weights(repository)
        return repository.chosen if _is_gguf(repository, repository.chosen) else None
    if "config.json" in repository.files and has_weights(repository):
        return None
    files = [
        name
        for name in sorted(repository.files)
        if name.lower().endswith(".gguf")
        and not any(word in name.lower().rpartition("/")[2] for word in _NOT_THE_MODEL)
    ]
    if not files and find_split_by_hand(repository.files) is not None:
        return None
    if not files and repository.revision is None and len(repository.files) <= MOST_LOOKED_INTO:
        files = [
            name
            for name in sorted(repository.files)
            if "/" not in name and _is_gguf(repository, name)
        ]
    if not files:
        return None
    if all("/" in name for name in files) and _models_below(repository):
        raise explain_no_weights(repository)  # a folder of several models is a choice
    _refuse_different_models(repository, files)
    return min(files, key=_rank)


def _models_below(repository: Repository) -> bool:
    """Whether folders below hold models in another format than GGUF."""
    folders = {n.rpartition("/")[0] for n in repository.files if n.endswith("/config.json")}
    return any(
        name.rpartition("/")[0] in folders and name.endswith((".safetensors", ".bin"))
        for name in repository.files
    )


def _is_gguf(repository: Repository, name: str) -> bool:
    """Whether a file is one of GGUF: by its name, else by its first bytes."""
    others = (".gguf", ".json", ".md", ".txt", *((".safetensors",) if repository.remote else ()))
    if name.lower().endswith(others):
        return name.lower().endswith(".gguf")
    if repository.files[name] < len(MAGIC):
        return False
    return bytes(repository.open(name, cache=True).read(0, len(MAGIC))) == MAGIC


def _refuse_different_models(repository: Repository, files: list[str]) -> None:
    """Raise CheckpointError for files whose names are those of different models.

    Files with the same name in their metadata are one model's, whatever they are called.
    """
    by_model: dict[str, str] = {}
    for name in sorted(files, key=_rank):
        by_model.setdefault(model_in_name(name), name)
    if len(by_model) < 2:
        return
    found = list(by_model.values())
    if len(found) <= MOST_LOOKED_INTO:
        titles = set()
        for name in found:
            metadata = read_header(repository.open(name, cache=True)).metadata
            titles.add(str(metadata.get("general.name") or name))
        if len(titles) == 1:
            return
    place = repository.model.rstrip("/")
    raise CheckpointError(
        f"it holds GGUF files of different models ({', '.join(found[:4])})",
        model=repository.model,
        advice=f"name one of them, such as {place}/{found[0]}",
    )


def model_in_name(name: str) -> str:
    """A GGUF file's name without its folder, quantisation, part and separators."""
    stem = name.rpartition("/")[2].lower().removesuffix(".gguf")
    stem = re.sub(r"-\d{5}-of-\d{5}$", "", stem)
    stem = _QUANTISATION.sub("", stem)
    return re.sub(r"[^a-z0-9]+", "", stem)


def _rank(name: str) -> tuple[int, str]:
    lower = name.lower()
    for rank, kind in enumerate(PREFERENCE):
        if kind in lower:
            return rank, name
    return len(PREFERENCE), name
