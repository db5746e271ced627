"""Segments: the matrices of a folder registry, at most a few thousand models a file."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from huref.errors import RegistryError
from huref.files import replacing
from huref.registry.matrices import Matrices

NAMES = ("latents", "sketches", "vocabularies", "vocabulary")


class MissingSegmentError(RegistryError):
    """A segment that the table names is not there."""


def write_segment(path: Path, matrices: Matrices) -> None:
    """Write a segment so that it is there after a power cut once this returns."""
    data = save({name: np.ascontiguousarray(getattr(matrices, name)) for name in NAMES})
    with replacing(path) as temporary, temporary.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make a new name in a folder survive a power cut, where the system has a way to."""
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def open_segment(path: Path, rows: int) -> Callable[[bool], Matrices]:
    """Open a segment of so many rows; what is returned reads it, even after it was removed.

    It takes whether the sketches are wanted, too; else they are (n, 0, 0).

    Raises:
        MissingSegmentError: there is none.
        RegistryError: it is damaged (then, or when it is read).
    """
    damaged = f"{path}: damaged; restore the registry from a copy, or make it again"
    try:
        file: Any = safe_open(path, framework="np")  # closed when the reader is let go
    except FileNotFoundError as error:
        missing = f"{path}: missing; restore the registry from a copy, or make it again"
        raise MissingSegmentError(missing) from error
    except SafetensorError as error:
        raise RegistryError(f"{damaged} ({error})") from error

    def read(sketches: bool) -> Matrices:
        try:
            tensors = {
                name: file.get_tensor(name) for name in NAMES if sketches or name != "sketches"
            }
        except SafetensorError as error:
            raise RegistryError(f"{damaged} ({error})") from error
        tensors.setdefault("sketches", np.zeros((rows, 0, 0), np.int8))
        matrices = Matrices(**tensors)
        columns = (matrices.latents, matrices.sketches, matrices.vocabulary)
        if {len(column) for column in columns} != {rows}:
            raise RegistryError(f"{damaged} (it should have {rows} rows)")
        if not np.isfinite(matrices.latents).all() or (
            matrices.vocabulary.max() >= len(matrices.vocabularies)
        ):
            raise RegistryError(f"{damaged} (its numbers do not fit together)")
        return matrices

    return read
