"""Detect the precision to which a server rounds its logits, from the values alone."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

Matrix = NDArray[np.float64]

_MANTISSA = {"bfloat16": 7, "float16": 10, "float32": 23}  # stored bits
_MIN_ON_GRID = 0.9  # fraction of the values that must be on a grid
_ROWS, _COLUMNS = 3, 48  # of the measurement that are examined
_LOG32 = 3e-6  # nat; float32 error of a log-probability around -10
_SMALLEST, _LARGEST = 2.0**-6, 64.0  # range in which the largest logit of a row is searched


@dataclass(frozen=True)
class Precision:
    """The rounding of outputs.

    Attributes:
        name: in words, such as "bfloat16", "float32" or "steps of 0.001".
        noise: standard deviation (nat) of the rounding error of one value.
    """

    name: str
    noise: float

    @property
    def coarse(self) -> bool:
        """Whether the noise may hide the smallest singular values of the outputs."""
        return self.noise > 1e-5


def detect_precision(values: Matrix) -> Precision:
    """The precision of log-probabilities or logits (prompts, tokens), as served.

    A log-probability is a logit minus a constant of its row. For 16-bit logits some constant puts
    every logit of the row on the 16-bit grid (y0mingzhang's search for log Z). The grid has few
    values, so that each is tried as the row's largest logit.
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
    """Root mean square of an error that is uniform over one unit in the last place."""
    magnitude = np.maximum(np.abs(logits), 2.0**-14)
    spacing = 2.0 ** (np.floor(np.log2(magnitude)) - _MANTISSA[name])
    return float(np.sqrt((spacing**2).mean() / 12))


def _find_shift(row: Matrix, kind: torch.dtype, mantissa: int) -> float | None:
    """The constant that puts a row (tokens,) on a 16-bit grid, or None."""
    top = float(row.max())
    # Values from the whole range of the row: a shift that moves some of them towards zero, where
    # the grid is finer, moves others away from it.
    places = np.linspace(0, len(row) - 1, min(_COLUMNS, len(row))).astype(int)
    others = np.sort(row)[places] - top
    octaves = np.arange(int(np.log2(_SMALLEST)), int(np.log2(_LARGEST)))
    steps = 1 + np.arange(2**mantissa) / 2**mantissa
    candidates = np.outer(2.0**octaves, steps).ravel()
    candidates = np.concatenate([candidates, -candidates])
    logits = candidates[:, None] + others[None, :]
    off = np.abs(_round_to(logits, kind) - logits)
    spacing = 2.0 ** (np.floor(np.log2(np.maximum(np.abs(logits), 2.0**-14))) - mantissa)
    # Only values whose grid is coarse compared with the error of a float32 logarithm are used.
    usable = spacing > 16 * _LOG32
    on_grid = ((off < _LOG32) & usable).sum(axis=1) / np.maximum(usable.sum(axis=1), 1)
    on_grid[usable.sum(axis=1) < 12] = 0.0
    if on_grid.max() < _MIN_ON_GRID:
        return None
    # Of all shifts that fit, the one with the coarsest grid is least likely to fit by chance.
    coarse = np.where(on_grid >= on_grid.max() - 0.02, np.log2(spacing).mean(axis=1), -np.inf)
    return float(candidates[int(np.argmax(coarse))]) - top
