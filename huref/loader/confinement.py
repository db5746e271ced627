"""Keeps a process from reading models outside some folders, for a page that others may fill in.

An adapter may name any folder as its base and a folder may hold links, so that the names that are
asked for do not say which files are read. `confine` holds for the rest of the process.
"""

import os
from collections.abc import Iterable
from pathlib import Path

from huref.errors import AccessError

_folders: tuple[Path, ...] | None = None


def confine(folders: Iterable[Path]) -> None:
    """Refuse files outside these folders from now on. Calls add up: a file must fit all of them.

    Raises:
        OSError: a folder does not exist.
    """
    global _folders
    wanted = tuple(folder.resolve(strict=True) for folder in folders)
    if _folders is None:
        _folders = wanted
    else:
        _folders = tuple(one for one in wanted if _is_within(one, _folders))


def require_readable(path: Path) -> None:
    """Check that a file or folder of a model lies where this process may read, links followed.

    Raises:
        AccessError: it does not. The message does not say whether it exists.
    """
    if _folders is not None and not _is_within(path, _folders):
        raise AccessError(
            "it is outside the folders that may be read here",
            file=path.name,
            advice="copy it into one of them, or name another folder at start",
        )


def _is_within(path: Path, folders: Iterable[Path]) -> bool:
    # Path.resolve raises at a ring of links before Python 3.13, and not as OSError.
    place = Path(os.path.realpath(path))
    return any(place.is_relative_to(folder) for folder in folders)
