"""Where the local models of a registry are on this machine, so that `identify` can read them.

Entries have no paths. The paths are kept in the user's own cache, by the digest of the latent.
"""

import hashlib
import sqlite3
from contextlib import closing, suppress
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from huref.assets import user_cache
from huref.errors import HurefError
from huref.files import make_private

PATIENCE = 5.0  # seconds to wait for another writer


def remember_place(recipe: str, latent: NDArray[np.float32], model: str) -> None:
    """Remember the path of a measured model, if it is one; a full or read-only disk is ignored."""
    path = Path(model).expanduser()
    if not path.exists():
        return
    with suppress(OSError, sqlite3.Error, HurefError):
        _file().parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        make_private(_file())
        with closing(sqlite3.connect(_file(), timeout=PATIENCE)) as db, db:
            db.execute("CREATE TABLE IF NOT EXISTS places (key TEXT PRIMARY KEY, path TEXT)")
            row = (_key(recipe, latent), str(path.resolve()))
            db.execute("INSERT OR REPLACE INTO places VALUES (?, ?)", row)


def recall_place(recipe: str, latent: NDArray[np.float32]) -> Path | None:
    """The path of a measured model on this machine, or None where it is not known."""
    with suppress(OSError, sqlite3.Error):
        if _file().is_file():
            with closing(sqlite3.connect(_file(), timeout=PATIENCE)) as db:
                query = "SELECT path FROM places WHERE key = ?"
                row = db.execute(query, (_key(recipe, latent),)).fetchone()
            if row is not None and Path(row[0]).exists():
                return Path(row[0])
    return None


def _file() -> Path:
    return user_cache() / "places.sqlite"


def _key(recipe: str, latent: NDArray[np.float32]) -> str:
    return hashlib.sha256(recipe.encode() + latent.astype("<f4").tobytes()).hexdigest()
