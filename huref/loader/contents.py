"""The contents of a checkpoint, whatever its file format: configuration, vocabulary, tensors."""

from typing import Any, Protocol

from huref.loader.tensors import TensorStore
from huref.loader.vocabulary import Token


class Contents(Protocol):
    """Configuration, vocabulary and tensors, each read on first access."""

    @property
    def config(self) -> dict[str, Any]:
        """The language model's settings, under the keys of config.json."""
        ...

    @property
    def vocabulary(self) -> list[Token]:
        """All tokens, ordered by id."""
        ...

    @property
    def tensors(self) -> TensorStore:
        """The weights as plain matrices under their published names."""
        ...
