"""Tensors by name in the files of a repository, read in byte ranges."""

import contextlib
import re
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor

from huref.errors import DOWNLOAD_AGAIN, CheckpointError, UnsupportedModelError, locating
from huref.loader.formats import gguf, safetensors, torch_legacy, torch_zip
from huref.loader.formats.ggml import dequantise
from huref.loader.formats.pickled_tensors import state_dict
from huref.loader.formats.torch_index import locate
from huref.loader.ranges import PARALLEL_READS, ByteSource, Spans, read_spans
from huref.loader.repository import Repository
from huref.loader.tensors import StoredTensor, view_as

Index = dict[str, StoredTensor]
MAGIC = 32  # bytes that tell a file's format
# A version, the length of a name, and the name.
_CTRANSLATE2 = re.compile(rb"[\x01-\x20]\0\0\0.\0[A-Za-z]{3,}", re.DOTALL)
LONGEST_EMPTY = 1 << 20  # rows or columns of a tensor without numbers


def read_index(source: ByteSource) -> Index:
    """Index a safetensors or torch file; only its header or pickle is read.

    Raises:
        CheckpointError: the file has another format, is inconsistent, or contains objects other
            than tensors.
    """
    head = _head(source)
    kind = gguf.OLDER.get(bytes(head[:4]))
    if kind is not None:
        raise UnsupportedModelError(
            f"it is a file of the {kind} format, which is older than GGUF",
            file=source.name,
            advice="take a GGUF or safetensors file of the model",
        )
    if bytes(head).lstrip()[:5].lower() in (b"<!doc", b"<html"):
        raise CheckpointError(
            "it is a web page, not a file of weights",
            file=source.name,
            advice="download the file itself, such as with 'hf download'",
        )
    if head[:4] == gguf.MAGIC:
        raise CheckpointError(
            "it is a GGUF file, whatever its name says",
            file=source.name,
            advice="give that file itself as the model",
        )
    if _is_safetensors(source.name, bytes(head)):
        return safetensors.read_header(source, head)
    if head[:4] == torch_zip.MAGIC:
        described, storages = torch_zip.read_contents(source)
    elif torch_legacy.is_legacy(head):
        described, storages = torch_legacy.read_contents(source)
    elif _CTRANSLATE2.match(bytes(head)):
        raise UnsupportedModelError(
            "it is a model of CTranslate2",
            file=source.name,
            advice="give the model that it was converted from",
        )
    else:
        raise CheckpointError("it is not a torch file", file=source.name, advice=DOWNLOAD_AGAIN)
    return locate(state_dict(described, source.name), storages, source.name)


def _head(source: ByteSource) -> bytearray:
    """A file's first bytes; of what its name calls safetensors most headers, in one request."""
    is_named = source.name.lower().endswith(".safetensors")
    return source.read(0, min(source.size, safetensors.FIRST_READ if is_named else MAGIC))


def _is_safetensors(name: str, head: bytes) -> bool:
    """Whether a file is a safetensors file, by its first bytes and else by its name."""
    is_torch = head[:4] == torch_zip.MAGIC or torch_legacy.is_legacy(head)
    return not is_torch and (name.lower().endswith(".safetensors") or head[8:9] == b"{")


