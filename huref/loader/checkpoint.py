"""A checkpoint: a model's configuration, vocabulary and tensors, each read on demand."""

import re
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Any

from torch import Tensor

from huref.errors import CheckpointError, locating
from huref.files import as_path
from huref.loader.contents import Contents, describe
from huref.loader.look_around import explain_no_weights
from huref.loader.model_name import open_repository
from huref.loader.repository import Repository
from huref.loader.sources.adapters import AdapterModel, refuse_beside_model
from huref.loader.sources.gguf import GgufModel, find_gguf
from huref.loader.sources.hugging_face import HuggingFaceModel
from huref.loader.sources.meta import MetaModel
from huref.loader.tensors import TensorInfo, TensorStore
from huref.loader.vocabulary import Token
from huref.loader.vocabulary.encoder import TextEncoder
from huref.loader.weight_files import has_weights

WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".gguf")
# First bytes of files of weights, whatever they are called: GGUF, torch's zip files, GGML.
WEIGHT_MAGICS = (b"GGUF", b"PK\x03\x04", b"lmgg", b"fmgg", b"tjgg", b"algg")
LONGEST_CHAIN = 8  # adapters whose base is an adapter
_BLOCK = re.compile(r"(?:^|\.)(\d+)\.")


class Checkpoint:
    """A model's files, read on demand.

    Tensors are plain matrices under their published names, whatever the file format, sharding,
    quantisation or adapter.

    Attributes:
        seconds_reading: wall-clock seconds spent on reading.
        observe: called with the name of each tensor that is read whole, and with "name[3]" for the
            fourth matrix of a stack.
    """

    def __init__(self, repository: Repository, base: str = ""):
        self.repository = repository
        self.seconds_reading = 0.0
        self.observe: Callable[[str, Tensor], None] | None = None
        self._repositories = [repository]
        self._contents = self._open(repository, base)

    def _open(self, repository: Repository, base: str = "") -> Contents:
        if repository.chosen is not None and (gguf := find_gguf(repository)):
            return GgufModel(repository, gguf)
        if AdapterModel.is_in(repository):
            return AdapterModel(repository, self._open_base, base)
        if base:
            raise CheckpointError(
                "it is not an adapter, and --base is for adapters only", model=repository.model
            )
        if MetaModel.is_in(repository):
            return MetaModel(repository)
        if gguf := find_gguf(repository):
            return GgufModel(repository, gguf)
        if "config.json" not in repository.files and not has_weights(repository):
            raise explain_no_weights(repository)
        refuse_beside_model(repository)
        return HuggingFaceModel(repository)

    def _open_base(self, name: str) -> Contents:
        """Open an adapter's base. Raises CheckpointError when the adapters form a loop."""
        with locating(model=name):
            repository = open_repository(name, self.repository.meter)
            seen = [_identity(r) for r in self._repositories]
            if _identity(repository) in seen or len(seen) > LONGEST_CHAIN:
                chain = " -> ".join([*(r.model for r in self._repositories), name])
                raise CheckpointError(f"the adapters form a loop: {chain}")
            self._repositories.append(repository)
            return self._open(repository)

    @property
    def model(self) -> str:
        """The model's name as the user gave it, without a revision."""
        return self.repository.model

    @property
    def repositories(self) -> tuple[Repository, ...]:
        """The model's files and, for an adapter, those of its bases."""
        _ = self.config  # opens an adapter's base
        return tuple(self._repositories)

    @property
    def revision(self) -> str | None:
        """The commit of a model from the Hub; None for local files."""
        return self.repository.revision

    @property
    def bytes_total(self) -> int:
        """Size of all files, those of an adapter's base included once it is open."""
        return sum(sum(repository.files.values()) for repository in self._repositories)

    @property
    def bytes_read(self) -> int:
        """Bytes read so far."""
        return self.repository.meter.bytes_read

    @property
    def config(self) -> dict[str, Any]:
        """The language model's settings, under the keys of config.json."""
        with locating(model=self.model):
            return self._contents.config

    @property
    def all_settings_run(self) -> bool:
        """Whether programs use every setting and tensor, as of GGUF files.

        A config.json may have some that its family does not use.
        """
        contents = getattr(self._contents, "base", None) or self._contents
        return bool(getattr(contents, "all_settings_run", False))

    def describe_files(self) -> dict[str, Any]:
        """What was read, as `files` in the JSON of `huref fingerprint` (docs/json.md)."""
        return describe(self._contents)

    @property
    def vocabulary(self) -> list[Token]:
        """All tokens: the vocabulary's by id, then those that a tokenizer.json adds."""
        with locating(model=self.model):
            return self._contents.vocabulary

    @property
    def encoder(self) -> TextEncoder | None:
        """The tokenizer that runs, or None where the files do not hold one that can."""
        with locating(model=self.model):
            return self._contents.encoder

    @cached_property
    def names(self) -> Collection[str]:
        """Names of all tensors."""
        with self._reading():
            return self._contents.tensors.names

    @cached_property
    def names_beside(self) -> list[str]:
        """Stored names of the tensors beside the language model: an encoder's, a projector's.

        Empty for forms that hold a language model alone, and for adapters.
        """
        with self._reading():
            beside = getattr(self._contents, "beside", None)
            return [] if beside is None else list(beside[1])

    def read_beside(self, name: str) -> Tensor:
        """One of the tensors of `names_beside`."""
        with self._reading():
            store: TensorStore = self._contents.beside[0]  # type: ignore[attr-defined]
            return store.read([name])[name]

    def entry(self, name: str) -> TensorInfo:
        """A tensor's file, dtype and shape. Raises CheckpointError when there is no such tensor."""
        if name not in self.names:
            raise CheckpointError("it is missing from the weights", model=self.model, tensor=name)
        with locating(model=self.model):
            return self._contents.tensors.entry(name)

    def read(self, names: Iterable[str]) -> dict[str, Tensor]:
        """Whole tensors by name; adjacent ones in a file are read together."""
        wanted = list(dict.fromkeys(names))
        for name in wanted:
            self.entry(name)
        with self._reading():
            found = self._contents.tensors.read(wanted)
        if self.observe is not None:
            for name, tensor in found.items():
                self.observe(name, tensor)
        return found

    def read_rows(self, name: str, rows: Sequence[int]) -> Tensor:
        """Indices `rows` of a tensor's first axis, (len(rows), ...), in the given order.

        The first axis holds a matrix's rows, or the experts of a stack.

        Raises:
            CheckpointError: a row is out of range, such as a token id beyond the embedding.
        """
        entry = self.entry(name)
        size = entry.shape[0] if entry.shape else 0
        if rows and not 0 <= min(rows) <= max(rows) < size:
            raise CheckpointError(
                f"it has {size} rows, but the tokenizer has token ids up to {max(rows)}; "
                "tokenizer and weights do not belong together",
                model=self.model,
                file=entry.file,
                tensor=name,
            )
        with self._reading():
            found = self._contents.tensors.read_rows(name, rows)
        if self.observe is not None and found.ndim > 2:
            for row, matrix in zip(rows, found, strict=True):
                self.observe(f"{name}[{row}]", matrix)
        return found

    def read_sample(self, name: str, lines: int) -> Tensor:
        """About `lines` rows or columns of a matrix, whichever its storage makes cheaper."""
        self.entry(name)
        with self._reading():
            return self._contents.tensors.read_sample(name, lines)

    def estimate_bytes(self, blocks: int) -> int:
        """Estimated total of bytes read once `blocks` blocks and the vocabulary are read."""
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
    def _reading(self) -> Iterator[None]:
        """Add to `seconds_reading`, and name the model in errors."""
        began = time.perf_counter()
        try:
            with locating(model=self.model):
                yield
        finally:
            self.seconds_reading += time.perf_counter() - began


def _identity(repository: Repository) -> str:
    path = as_path(repository.model)
    return f"{path.resolve() if path.exists() else repository.model}@{repository.revision}"


def open_checkpoint(model: str, base: str = "") -> Checkpoint:
    """Open a folder, a file or a Hub id. Only the list of files is read.

    Args:
        model: the model's name as the user gave it.
        base: for an adapter, the model to apply it to instead of its declared base.
    """
    with locating(model=model):
        return Checkpoint(open_repository(model), base)
