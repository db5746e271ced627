"""Where a model's files lie: a local folder or file, or one commit of a Hub repository."""

import json
import re
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

from huref.errors import CheckpointError, ModelNotFoundError
from huref.loader.ranges import ByteSource, LocalFile, Meter, is_plain_name

LFS_POINTER = b"version https://git-lfs"  # what git leaves where a large file was not fetched
LONGEST_POINTER = 1024  # bytes, by its specification
MOST_FILES = 20_000  # in a folder; the largest models have a few hundred
MAX_TEXT = 256 * 1024 * 1024  # bytes; the largest tokenizer.json known is a tenth of this
_PART = re.compile(r"(.+)-\d{5}-of-\d{5}(\.\w+)")
# Beside a single file of weights, the files that belong to it and not to its neighbours.
COMPANIONS = (
    "config.json", "params.json", "adapter_config.json", "tokenizer.json", "tokenizer.model",
    "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.json",
    "merges.txt", "vocab.txt", "qwen.tiktoken", "tekken.json", "spiece.model",
)  # fmt: skip


class Repository(Protocol):
    """A flat view of a model's files.

    `chosen` is the one file of weights that the user named, or None for the whole model.
    """

    model: str
    revision: str | None
    files: dict[str, int]  # path inside the repository -> size in bytes
    meter: Meter
    chosen: str | None

    def open(self, name: str, remember: bool = False) -> ByteSource:
        """One file as a byte source. Raises CheckpointError when it is not there.

        With `remember`, what is read is kept for the next time where reading is dear: for
        headers and small files.
        """
        ...


class LocalFolder:
    """A folder on disk, or one file in it. Links that lead outside are refused.

    One exception: the Hub's cache keeps a snapshot as links into its own blobs folder.
    """

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
        found = _everything_in(path) if chosen is None else self._around(chosen)
        self.files = {
            str(file.relative_to(path)): file.stat().st_size for file in found if file.is_file()
        }

    def _around(self, chosen: str) -> list[Path]:
        part = _PART.fullmatch(chosen)
        siblings = self.path.glob(f"*-of-*{part[2]}") if part else [self.path / chosen]
        matches = [s for s in siblings if s.name == chosen or _same_parts(s.name, chosen)]
        return [*sorted(matches), *(self.path / name for name in COMPANIONS)]

    def open(self, name: str, remember: bool = False) -> ByteSource:
        """See Repository."""
        path = self.path / name
        if not is_plain_name(name) or name not in self.files:
            raise CheckpointError(f"{self.model}: there is no file '{name}' in the folder")
        roots = [self.path.resolve()]
        if self.path.parent.name == "snapshots":
            roots.append(self.path.parent.parent.resolve() / "blobs")
        is_named_by_the_user = name == self.chosen
        if not is_named_by_the_user and not any(
            path.resolve().is_relative_to(root) for root in roots
        ):
            raise CheckpointError(
                f"{self.model}: '{name}' is a link that leads out of the folder; "
                "copy the file there if you trust it"
            )
        if self.files[name] < LONGEST_POINTER and path.read_bytes().startswith(LFS_POINTER):
            raise CheckpointError(
                f"{self.model}: '{name}' is a Git LFS pointer, not the file itself; run "
                "'git lfs pull' in the folder, or download it again"
            )
        return LocalFile(path, name, self.meter)


def _everything_in(folder: Path) -> list[Path]:
    """What is in a folder and its folders, sorted.

    Raises:
        ModelNotFoundError: too much, so it is a home folder or a whole disk.
    """
    found = list(islice(folder.rglob("*"), MOST_FILES + 1))
    if len(found) > MOST_FILES:
        raise ModelNotFoundError(
            f"'{folder}' holds more than {MOST_FILES:,} files, which no model does; give the "
            "model's own folder"
        )
    return sorted(found)


def _same_parts(name: str, other: str) -> bool:
    """Whether two names are parts of one split file."""
    mine, theirs = _PART.fullmatch(name), _PART.fullmatch(other)
    return bool(mine and theirs and mine.groups() == theirs.groups())


def part_names(name: str, files: dict[str, int]) -> list[str]:
    """All parts, in order, of the split file that a name belongs to; the name alone otherwise."""
    return sorted(file for file in files if file == name or _same_parts(file, name))


def read_text(repository: Repository, name: str) -> bytes:
    """A whole small file, such as a configuration or a tokenizer.

    Raises:
        CheckpointError: it is missing, or larger than any such file.
    """
    source = repository.open(name, remember=True)
    if source.size > MAX_TEXT:
        raise CheckpointError(
            f"{source.name}: {source.size} bytes are too many for such a file; download it again"
        )
    return bytes(source.read(0, source.size))


def read_json(repository: Repository, name: str) -> dict[str, Any]:
    """A JSON object from the repository. Raises CheckpointError when it is not one."""
    try:
        value = json.loads(read_text(repository, name))
    except (ValueError, RecursionError) as error:
        raise CheckpointError(
            f"{repository.model}: '{name}' is not valid JSON; download it again"
        ) from error
    if not isinstance(value, dict):
        raise CheckpointError(
            f"{repository.model}: '{name}' does not hold a JSON object; download it again"
        )
    return value
