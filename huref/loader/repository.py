"""Where a model's files lie: a local folder, or one commit of a Hub repository."""

import json
import re
from pathlib import Path
from typing import Any, Protocol

from huref.errors import CheckpointError, ModelNotFoundError
from huref.loader.ranges import ByteSource, LocalFile, Meter, is_plain_name

MAX_TEXT = 256 * 1024 * 1024  # bytes; the largest tokenizer.json known is a tenth of this
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?(@[\w./-]+)?")


class Repository(Protocol):
    """A flat view of a model's files."""

    model: str
    revision: str | None
    files: dict[str, int]  # path inside the repository -> size in bytes
    meter: Meter

    def open(self, name: str) -> ByteSource:
        """One file as a byte source. Raises CheckpointError when it is not there."""
        ...


class LocalFolder:
    """A folder on disk. Links that lead outside it are refused.

    One exception: the Hub's cache keeps a snapshot as links into its own blobs folder.
    """

    def __init__(self, path: Path, model: str, revision: str | None = None):
        self.path = path
        self.model = model
        self.revision = revision
        self.meter = Meter()
        self.files = {
            str(file.relative_to(path)): file.stat().st_size
            for file in sorted(path.rglob("*"))
            if file.is_file()
        }

    def open(self, name: str) -> ByteSource:
        """See Repository."""
        path = self.path / name
        if not is_plain_name(name) or name not in self.files:
            raise CheckpointError(f"{self.model}: there is no file '{name}' in the folder")
        roots = [self.path.resolve()]
        if self.path.parent.name == "snapshots":
            roots.append(self.path.parent.parent.resolve() / "blobs")
        if not any(path.resolve().is_relative_to(root) for root in roots):
            raise CheckpointError(
                f"{self.model}: '{name}' is a link that leads out of the folder; "
                "copy the file there if you trust it"
            )
        return LocalFile(path, name, self.meter)


def read_text(repository: Repository, name: str) -> bytes:
    """A whole small file, such as a configuration or a tokenizer."""
    source = repository.open(name)
    if source.size > MAX_TEXT:
        raise CheckpointError(f"{source.name}: {source.size} bytes are too many for such a file")
    return bytes(source.read(0, source.size))


def read_json(repository: Repository, name: str) -> dict[str, Any]:
    """A JSON object from the repository. Raises CheckpointError when it is not one."""
    try:
        value = json.loads(read_text(repository, name))
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{repository.model}: '{name}' is not valid JSON") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{repository.model}: '{name}' does not hold a JSON object")
    return value


def open_repository(model: str) -> Repository:
    """The repository behind a folder's path or a Hub id (`org/name`, optional `@revision`).

    Raises:
        ModelNotFoundError: neither a folder nor a name that the Hub could know.
    """
    path = Path(model).expanduser()
    if path.is_dir():
        return LocalFolder(path, model)
    if path.exists() or not _HUB_ID.fullmatch(model):
        raise ModelNotFoundError(
            f"'{model}' is neither a folder nor a Hub id; give a folder with a model's files, "
            "or org/name, or org/name@revision"
        )
    # The Hub's client takes half a second to import; a local model does not need it.
    from huref.loader.hub import open_hub_repository

    return open_hub_repository(model)
