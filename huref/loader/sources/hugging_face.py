"""A model as transformers saves it: config.json, a tokenizer's files, and weights."""

from functools import cached_property
from typing import Any

from huref.errors import CheckpointError, locating
from huref.loader.quantized import dequantise
from huref.loader.repository import Repository, read_json
from huref.loader.sources.wrappers import is_wrapper, language_config, unwrap
from huref.loader.stored_tensors import open_stored
from huref.loader.tensors import TensorStore
from huref.loader.vocabulary import Token
from huref.loader.vocabulary.files import open_vocabulary

# Files in which quantisers stored their settings before config.json had a key for them.
OLD_SETTINGS = {"quantize_config.json": "gptq", "quant_config.json": "awq"}


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
        return read_json(self.repository, "config.json")

    @cached_property
    def config(self) -> dict[str, Any]:
        """See Contents."""
        return language_config(self._outer_config)

    @cached_property
    def vocabulary(self) -> list[Token]:
        """See Contents."""
        return open_vocabulary(self.repository)

    @cached_property
    def tensors(self) -> TensorStore:
        """See Contents."""
        stored = open_stored(self.repository)
        if "config.json" not in self.repository.files:
            return stored
        with locating(model=self.repository.model):
            plain = dequantise(stored, self._quantisation())
        return unwrap(plain) if is_wrapper(self._outer_config) else plain

    def _quantisation(self) -> dict[str, Any] | None:
        for key in ("quantization_config", "compression_config"):
            settings = self.config.get(key)
            if isinstance(settings, dict):
                return {"quant_method": "compressed-tensors", **settings}
        for name, method in OLD_SETTINGS.items():
            if name in self.repository.files:
                return {**read_json(self.repository, name), "quant_method": method}
        return None
