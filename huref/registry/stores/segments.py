"""Segments: files with the matrices of a folder registry, at most 4096 models each."""

import os
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from huref.errors import RegistryError
from huref.files import replacing
from huref.registry.matrices import Matrices
from huref.registry.stores.catalogue import RESTORE

PER_ROW = ("latents", "sketches", "vocabulary")
NAMES = (*PER_ROW, "vocabularies")
# Axes and type of each array.
LAYOUT = {"latents": (2, "F32"), "sketches": (3, "U8"), "vocabulary": (1, "I64"),
          "vocabularies": (2, "U32")}  # fmt: skip


class MissingSegmentError(RegistryError):
    """A segment that the catalogue lists does not exist."""


def write_segment(path: Path, matrices: Matrices) -> None:
    """Write a segment. It survives a power failure once this returns."""
    data = save({name: np.ascontiguousarray(getattr(matrices, name)) for name in NAMES})
    with replacing(path) as temporary, temporary.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make new names in a folder survive a power failure, on systems that support it."""
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


class Segment:
    """An open segment; it can be read even after its file was removed.

    Args:
        path: its file.
        rows: how many the catalogue says it has.

    Raises:
        MissingSegmentError: there is no such file.
        RegistryError: it is damaged.
    """

    def __init__(self, path: Path, rows: int):
        self._path = path
        try:
            opened: Any = safe_open  # its methods have no annotations
            self._file = opened(path, framework="np")  # closed when it is garbage-collected
            slices = {name: self._file.get_slice(name) for name in NAMES}
            shapes = {name: slices[name].get_shape() for name in NAMES}
            if {name: (len(shapes[name]), slices[name].get_dtype()) for name in NAMES} != LAYOUT:
                raise self._damage("its arrays are not those of a segment")
            lengths = {shapes[name][0] for name in PER_ROW}
        except FileNotFoundError as error:
            raise MissingSegmentError("the file is missing", file=path, advice=RESTORE) from error
        except SafetensorError as error:
            raise self._damage(str(error)) from error
        if lengths != {rows}:
            raise self._damage(f"it should have {rows} rows")
        self.rows = rows

    def _damage(self, reason: str) -> RegistryError:
        return RegistryError(f"the file is damaged ({reason})", file=self._path, advice=RESTORE)

    def read(self, start: int = 0, stop: int | None = None, *, sketches: bool = True) -> Matrices:
        """The rows from `start` to `stop`; with `sketches` False those are (n, 0, 0).

        Raises:
            RegistryError: the file is damaged.
        """
        stop = self.rows if stop is None else min(stop, self.rows)
        try:
            wanted = [name for name in PER_ROW if sketches or name != "sketches"]
            tensors = {name: self._file.get_slice(name)[start:stop] for name in wanted}
            tensors["vocabularies"] = self._file.get_tensor("vocabularies")
        except SafetensorError as error:
            raise self._damage(str(error)) from error
        tensors.setdefault("sketches", np.zeros((stop - start, 0, 0), np.uint8))
        matrices = Matrices(**tensors)
        places = matrices.vocabulary
        if not np.isfinite(matrices.latents).all() or (
            places.size and not 0 <= places.min() <= places.max() < len(matrices.vocabularies)
        ):
            raise self._damage("its numbers do not fit together")
        return matrices
