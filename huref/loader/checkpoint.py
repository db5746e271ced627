"""A checkpoint: configuration, vocabulary and tensors of a model, each read when asked for."""

import re
import time
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import Tensor

from huref.errors import CheckpointError
from huref.loader.contents import Contents
from huref.loader.model_name import open_repository
from huref.loader.repository import Repository
from huref.loader.sources.adapters import AdapterModel
from huref.loader.sources.gguf import GgufModel, find_gguf
from huref.loader.sources.hugging_face import HuggingFaceModel
from huref.loader.sources.meta import MetaModel
from huref.loader.tensors import TensorInfo
from huref.loader.vocabulary import Token

WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".gguf")
LONGEST_CHAIN = 8  # adapters of adapters
_BLOCK = re.compile(r"(?:^|\.)(\d+)\.")


class Checkpoint:
    """The files behind a model. Nothing is read before it is asked for.

    Whatever numbers, containers, shards, parts or adapters lie below, tensors show as plain
    matrices under their published names.
    """

    def __init__(self, repository: Repository, base: str = ""):
        self.repository = repository
        self.seconds_reading = 0.0
        self._repositories = [repository]
        self._contents = self._open(repository, base)

    def _open(self, repository: Repository, base: str = "") -> Contents:
        gguf = find_gguf(repository)
        if repository.chosen is not None and gguf:
            return GgufModel(repository, gguf)
        if AdapterModel.is_in(repository):
            return AdapterModel(repository, self._open_base, base)
        if base:
            raise CheckpointError(f"{repository.model}: --base is for adapters, which this is not")
        if MetaModel.is_in(repository):
            return MetaModel(repository)
        if gguf and not any(name.endswith(WEIGHTS[:-1]) for name in repository.files):
            return GgufModel(repository, gguf)
        return HuggingFaceModel(repository)

    def _open_base(self, name: str) -> Contents:
        repository = open_repository(name, self.repository.meter)
        seen = [_identity(r) for r in self._repositories]
        if _identity(repository) in seen or len(seen) > LONGEST_CHAIN:
            chain = " -> ".join([*(r.model for r in self._repositories), name])
            raise CheckpointError(f"the adapters form a loop: {chain}")
        self._repositories.append(repository)
        return self._open(repository)

    @property
    def model(self) -> str:
        """What the user called it."""
        return self.repository.model

    @property
    def repositories(self) -> tuple[Repository, ...]:
        """Everything that the weights come from: the model's files, and those of its bases."""
        _ = self._contents.config  # an adapter opens its base for it
        return tuple(self._repositories)

    @property
    def revision(self) -> str | None:
        """The commit, for a model from the Hub."""
        return self.repository.revision

    @property
    def bytes_total(self) -> int:
        """Size of all files of the repository, and of an adapter's base."""
        return sum(sum(repository.files.values()) for repository in self._repositories)

    @property
    def bytes_read(self) -> int:
        """Bytes read so far."""
        return self.repository.meter.bytes_read

    @property
    def config(self) -> dict[str, Any]:
        """The settings of the language model, under config.json's keys."""
        return self._contents.config

    @property
    def vocabulary(self) -> list[Token]:
        """All tokens, in order of their ids."""
        return self._contents.vocabulary

    @cached_property
    def names(self) -> Collection[str]:
        """Names of all tensors."""
        with self._timed():
            return self._contents.tensors.names

    def entry(self, name: str) -> TensorInfo:
        """What a tensor is. Raises CheckpointError when there is none of that name."""
        if name not in self.names:
            raise CheckpointError(f"{self.model}: there is no tensor '{name}' in the weights")
        return self._contents.tensors.entry(name)

    def read(self, names: Iterable[str]) -> dict[str, Tensor]:
        """Whole tensors; neighbours in a file share one range."""
        wanted = list(dict.fromkeys(names))
        for name in wanted:
            self.entry(name)
        with self._timed():
            return self._contents.tensors.read(wanted)

    def read_rows(self, name: str, rows: Sequence[int]) -> Tensor:
        """Some indices of the first axis, (len(rows), ...), in the order asked for.

        They are rows of a matrix, or experts of a stack of them.

        Raises:
            CheckpointError: a row is outside the matrix (a token id beyond the embedding).
        """
        entry = self.entry(name)
        size = entry.shape[0] if entry.shape else 0
        if rows and not 0 <= min(rows) <= max(rows) < size:
            raise CheckpointError(
                f"{self.model}: the tokenizer has token ids up to {max(rows)}, but '{name}' in "
                f"{entry.file} has {size} rows; tokenizer and weights do not belong together"
            )
        with self._timed():
            return self._contents.tensors.read_rows(name, rows)

    def read_sample(self, name: str, lines: int) -> Tensor:
        """About `lines` rows or columns of a matrix, whichever its storage makes cheap."""
        self.entry(name)
        with self._timed():
            return self._contents.tensors.read_sample(name, lines)

    def estimate_bytes(self, blocks: int) -> int:
        """About how many bytes it takes to read some blocks and the vocabulary."""
        names = self.names
        count = len({match[1] for name in names if (match := _BLOCK.search(name))})
        total = 0
        for repository in self._repositories:
            weights = [
                size
                for file, size in repository.files.items()
                if file.endswith(WEIGHTS) and repository.chosen in (None, file)
            ]
            total += sum(weights) * blocks // max(count, blocks)
        return self.bytes_read + total

    @contextmanager
    def _timed(self) -> Iterator[None]:
        began = time.perf_counter()
        try:
            yield
        finally:
            self.seconds_reading += time.perf_counter() - began


def _identity(repository: Repository) -> str:
    path = Path(repository.model).expanduser()
    return f"{path.resolve() if path.exists() else repository.model}@{repository.revision}"


def open_checkpoint(model: str, base: str = "") -> Checkpoint:
    """Open a folder, a file or a Hub id. Reads nothing but the list of files.

    Args:
        model: what the user names.
        base: for an adapter, the model to apply it to instead of the one it names.
    """
    return Checkpoint(open_repository(model), base)
