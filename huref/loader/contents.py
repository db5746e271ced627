"""What a checkpoint holds, whatever form it has: configuration, vocabulary, tensors."""

from typing import Any, Protocol

from huref.loader.tensors import TensorStore
from huref.loader.vocabulary import Token


class Contents(Protocol):
    """Configuration, vocabulary and tensors; each is read when it is asked for."""

    @property
    def config(self) -> dict[str, Any]:
        """The settings of the language model, under config.json's keys."""
        ...

    @property
    def vocabulary(self) -> list[Token]:
        """All tokens, in order of their ids."""
        ...

    @property
    def tensors(self) -> TensorStore:
        """The weights as plain matrices under their published names."""
        ...