class StoredTensors:
    """A TensorStore over the files of a repository.

    Args:
        repository: the repository.
        files: the files whose tensors are read, unless `file_of` is given.
        file_of: the file of each tensor, as a sharded checkpoint's index lists them.
        read_index: indexes one file.
    """

    def __init__(
        self,
        repository: Repository,
        files: Collection[str] = (),
        file_of: Mapping[str, str] | None = None,
        read_index: Callable[[ByteSource], Index] = read_index,
    ):
        self.repository = repository
        self._read_index = read_index
        self._indexes: dict[str, Index] = {}
        self._checked: dict[str, set[tuple[int, int]]] = defaultdict(set)  # see _read_spans
        self._file_of = dict(file_of) if file_of is not None else self._scan(files)

    def read_headers(self, files: Collection[str]) -> None:
        """Index some files, on the Hub side by side. What is wrong with one is said on its use.

        Raises:
            NetworkError: the Hub does not answer.
        """

        def index(file: str) -> None:
            with contextlib.suppress(CheckpointError):
                self._index(file)

        if self.repository.remote and len(files) > 1:
            with ThreadPoolExecutor(PARALLEL_READS) as pool:
                list(pool.map(index, files))

    def names_in(self, file: str) -> Collection[str]:
        """Names of the tensors in one file. Raises CheckpointError when it has no such index."""
        return self._index(file).keys()

    def _scan(self, files: Collection[str]) -> dict[str, str]:
        self.read_headers(files)
        file_of: dict[str, str] = {}
        for file in files:
            for name in self.names_in(file):
                if name in file_of:
                    raise CheckpointError(
                        f"it is in both {file_of[name]} and {file}",
                        model=self.repository.model,
                        tensor=name,
                        advice="move the file away that does not belong to the model",
                    )
                file_of[name] = file
        return file_of

    def _index(self, file: str) -> Index:
        if file not in self._indexes:
            with locating(model=self.repository.model, file=file):
                source = self.repository.open(file, cache=True)
                self._indexes[file] = self._read_index(source)
        return self._indexes[file]

    def take_places(self, file_of: Mapping[str, str]) -> None:
        """Read each tensor from the file that is given for it."""
        self._file_of = dict(file_of)

    @property
    def files(self) -> list[str]:
        """The files that hold the tensors, sorted."""
        return sorted(set(self._file_of.values()))

    @property
    def format(self) -> str:
        """The first file's format: "safetensors" or "PyTorch".

        Raises:
            CheckpointError: no file has a tensor.
        """
        if not self.files:
            raise CheckpointError("its files hold no tensors", model=self.repository.model)
        source = self.repository.open(self.files[0], cache=True)
        # Of a file on the Hub the range that was read for its index is in the cache.
        read = _head(source) if self.repository.remote else source.read(0, min(source.size, MAGIC))
        return "safetensors" if _is_safetensors(source.name, bytes(read)) else "PyTorch"

    @property
    def names(self) -> Collection[str]:
        """Names of all tensors."""
        return self._file_of.keys()

    def entry(self, name: str) -> StoredTensor:
        """A tensor's file and byte range. Raises CheckpointError when there is no such tensor.

        An index may name the wrong one of its files, so the others are looked into as well.
        """
        file = self._file_of.get(name)
        entry = self._index(file).get(name) if file else None
        if entry is None and file:
            for other in sorted(set(self._file_of.values())):
                if (entry := self._index(other).get(name)) is not None:
                    self._file_of[name] = other
                    break
        if entry is None:
            raise CheckpointError(
                "it is missing from the weights",
                model=self.repository.model,
                file=file,
                tensor=name,
                advice="save the model again, with all its tensors" if file else None,
            )
        if not entry.nbytes and max(entry.shape, default=0) > LONGEST_EMPTY:
            raise CheckpointError(  # an order of its rows would need memory that no file justifies
                f"it holds no numbers, but has the shape {list(entry.shape)}",
                model=self.repository.model,
                file=entry.file,
                tensor=name,
                advice=DOWNLOAD_AGAIN,
            )
        return entry

    def read(self, names: Iterable[str]) -> dict[str, Tensor]:
        """See TensorStore."""
        by_file: dict[str, list[StoredTensor]] = defaultdict(list)
        for name in dict.fromkeys(names):
            entry = self._readable(name)
            by_file[entry.file].append(entry)
        tensors: dict[str, Tensor] = {}
        for file, entries in by_file.items():
            spans = self._read_spans(file, [(e.start, e.stop) for e in entries], entries)
            for entry in entries:
                with locating(model=self.repository.model, file=file, tensor=entry.name):
                    tensors[entry.name] = _decode(entry, spans.bytes_at(entry.start, entry.stop))
        return tensors

    def _readable(self, name: str) -> StoredTensor:
        """A tensor's entry. Raises CheckpointError when its numbers cannot be read."""
        entry = self.entry(name)
        if entry.unreadable:
            raise CheckpointError(
                f"it has the dtype {entry.unreadable!r}, which huref cannot read; supported: "
                f"{', '.join(safetensors.DTYPES)}",
                model=self.repository.model,
                file=entry.file,
                tensor=name,
            )
        return entry

    def read_rows(self, name: str, rows: Sequence[int]) -> Tensor:
        """See TensorStore."""
        entry = self._readable(name)
        size = entry.shape[0] if entry.shape else 0
        if rows and not 0 <= min(rows) <= max(rows) < size:
            raise CheckpointError(
                f"row {max(rows)} is out of range: it has {size} rows",
                model=self.repository.model,
                file=entry.file,
                tensor=name,
            )
        ranges = [r for r in map(entry.row_range, rows) if r is not None]
        if len(ranges) < len(rows):
            return self.read([name])[name][list(rows)]
        spans = self._read_spans(entry.file, ranges, [entry])
        data = bytearray().join(spans.bytes_at(start, stop) for start, stop in ranges)
        shape = (len(rows), *entry.shape[1:])
        if entry.ggml_type is None:
            return view_as(data, entry.dtype, shape)
        with locating(model=self.repository.model, file=entry.file, tensor=name):
            return dequantise(data, entry.ggml_type, shape)

    def read_sample(self, name: str, lines: int) -> Tensor:
        """The first rows, (lines, ...)."""
        shape = self.entry(name).shape
        return (
            self.read_rows(name, range(min(lines, shape[0]))) if shape else self.read([name])[name]
        )

    def _read_spans(
        self, file: str, ranges: list[tuple[int, int]], entries: list[StoredTensor]
    ) -> Spans:
        """Ranges of some tensors; the headers of their zip records are checked once."""
        headers = {entry.header for entry in entries if entry.header is not None}
        headers -= self._checked[file]
        heads = [(start, start + torch_zip.LOCAL_HEADER) for start, _ in headers]
        with locating(model=self.repository.model):
            spans = read_spans(self.repository.open(file), [*ranges, *heads])
            for header, head in zip(headers, heads, strict=True):
                torch_zip.require_header(spans.bytes_at(*head), header, file)
        self._checked[file] |= headers
        return spans


def _decode(entry: StoredTensor, data: memoryview) -> Tensor:
    if entry.ggml_type is not None:
        return dequantise(data, entry.ggml_type, entry.shape)
    if entry.stride is None:
        return view_as(data, entry.dtype, entry.shape)
    flat = view_as(data, entry.dtype, (len(data) // entry.dtype.itemsize,))
    return torch.as_strided(flat, entry.shape, entry.stride)
