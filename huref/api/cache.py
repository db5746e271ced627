"""Records of models that were measured before, so that comparing them again reads no weights.

A record is kept by what determines it: the files that were read (a commit, or the names, sizes
and modification times of a folder's files), the recipe but for its decoder, and the depth.
Records leak weights, so only their owner can read the folder: $HUREF_HOME/records, or
huref/records in the user's cache.
"""

import contextlib
import hashlib
import json
import re
from dataclasses import replace
from pathlib import Path

from huref.assets import user_cache
from huref.errors import HurefError, RecordError
from huref.invariants.extract import Depth
from huref.invariants.record import Record, load_record
from huref.loader.checkpoint import Checkpoint
from huref.loader.repository import LocalFolder, Repository
from huref.recipe import Recipe
from huref.version import __version__

VERSION = 4  # of what a record of one recipe holds; raised when its numbers change


def cache_folder() -> Path:
    """Where records are kept."""
    return user_cache() / "records"


def cache_path(checkpoint: Checkpoint, recipe: Recipe, depth: Depth) -> Path | None:
    """The file in which a checkpoint's record would be kept, or None where none can be.

    A Hub model whose commit is unknown is not kept.
    """
    sources = [_identify(repository) for repository in checkpoint.repositories]
    if any(source is None for source in sources):
        return None
    key = json.dumps([VERSION, __version__, sources, recipe.digest, depth])
    name = hashlib.sha256(key.encode()).hexdigest()[:32]
    return cache_folder() / f"{name}.safetensors"


def _identify(repository: Repository) -> list[object] | None:
    """What tells one state of a repository from every other."""
    if repository.revision is not None:
        known = re.fullmatch(r"[0-9a-f]{40}", repository.revision)
        name = getattr(repository, "canonical", repository.model)
        return [name, repository.revision, repository.chosen] if known else None
    if not isinstance(repository, LocalFolder):
        return None
    files = [
        [name, size, (repository.path / name).stat().st_mtime_ns]
        for name, size in sorted(repository.files.items())
    ]
    return [str(repository.path.resolve()), repository.chosen, files]


def recall(path: Path, model: str, decoder: str) -> Record | None:
    """The record that is kept in a file, under the name and for the decoder of now.

    One that is missing or damaged is as good as none: it is made again.
    """
    try:
        record = load_record(path)
    except (RecordError, OSError):
        return None
    return replace(record, model=model, recipe=replace(record.recipe, decoder=decoder))


def keep(path: Path, record: Record) -> None:
    """Keep a record; a full or read-only disk only means that it is made again."""
    if record.latent is None:
        return  # the published recipe's records cannot be saved
    with contextlib.suppress(OSError, HurefError):
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        record.save(path)
