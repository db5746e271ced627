"""In which precision a server's logits were rounded, read off the numbers themselves."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

Matrix = NDArray[np.float64]

_MANTISSA = {"bfloat16": 7, "float16": 10, "float32": 23}  # stored bits
_SHARE = 0.9  # of the values must lie on a grid
_ROWS, _COLUMNS = 3, 48  # enough to tell, whatever the size of the measurement
_LOG32 = 3e-6  # nat; float32 error of a log-probability near -10
_SMALLEST, _LARGEST = 2.0**-6, 64.0  # range in which the largest logit of a row is looked for


@dataclass(frozen=True)
class Precision:
    """How outputs were rounded.

    Attributes:
        name: "bfloat16", "float16", "steps of 0.001", "float32" or "float64".
        noise: standard deviation (nat) of the rounding error of one value.
    """

    name: str
    noise: float

    @property
    def coarse(self) -> bool:
        """Whether small singular values drown in it."""
        return self.noise > 1e-5


def detect_precision(values: Matrix) -> Precision:
    """The precision of log-probabilities or logits (prompts, tokens), as they were served.

    A log-probability is a logit minus a constant of its row. For 16-bit logits there is a
    constant that puts every logit of the row on the 16-bit grid (y0mingzhang's search for
    log Z); the grid has so few candidates for the row's largest logit that all are tried.
    """
    rows = values[:_ROWS]
    for digits in range(1, 6):
        scaled = rows * 10.0**digits
        if np.abs(scaled - np.rint(scaled)).max() < 1e-6 * 10.0**digits:
            return Precision(f"steps of {10.0**-digits:g}", 10.0**-digits / np.sqrt(12))
    for name, kind in (("bfloat16", torch.bfloat16), ("float16", torch.float16)):
        if np.array_equal(_round_to(rows, kind), rows):
            return Precision(name, _rounding_error(values, name))
    for name, kind in (("bfloat16", torch.bfloat16), ("float16", torch.float16)):
        shifts = [_find_shift(row, kind, _MANTISSA[name]) for row in rows]
        known = [shift for shift in shifts if shift is not None]
        if len(known) > len(rows) / 2:
            logits = rows[[s is not None for s in shifts]] + np.array(known)[:, None]
            return Precision(name, _rounding_error(logits, name))
    is_single = np.array_equal(_round_to(rows, torch.float32), rows)
    return Precision("float32" if is_single else "float64", 1e-6 if is_single else 1e-7)


def _round_to(values: Matrix, kind: torch.dtype) -> Matrix:
    rounded: Matrix = torch.from_numpy(np.ascontiguousarray(values)).to(kind).double().numpy()
    return rounded


def _rounding_error(logits: Matrix, name: str) -> float:
    """Root mean square of a uniform error of one unit in the last place."""
    magnitude = np.maximum(np.abs(logits), 2.0**-14)
    spacing = 2.0 ** (np.floor(np.log2(magnitude)) - _MANTISSA[name])
    return float(np.sqrt((spacing**2).mean() / 12))


def _find_shift(row: Matrix, kind: torch.dtype, mantissa: int) -> float | None:
    """The constant that puts a row (tokens,) on a 16-bit grid, or None."""
    top = float(row.max())
    # From both ends of the row: a shift that brings some values nearer to zero, where any grid is
    # finer, takes others farther away.
    places = np.linspace(0, len(row) - 1, min(_COLUMNS, len(row))).astype(int)
    others = np.sort(row)[places] - top
    octaves = np.arange(int(np.log2(_SMALLEST)), int(np.log2(_LARGEST)))
    steps = 1 + np.arange(2**mantissa) / 2**mantissa
    candidates = np.outer(2.0**octaves, steps).ravel()
    candidates = np.concatenate([candidates, -candidates])
    logits = candidates[:, None] + others[None, :]
    off = np.abs(_round_to(logits, kind) - logits)
    spacing = 2.0 ** (np.floor(np.log2(np.maximum(np.abs(logits), 2.0**-14))) - mantissa)
    # Only values whose grid is coarse against the error of a float32 logarithm can testify.
    telling = spacing > 16 * _LOG32
    share = ((off < _LOG32) & telling).sum(axis=1) / np.maximum(telling.sum(axis=1), 1)
    share[telling.sum(axis=1) < 12] = 0.0
    if share.max() < _SHARE:
        return None
    # Of all grids that hold the values, the coarsest leaves least to chance.
    coarse = np.where(share >= share.max() - 0.02, np.log2(spacing).mean(axis=1), -np.inf)
    return float(candidates[int(np.argmax(coarse))]) - top
