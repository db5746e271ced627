"""Segments: the matrices of a folder registry, at most a few thousand models a file."""

import os
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from huref.errors import RegistryError
from huref.files import replacing
from huref.registry.matrices import Matrices

PER_ROW = ("latents", "sketches", "vocabulary")
NAMES = (*PER_ROW, "vocabularies")


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


class Segment:
    """An open segment of so many rows; it can be read even after its file was removed.

    Raises:
        MissingSegmentError: there is none.
        RegistryError: it is damaged (then, or when it is read).
    """

    def __init__(self, path: Path, rows: int):
        self._damaged = f"{path}: damaged; restore the registry from a copy, or make it again"
        try:
            opened: Any = safe_open  # its methods carry no types
            self._file = opened(path, framework="np")  # closed when it is let go
            lengths = {self._file.get_slice(name).get_shape()[0] for name in PER_ROW}
        except FileNotFoundError as error:
            missing = f"{path}: missing; restore the registry from a copy, or make it again"
            raise MissingSegmentError(missing) from error
        except SafetensorError as error:
            raise RegistryError(f"{self._damaged} ({error})") from error
        if lengths != {rows}:
            raise RegistryError(f"{self._damaged} (it should have {rows} rows)")
        self.rows = rows

    def read(self, start: int = 0, stop: int | None = None, *, sketches: bool = True) -> Matrices:
        """The rows from `start` to `stop`; without `sketches` these are (n, 0, 0).

        Raises:
            RegistryError: the file is damaged.
        """
        stop = self.rows if stop is None else min(stop, self.rows)
        try:
            wanted = [name for name in PER_ROW if sketches or name != "sketches"]
            tensors = {name: self._file.get_slice(name)[start:stop] for name in wanted}
            tensors["vocabularies"] = self._file.get_tensor("vocabularies")
        except SafetensorError as error:
            raise RegistryError(f"{self._damaged} ({error})") from error
        tensors.setdefault("sketches", np.zeros((stop - start, 0, 0), np.uint8))
        matrices = Matrices(**tensors)
        if not np.isfinite(matrices.latents).all() or (
            matrices.vocabulary.max() >= len(matrices.vocabularies)
        ):
            raise RegistryError(f"{self._damaged} (its numbers do not fit together)")
        return matrices
