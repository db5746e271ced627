"""The cache of records: a model that was measured before is compared without reading its weights.

The key of a record is what determines it: the files that were read (a commit, or the names, sizes
and times of a folder's files), the recipe without its decoder, and the depth. Records leak weights,
so only their owner can read the folder: $HUREF_HOME/records, or huref/records in the user's cache.
"""

import contextlib
import hashlib
import json
import re
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from huref.assets import user_cache
from huref.errors import HurefError
from huref.invariants.extract import Depth
from huref.invariants.record import Record, load_record
from huref.loader.checkpoint import Checkpoint
from huref.loader.repository import LocalFolder, Repository
from huref.recipe import Recipe
from huref.version import __version__

VERSION = 11  # of the contents of cached records; raised when their numbers change


def cache_folder() -> Path:
    """The folder of cached records."""
    return user_cache() / "records"


def cache_path(checkpoint: Checkpoint, recipe: Recipe, depth: Depth) -> Path | None:
    """The file of a checkpoint's record in the cache.

    None if the checkpoint cannot be identified, as a Hub model of unknown commit.
    """
    sources = [_identify(repository) for repository in checkpoint.repositories]
    if any(source is None for source in sources):
        return None
    key = json.dumps([VERSION, __version__, sources, recipe.digest, depth])
    name = hashlib.sha256(key.encode()).hexdigest()[:32]
    return cache_folder() / f"{name}.safetensors"


def _identify(repository: Repository) -> list[object] | None:
    """A key that differs between any two states of a repository, or None."""
    if repository.revision is not None:
        known = re.fullmatch(r"[0-9a-f]{40}", repository.revision)
        name = getattr(repository, "canonical", repository.model)
        return [name, repository.revision, repository.chosen] if known else None
    if not isinstance(repository, LocalFolder):
        return None
    files = [
        [name, size, *_times(repository.path / name)]
        for name, size in sorted(repository.files.items())
    ]
    return [str(repository.path.resolve()), repository.chosen, files]


def _times(path: Path) -> tuple[int, int]:
    """When a file was written, and when it was last put into its place or touched otherwise.

    Archives and copies keep the first time, which many of them set to a constant. The second one
    is the file system's own.
    """
    state = path.stat()
    return state.st_mtime_ns, state.st_ctime_ns


def recall(path: Path, model: str, decoder: str) -> Record | None:
    """The record in a cache file, with the given model name and decoder.

    None if the file is missing or damaged; the record is then made again.
    """
    try:
        record = load_record(path)
    except (HurefError, OSError):
        return None
    return replace(record, model=model, recipe=replace(record.recipe, decoder=decoder))


def keep(path: Path, record: Record) -> None:
    """Store a record. A full or read-only disk is ignored: the record is made again next time."""
    if record.latent is None:
        return  # records of the `paper` recipe have no latent and cannot be saved
    with contextlib.suppress(OSError, HurefError):
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        record.save(path)


_NAME = re.compile(r"[0-9a-f]{32}\.safetensors")  # of the files that this module writes


@dataclass(frozen=True)
class CachedRecord:
    """A file of the cache.

    Attributes:
        model: as the user called it when it was measured; "?" if the file is damaged.
        revision: commit of a Hub model, or None.
        recipe: digest of its recipe.
        size: bytes.
        written: date and time, UTC.
        file: name of the file in the cache.
    """

    model: str
    revision: str | None
    recipe: str
    size: int
    written: str
    file: str

    def to_json(self) -> dict[str, Any]:
        """One entry of `records` in `cache list --json`."""
        return asdict(self)


def _cached_files() -> list[Path]:
    folder = cache_folder()
    files = folder.iterdir() if folder.is_dir() else ()
    return sorted(f for f in files if _NAME.fullmatch(f.name) and not f.is_symlink())


def list_cached() -> list[CachedRecord]:
    """The records in the cache, by model."""
    found = []
    for path in _cached_files():
        state = path.stat()
        try:
            record = load_record(path)
            named = (record.model, record.revision, record.recipe.digest)
        except (HurefError, OSError):
            named = ("?", None, "?")
        written = datetime.fromtimestamp(state.st_mtime, UTC).strftime("%Y-%m-%d %H:%M")
        found.append(CachedRecord(*named, state.st_size, written, path.name))
    return sorted(found, key=lambda record: (record.model, record.written))


def purge_cache() -> tuple[int, int]:
    """Remove all records from the cache, and no other file.

    Returns:
        Their number and their bytes.
    """
    count = size = 0
    for path in _cached_files():
        size += path.stat().st_size
        path.unlink()
        count += 1
    return count, size
