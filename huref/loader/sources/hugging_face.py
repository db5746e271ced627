"""A model as transformers saves it: config.json, a tokenizer's files, and weights."""

from collections.abc import Mapping
from functools import cached_property
from typing import Any

from huref.errors import CheckpointError, UnsupportedModelError, locating
from huref.loader.quantized import dequantise, named_method
from huref.loader.repository import Repository, read_json
from huref.loader.sources.canonical_names import language_model
from huref.loader.sources.wrappers import is_wrapper, language_config
from huref.loader.stored_tensors import StoredTensors
from huref.loader.tensors import TensorStore
from huref.loader.vocabulary import Token
from huref.loader.vocabulary.encoder import TextEncoder, begins_with
from huref.loader.vocabulary.files import open_encoder, open_vocabulary
from huref.loader.weight_files import has_weights, open_stored

# Files in which quantisers stored their settings before config.json had a key for them.
OLD_SETTINGS = {
    "hf_quant_config.json": "modelopt", "quantize_config.json": "gptq", "quant_config.json": "awq",
}  # fmt: skip


class HuggingFaceModel:
    """config.json, a tokenizer's files, and safetensors or torch weights."""

    def __init__(self, repository: Repository):
        self.repository = repository

    @cached_property
    def _outer_config(self) -> dict[str, Any]:
        if "config.json" not in self.repository.files:
            raise CheckpointError(
                "there is no config.json, which names the architecture",
                model=self.repository.model,
                advice="put the model's own beside the weights",
            )
        config = read_json(self.repository, "config.json")
        _refuse_versions(self.repository, config)
        if "_class_name" in config and "model_type" not in config:
            raise UnsupportedModelError(
                f"it is a part of a diffusers pipeline ({str(config['_class_name'])[:60]}), not a "
                "language model",
                model=self.repository.model,
                advice="give a language model, such as a pipeline's text_encoder if it has one",
            )
        return config

    @cached_property
    def config(self) -> dict[str, Any]:
        """See Contents."""
        return language_config(self._outer_config)

    @cached_property
    def vocabulary(self) -> list[Token]:
        """See Contents."""
        return open_vocabulary(self.repository)

    @cached_property
    def _stored(self) -> StoredTensors:
        stated = "config.json" in self.repository.files and has_weights(self.repository)
        config = self._outer_config if stated else {}
        return open_stored(self.repository, config.get("transformers_weights"))

    @cached_property
    def _dequantised(self) -> tuple[TensorStore, str | None]:
        """The plain matrices, and how they were quantised."""
        if "config.json" not in self.repository.files:
            return self._stored, None
        with locating(model=self.repository.model):
            return dequantise(self._stored, self._quantisation())

    @cached_property
    def _language_model(self) -> tuple[TensorStore, dict[str, str | None]]:
        config = self._outer_config if "config.json" in self.repository.files else {}
        inner = language_config(config)
        tied = inner.get("tie_word_embeddings", config.get("tie_word_embeddings", True))
        with locating(model=self.repository.model):
            return language_model(self._dequantised[0], is_wrapper(config), bool(tied))

    @cached_property
    def encoder(self) -> TextEncoder | None:
        """See Contents."""
        return open_encoder(self.repository, begins_with(self.config), self.vocabulary)

    @property
    def tensors(self) -> TensorStore:
        """See Contents."""
        return self._language_model[0]

    @property
    def beside(self) -> tuple[TensorStore, list[str]]:
        """All tensors of the files, and the names of those beside the language model."""
        store, full = self._dequantised[0], self.full_names
        return store, [name for name in store.names if name in full and full[name] is None]

    @property
    def full_names(self) -> Mapping[str, str | None]:
        """See Contents."""
        return self._language_model[1]

    @property
    def files(self) -> list[str]:
        """See Contents."""
        return self._stored.files

    @property
    def format(self) -> str:
        """See Contents."""
        return self._stored.format

    @property
    def quantisation(self) -> str | None:
        """See Contents."""
        return self._dequantised[1]

    def _quantisation(self) -> dict[str, Any] | None:
        """The settings of the quantisation: in config.json, or in a file of their own."""
        beside: dict[str, Any] = {}
        for file, method in OLD_SETTINGS.items():
            if file in self.repository.files and not beside:
                own = read_json(self.repository, file)
                inner = own.get("quantization")
                own = inner if method == "modelopt" and isinstance(inner, dict) else own
                beside = {**own, "quant_method": method}
        outer = self._outer_config
        for config in (self.config, outer):
            for key in ("quantization_config", "compression_config", "quantization"):
                settings = config.get(key)
                if isinstance(settings, dict):
                    return named_method(settings, beside)
        return beside or None


def _refuse_versions(repository: Repository, config: Mapping[str, Any]) -> None:
    """Raise CheckpointError for settings that transformers reads from a file of its version."""
    named = config.get("configuration_files")
    others = [str(n) for n in named if n != "config.json"] if isinstance(named, list) else []
    if others:
        raise CheckpointError(
            f"it names '{others[0][:100]}', whose settings newer versions of transformers use in "
            "its place",
            model=repository.model,
            file="config.json",
            advice="save the model again, so that config.json has the settings",
        )
