"""A checkpoint: configuration, vocabulary and tensors of a model, each read when asked for."""

import fnmatch
import time
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from huref.errors import CheckpointError
from huref.loader.ranges import coalesce, is_plain_name
from huref.loader.repository import Repository, open_repository, read_json, read_text
from huref.loader.safetensors import TensorEntry, read_header
from huref.loader.vocabulary import Token, parse_tokenizer_json

INDEX = "*.safetensors.index.json"
NOT_THE_MODEL = ("adapter_*", "consolidated*", "training_args*")
OTHER_WEIGHTS = ("*.bin", "*.pth", "*.pt", "*.gguf", "*.ckpt", "*.h5", "*.msgpack", "*.onnx")
PARALLEL_READS = 8


class Checkpoint:
    """The files behind a model. Nothing is read before it is asked for."""

    def __init__(self, repository: Repository):
        self.repository = repository
        self._headers: dict[str, dict[str, TensorEntry]] = {}
        self.seconds_reading = 0.0

    @property
    def model(self) -> str:
        """What the user called it."""
        return self.repository.model

    @property
    def revision(self) -> str | None:
        """The commit, for a model from the Hub."""
        return self.repository.revision

    @property
    def bytes_total(self) -> int:
        """Size of all files of the repository."""
        return sum(self.repository.files.values())

    @property
    def bytes_read(self) -> int:
        """Bytes read so far."""
        return self.repository.meter.bytes_read

    @cached_property
    def config(self) -> dict[str, Any]:
        """config.json."""
        if "config.json" not in self.repository.files:
            raise CheckpointError(f"{self.model}: there is no config.json, so no architecture")
        return read_json(self.repository, "config.json")

    @cached_property
    def vocabulary(self) -> list[Token]:
        """All tokens, in order of their ids."""
        if "tokenizer.json" not in self.repository.files:
            raise CheckpointError(
                f"{self.model}: there is no tokenizer.json; add the tokenizer's files of the model"
            )
        text = read_text(self.repository, "tokenizer.json")
        return parse_tokenizer_json(text, f"{self.model}: tokenizer.json")

    @cached_property
    def _file_of(self) -> dict[str, str]:
        """Tensor name -> file name, from the index or from all headers."""
        files = self.repository.files
        top = [name for name in files if "/" not in name]
        indexes = fnmatch.filter(top, INDEX)
        if indexes:
            return self._read_index(min(indexes, key=len))
        weights = [
            name
            for name in fnmatch.filter(top, "*.safetensors")
            if not any(fnmatch.fnmatch(name, pattern) for pattern in NOT_THE_MODEL)
        ]
        if "model.safetensors" in weights:
            weights = ["model.safetensors"]
        if not weights:
            raise self._no_weights(top)
        file_of: dict[str, str] = {}
        for file in weights:
            for name in self._header(file):
                if name in file_of:
                    raise CheckpointError(
                        f"{self.model}: tensor '{name}' is in both {file_of[name]} and {file}"
                    )
                file_of[name] = file
        return file_of

    def _read_index(self, index: str) -> dict[str, str]:
        weight_map = read_json(self.repository, index).get("weight_map")
        if not isinstance(weight_map, dict):
            raise CheckpointError(f"{self.model}: {index} has no weight_map")
        for file in set(map(str, weight_map.values())):
            if not is_plain_name(file):
                raise CheckpointError(f"{self.model}: {index} names '{file}', outside the folder")
            if file not in self.repository.files:
                raise CheckpointError(f"{self.model}: {index} names '{file}', which is missing")
        return {str(name): str(file) for name, file in weight_map.items()}

    def _no_weights(self, top: list[str]) -> CheckpointError:
        others = sorted({n for pattern in OTHER_WEIGHTS for n in fnmatch.filter(top, pattern)})
        if not others:
            return CheckpointError(f"{self.model}: there are no weights (*.safetensors)")
        return CheckpointError(
            f"{self.model}: there are no *.safetensors weights; huref cannot read "
            f"{', '.join(others[:3])} yet; convert the model to safetensors"
        )

    def _header(self, file: str) -> dict[str, TensorEntry]:
        if file not in self._headers:
            self._headers[file] = read_header(self.repository.open(file))
        return self._headers[file]

    @property
    def names(self) -> Iterable[str]:
        """Names of all tensors."""
        return self._file_of.keys()

    def entry(self, name: str) -> TensorEntry:
        """Where a tensor lies. Raises CheckpointError when there is none of that name."""
        file = self._file_of.get(name)
        entry = self._header(file).get(name) if file else None
        if entry is None:
            raise CheckpointError(f"{self.model}: there is no tensor '{name}' in the weights")
        return entry

    def read(self, names: Iterable[str]) -> dict[str, Tensor]:
        """Whole tensors in their stored dtype; neighbours in a file share one range."""
        by_file: dict[str, list[TensorEntry]] = defaultdict(list)
        for name in dict.fromkeys(names):
            entry = self.entry(name)
            by_file[entry.file].append(entry)
        tensors: dict[str, Tensor] = {}
        for file, entries in by_file.items():
            spans = self._read_spans(file, [(e.start, e.stop) for e in entries])
            for entry in entries:
                data = spans.bytes_at(entry.start, entry.stop)
                tensors[entry.name] = _to_tensor(data, entry.dtype, entry.shape)
        return tensors

    def read_rows(self, name: str, rows: Sequence[int]) -> Tensor:
        """Some rows of a matrix, (len(rows), columns), in the order asked for.

        Raises:
            CheckpointError: a row is outside the matrix (a token id beyond the embedding).
        """
        entry = self.entry(name)
        if len(entry.shape) != 2:
            raise CheckpointError(f"{entry.file}: tensor '{name}' is not a matrix: {entry.shape}")
        if rows and not 0 <= min(rows) <= max(rows) < entry.shape[0]:
            raise CheckpointError(
                f"{self.model}: the tokenizer has token ids up to {max(rows)}, but "
                f"'{name}' has {entry.shape[0]} rows; tokenizer and weights do not belong together"
            )
        length = entry.shape[1] * entry.dtype.itemsize
        ranges = [(entry.start + r * length, entry.start + (r + 1) * length) for r in rows]
        spans = self._read_spans(entry.file, ranges)
        data = bytearray().join(spans.bytes_at(start, stop) for start, stop in ranges)
        return _to_tensor(data, entry.dtype, (len(rows), entry.shape[1]))

    def _read_spans(self, file: str, ranges: list[tuple[int, int]]) -> "_Spans":
        began = time.perf_counter()
        source = self.repository.open(file)
        merged = coalesce(ranges, source.merge_gap)
        with ThreadPoolExecutor(PARALLEL_READS) as pool:
            parts = list(pool.map(lambda span: source.read(*span), merged))
        self.seconds_reading += time.perf_counter() - began
        return _Spans(merged, parts)


class _Spans:
    """The merged ranges of a file that were read, sorted by where they start."""

    def __init__(self, merged: list[tuple[int, int]], parts: list[bytearray]):
        self._starts = [start for start, _ in merged]
        self._parts = parts

    def bytes_at(self, start: int, stop: int) -> memoryview:
        """The bytes [start, stop) of the file; they lie inside one of the ranges read."""
        part = bisect_right(self._starts, start) - 1
        first = self._starts[part]
        return memoryview(self._parts[part])[start - first : stop - first]


def _to_tensor(data: bytearray | memoryview, dtype: torch.dtype, shape: Sequence[int]) -> Tensor:
    if not len(data):
        return torch.empty(tuple(shape), dtype=dtype)
    raw = torch.frombuffer(data, dtype=torch.uint8)
    if raw.data_ptr() % dtype.itemsize:  # nothing forces a file to align its tensors
        raw = raw.clone()
    return raw.view(dtype).view(tuple(shape))


def open_checkpoint(model: str) -> Checkpoint:
    """Open a folder or a Hub id. Reads nothing but the list of files."""
    return Checkpoint(open_repository(model))
