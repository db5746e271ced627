"""The tensors that a model's files hold, by name, read in byte ranges."""

import fnmatch
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

import torch
from torch import Tensor

from huref.errors import CheckpointError
from huref.loader.formats import safetensors, torch_legacy, torch_zip
from huref.loader.formats.ggml import dequantise
from huref.loader.formats.tensor_views import state_dict
from huref.loader.formats.torch_files import locate
from huref.loader.ranges import ByteSource, Spans, is_plain_name, read_spans
from huref.loader.repository import Repository, part_names, read_json
from huref.loader.tensors import StoredTensor, view_as

Index = dict[str, StoredTensor]
INDEXES = ("*.safetensors.index.json", "*.bin.index.json")
# In order of preference; a repository often holds the same weights twice.
WEIGHTS = ("*.safetensors", "*.bin", "*.pt", "*.pth")
NOT_THE_MODEL = (
    "adapter_*", "consolidated*", "training_args*", "optimizer*", "scheduler*", "rng_state*",
)  # fmt: skip
UNREADABLE = ("*.ckpt", "*.h5", "*.msgpack", "*.onnx", "*.npz", "*.tflite")


def read_index(source: ByteSource) -> Index:
    """Index a safetensors or torch file by reading its header only.

    Raises:
        CheckpointError: it is neither, contradicts itself, or holds more than tensors.
    """
    if source.name.endswith(".safetensors"):
        return safetensors.read_header(source)
    head = source.read(0, min(source.size, 32))
    if head[:4] == torch_zip.MAGIC:
        described, storages = torch_zip.read_contents(source)
    elif torch_legacy.is_legacy(head):
        described, storages = torch_legacy.read_contents(source)
    else:
        raise CheckpointError(f"{source.name}: not a torch file; download it again")
    return locate(state_dict(described, source.name), storages, source.name)


class StoredTensors:
    """A store over files; see `huref.loader.tensors.TensorStore`."""

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
        self._file_of = dict(file_of) if file_of is not None else self._scan(files)

    def _scan(self, files: Collection[str]) -> dict[str, str]:
        file_of: dict[str, str] = {}
        for file in files:
            for name in self._index(file):
                if name in file_of:
                    raise CheckpointError(
                        f"{self.repository.model}: tensor '{name}' is in both {file_of[name]} "
                        f"and {file}"
                    )
                file_of[name] = file
        return file_of

    def _index(self, file: str) -> Index:
        if file not in self._indexes:
            self._indexes[file] = self._read_index(self.repository.open(file, remember=True))
        return self._indexes[file]

    @property
    def names(self) -> Collection[str]:
        """Names of all tensors."""
        return self._file_of.keys()

    def entry(self, name: str) -> StoredTensor:
        """Where a tensor lies. Raises CheckpointError when there is none of that name."""
        file = self._file_of.get(name)
        entry = self._index(file).get(name) if file else None
        if entry is None:
            where = file or self.repository.model
            raise CheckpointError(
                f"{where}: there is no tensor '{name}' in the weights; download the index and its "
                "files again"
            )
        return entry

    def read(self, names: Iterable[str]) -> dict[str, Tensor]:
        """Whole tensors in their stored dtype; neighbours in a file share one range."""
        by_file: dict[str, list[StoredTensor]] = defaultdict(list)
        for name in dict.fromkeys(names):
            entry = self.entry(name)
            by_file[entry.file].append(entry)
        tensors: dict[str, Tensor] = {}
        for file, entries in by_file.items():
            spans = self._read_spans(file, [(e.start, e.stop) for e in entries])
            for entry in entries:
                tensors[entry.name] = _decode(entry, spans.bytes_at(entry.start, entry.stop))
        return tensors

    def read_rows(self, name: str, rows: Sequence[int]) -> Tensor:
        """Some indices of the first axis, (len(rows), ...); see TensorStore."""
        entry = self.entry(name)
        size = entry.shape[0] if entry.shape else 0
        if rows and not 0 <= min(rows) <= max(rows) < size:
            raise CheckpointError(
                f"{entry.file}: row {max(rows)} of '{name}' was asked for, which has {size}"
            )
        ranges = [r for r in map(entry.row_range, rows) if r is not None]
        if len(ranges) < len(rows):
            return self.read([name])[name][list(rows)]
        spans = self._read_spans(entry.file, ranges)
        data = bytearray().join(spans.bytes_at(start, stop) for start, stop in ranges)
        shape = (len(rows), *entry.shape[1:])
        if entry.ggml_type is not None:
            return dequantise(data, entry.ggml_type, shape)
        return view_as(data, entry.dtype, shape)

    def read_sample(self, name: str, lines: int) -> Tensor:
        """The first rows, (lines, ...)."""
        shape = self.entry(name).shape
        return (
            self.read_rows(name, range(min(lines, shape[0]))) if shape else self.read([name])[name]
        )

    def _read_spans(self, file: str, ranges: list[tuple[int, int]]) -> Spans:
        return read_spans(self.repository.open(file), ranges)


