"""The contents of a checkpoint, whatever its file format: configuration, vocabulary, tensors."""

from collections.abc import Mapping
from typing import Any, Protocol

from huref.loader.tensors import TensorStore
from huref.loader.vocabulary import Token
from huref.loader.vocabulary.encoder import TextEncoder


class Contents(Protocol):
    """Configuration, vocabulary and tensors, each read on first access."""

    @property
    def config(self) -> dict[str, Any]:
        """The language model's settings, under the keys of config.json."""
        ...

    @property
    def vocabulary(self) -> list[Token]:
        """All tokens: the vocabulary's by id, then those that a tokenizer.json adds."""
        ...

    @property
    def encoder(self) -> TextEncoder | None:
        """The tokenizer that runs, or None where the files do not hold one that can."""
        ...

    @property
    def tensors(self) -> TensorStore:
        """The weights as plain matrices under their published names."""
        ...

    @property
    def full_names(self) -> Mapping[str, str | None]:
        """The names in the files, without wrappers, and for each the name in `tensors`.

        None stands for a tensor of another part of a multimodal model.
        """
        ...

    @property
    def files(self) -> list[str]:
        """The files that hold the weights."""
        ...

    @property
    def format(self) -> str:
        """The form of the files in a few words, such as "safetensors"."""
        ...

    @property
    def quantisation(self) -> str | None:
        """How the weights are quantised, in a few words; None for plain weights."""
        ...


MOST_NAMED = 16  # files or tensors that a description lists


def describe(contents: Contents) -> dict[str, Any]:
    """What was read for a model: files, format, quantisation; of an adapter also its base."""
    base = getattr(contents, "base", None)
    described: dict[str, Any] = {
        "names": contents.files[:MOST_NAMED],
        "count": len(contents.files),
        "format": contents.format,
        "quantisation": contents.quantisation if base is None else None,
        "unused": getattr(contents, "passed_over", [])[:MOST_NAMED],
        "base": None,
    }
    if base is not None:
        described["base"] = {"model": str(getattr(contents, "base_name", "")), **describe(base)}
    return described
