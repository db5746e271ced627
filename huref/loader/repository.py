"""Repositories of a model's files: the interface, local folders, and readers of small files."""

import re
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

from huref.bounded_json import JsonError, loads_object
from huref.errors import DOWNLOAD_AGAIN, CheckpointError, ModelNotFoundError, locating
from huref.loader.confinement import require_readable
from huref.loader.ranges import ByteSource, LocalFile, Meter, is_plain_name

LFS_POINTER = b"version https://git-lfs"  # start of the placeholder for a file not fetched
LONGEST_POINTER = 1024  # bytes, by the Git LFS specification
MOST_FILES = 20_000  # in a folder; the largest models have a few hundred
MAX_TEXT = 256 * 1024 * 1024  # bytes; ten times the largest tokenizer.json known
_PART = re.compile(r"(.+)-\d{5}-of-\d{5}(\.\w+)")
# Files beside a single file of weights that are read together with it.
COMPANIONS = (
    "config.json", "params.json", "adapter_config.json", "tokenizer.json", "tokenizer.model",
    "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.json",
    "merges.txt", "vocab.txt", "qwen.tiktoken", "tiktoken.model", "tekken.json", "spiece.model",
    "hf_quant_config.json", "quantize_config.json", "quant_config.json",
)  # fmt: skip


class Repository(Protocol):
    """A model's files by their path inside the repository.

    Attributes:
        model: the model's name as the user gave it, without a revision.
        revision: the commit of a model from the Hub; None for local files.
        files: size in bytes by path.
        meter: counts the bytes that are read.
        chosen: the one file of weights that the user named; None for the whole model.
        remote: whether bytes come over a network.
    """

    remote: bool
    model: str
    revision: str | None
    files: dict[str, int]
    meter: Meter
    chosen: str | None

    def open(self, name: str, cache: bool = False) -> ByteSource:
        """A file as a byte source. Raises CheckpointError when there is no such file.

        With `cache`, bytes read over a network are cached on disk. It is meant for headers and
        small files.
        """
        ...


class LocalFolder:
    """A folder on disk, or one file in it. Links to files outside the folder are refused.

    Exception: a snapshot in the Hub's cache consists of links into the cache's blobs folder.
    """

    remote = False

    def __init__(
        self,
        path: Path,
        model: str,
        meter: Meter,
        revision: str | None = None,
        chosen: str | None = None,
    ):
        self.path = path
        self.model = model
        self.revision = revision
        self.meter = meter
        self.chosen = chosen
        with locating(model=model):
            require_readable(path)
            paths = _list_folder(path) if chosen is None else self._list_around(chosen)
        self.files = {
            str(file.relative_to(path)): file.stat().st_size for file in paths if file.is_file()
        }

    def _list_around(self, chosen: str) -> list[Path]:
        """The parts of the chosen file, and the companions that may lie beside it."""
        part = _PART.fullmatch(chosen)
        siblings = self.path.glob(f"*-of-*{part[2]}") if part else [self.path / chosen]
        matches = [s for s in siblings if s.name == chosen or _same_parts(s.name, chosen)]
        return [*sorted(matches), *(self.path / name for name in COMPANIONS)]

    def open(self, name: str, cache: bool = False) -> ByteSource:
        """See Repository."""
        with locating(model=self.model):
            return self._open(name)

    def _open(self, name: str) -> ByteSource:
        path = self.path / name
        if not is_plain_name(name) or name not in self.files:
            raise CheckpointError(f"there is no file '{name}' in the folder")
        roots = [self.path.resolve()]
        if self.path.parent.name == "snapshots":
            roots.append(self.path.parent.parent.resolve() / "blobs")
        is_chosen = name == self.chosen  # the user may name a link
        if not is_chosen and not any(path.resolve().is_relative_to(root) for root in roots):
            raise CheckpointError(
                "it is a link to a file outside the folder",
                file=name,
                advice="copy the file into the folder if you trust it",
            )
        require_readable(path)
        if self.files[name] < LONGEST_POINTER and path.read_bytes().startswith(LFS_POINTER):
            raise CheckpointError(
                "it is a Git LFS pointer, not the file itself",
                file=name,
                advice="run 'git lfs pull' in the folder, or download the file",
            )
        return LocalFile(path, name, self.meter)


def _list_folder(folder: Path) -> list[Path]:
    """All paths below a folder, sorted.

    Raises:
        ModelNotFoundError: there are too many, as in a home folder or on a whole disk.
    """
    paths = list(islice(folder.rglob("*"), MOST_FILES + 1))
    if len(paths) > MOST_FILES:
        raise ModelNotFoundError(
            f"the folder has more than {MOST_FILES:,} files, so it is not a single model's",
            advice="give the model's own folder",
        )
    return sorted(paths)


def _same_parts(name: str, other: str) -> bool:
    """Whether two names are parts of one split file."""
    a, b = _PART.fullmatch(name), _PART.fullmatch(other)
    return bool(a and b and a.groups() == b.groups())


def part_names(name: str, files: dict[str, int]) -> list[str]:
    """The names of all parts of a split file, in order; just `name` for a file in one piece."""
    return sorted(file for file in files if file == name or _same_parts(file, name))


def read_text(repository: Repository, name: str) -> bytes:
    """The bytes of a small file, such as a configuration or a tokenizer.

    Raises:
        CheckpointError: it is missing, or larger than MAX_TEXT.
    """
    with locating(model=repository.model):
        source = repository.open(name, cache=True)
        if source.size > MAX_TEXT:
            raise CheckpointError(
                f"it has {source.size} bytes, more than the {MAX_TEXT} that huref reads of such "
                "a file",
                file=name,
            )
        return bytes(source.read(0, source.size))


def read_json(repository: Repository, name: str) -> dict[str, Any]:
    """The JSON object in a file. Raises CheckpointError when the file holds anything else."""
    text = read_text(repository, name)
    try:
        return loads_object(text, constants=True)  # Python writes infinite limits as Infinity
    except JsonError as error:
        raise CheckpointError(
            f"it is not valid JSON ({error})",
            model=repository.model,
            file=name,
            advice=DOWNLOAD_AGAIN,
        ) from error