def _decode(entry: StoredTensor, data: memoryview) -> Tensor:
    if entry.ggml_type is not None:
        return dequantise(data, entry.ggml_type, entry.shape)
    if entry.stride is None:
        return view_as(data, entry.dtype, entry.shape)
    flat = view_as(data, entry.dtype, (len(data) // entry.dtype.itemsize,))
    return torch.as_strided(flat, entry.shape, entry.stride)


def open_stored(repository: Repository) -> StoredTensors:
    """The weights of a Hugging Face repository, or of the one file that the user chose.

    Raises:
        CheckpointError: there are none, a shard is missing, or an index leads out of the folder.
    """
    if repository.chosen is not None:
        return StoredTensors(repository, part_names(repository.chosen, repository.files))
    top = [
        name
        for name in repository.files
        if "/" not in name and not any(fnmatch.fnmatch(name, p) for p in NOT_THE_MODEL)
    ]
    for index_pattern, pattern in zip(INDEXES, WEIGHTS, strict=False):
        indexes = fnmatch.filter(top, index_pattern)
        if indexes:
            index = min(indexes, key=len)
            return StoredTensors(repository, file_of=_read_weight_map(repository, index))
        weights = fnmatch.filter(top, pattern)
        if weights:
            return StoredTensors(repository, _without_duplicates(weights))
    for pattern in WEIGHTS[len(INDEXES) :]:
        if weights := fnmatch.filter(top, pattern):
            return StoredTensors(repository, weights)
    raise _no_weights(repository, top)


def _without_duplicates(weights: list[str]) -> list[str]:
    """One file with the whole model beats others beside it, such as another precision's."""
    for whole in ("model.safetensors", "pytorch_model.bin"):
        if whole in weights:
            return [whole]
    return weights


def _read_weight_map(repository: Repository, index: str) -> dict[str, str]:
    weight_map = read_json(repository, index).get("weight_map")
    if not isinstance(weight_map, dict):
        raise CheckpointError(f"{repository.model}: {index} has no weight_map; download it again")
    for file in set(map(str, weight_map.values())):
        if not is_plain_name(file):
            raise CheckpointError(f"{repository.model}: {index} names '{file}', outside the folder")
        if file not in repository.files:
            raise CheckpointError(
                f"{repository.model}: {index} names '{file}', which is missing; download it, too"
            )
    return {str(name): str(file) for name, file in weight_map.items()}


def _no_weights(repository: Repository, top: list[str]) -> CheckpointError:
    others = sorted({n for pattern in UNREADABLE for n in fnmatch.filter(top, pattern)})
    kinds = "*.safetensors, *.bin, *.pth or *.gguf"
    if not others:
        return CheckpointError(f"{repository.model}: there are no weights ({kinds})")
    return CheckpointError(
        f"{repository.model}: there are no weights ({kinds}); huref cannot read "
        f"{', '.join(others[:3])}; convert the model to safetensors"
    )
