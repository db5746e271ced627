"""Attributes and traits of a dog.

An attribute is one standard normal number. A trait, in (-1, 1), is tanh of one attribute or, for
the most visible traits (ears, coat colour, muzzle, markings, background), of the weighted mean of
several. Relatives therefore agree in most of the visible traits, and strangers in few.
"""

from collections.abc import Mapping
from statistics import NormalDist

import numpy as np

LATENT_SIZE = 512

# A group trait is tanh(GAIN * weighted mean) of this many attributes; a single one, of one.
GROUPS: Mapping[str, int] = {
    "ear_drop": 4,
    "ear_length": 3,
    "ear_width": 3,
    "ear_round": 2,
    "ear_set": 3,
    "ear_fold": 2,
    "ear_dark": 3,
    "coat_light": 4,
    "coat_warm": 4,
    "coat_red": 4,
    "coat_length": 4,
    "coat_curl": 3,
    "coat_wire": 2,
    "muzzle_width": 3,
    "muzzle_length": 3,
    "skull_width": 3,
    "jaw_width": 2,
    "blaze": 3,
    "muzzle_colour": 4,
    "cap": 3,
    "patch_left": 3,
    "patch_right": 3,
    "mark_light": 3,
    "mark_warm": 3,
    "tan_points": 3,
    "spots": 2,
    "merle": 3,
    "brindle": 3,
    "back_green": 4,
    "back_blue": 4,
    "back_light": 2,
    "mouth_open": 2,
    "beard": 2,
    "collar": 2,
    "collar_green": 2,
    "collar_blue": 2,
}
GAIN = 1.6

SPOTS = 14
SINGLES: tuple[str, ...] = (
    *(f"spot_{number}" for number in range(SPOTS)),
    "ear_left",
    "ear_right",
    "ear_inner",
    "ear_tip",
    "ear_fringe",
    "coat_dilute",
    "coat_tint",
    "coat_contrast",
    "undercoat",
    "body_light",
    "eye_size",
    "eye_spacing",
    "eye_light",
    "eye_blue",
    "eye_odd",
    "eye_lid",
    "eye_slant",
    "eye_rim",
    "pupil",
    "eye_sclera",
    "brow_height",
    "brow_length",
    "brow_light",
    "nose_light",
    "nose_pink",
    "nose_width",
    "nose_height",
    "muzzle_height",
    "smile",
    "mouth_width",
    "tongue_length",
    "tongue_width",
    "jowl",
    "chin",
    "cheek",
    "cheek_fluff",
    "topknot",
    "dome",
    "stop",
    "blaze_width",
    "mask_height",
    "cap_depth",
    "cap_part",
    "chest_white",
    "chest_width",
    "neck_width",
    "ticking",
    "freckles",
    "socket",
    "cheek_light",
    "beard_light",
    "moustache",
    "collar_width",
    "collar_light",
    "tag",
    "back_second_green",
    "back_second_blue",
    "back_gradient",
    "back_stripes",
    "back_dots",
    "back_rays",
    "light_side",
    "light_warm",
    "rim_light",
    "wrinkle",
    "ruff",
)


def _names() -> tuple[str, ...]:
    grouped = (f"{trait}.{part}" for trait, count in GROUPS.items() for part in range(count))
    return (*grouped, *SINGLES)


ATTRIBUTES: tuple[str, ...] = _names()


def _mixing() -> np.ndarray:
    """Unit-variance weights of the attributes (columns) in the group traits (rows)."""
    weights = np.zeros((len(GROUPS), len(ATTRIBUTES)))
    start = 0
    for row, count in enumerate(GROUPS.values()):
        part = 1.0 - 0.12 * np.arange(count)
        weights[row, start : start + count] = part / np.linalg.norm(part)
        start += count
    return weights


_MIXING = _mixing()


def traits_of(attributes: np.ndarray) -> dict[str, float]:
    """Traits of a dog by name, each in (-1, 1), from attributes (k,) of any float dtype."""
    values = np.asarray(attributes, dtype=np.float64)
    if values.shape != (len(ATTRIBUTES),):
        raise ValueError(f"expected {len(ATTRIBUTES)} attributes, got shape {values.shape}")
    grouped = np.tanh(GAIN * (_MIXING @ values))
    singles = np.tanh(GAIN * values[-len(SINGLES) :])
    traits = dict(zip(GROUPS, grouped.tolist(), strict=True))
    traits.update(zip(SINGLES, singles.tolist(), strict=True))
    return traits


def latent_basis(seed: int = 0) -> np.ndarray:
    """Orthonormal columns (512, k) in float64; a latent z has the attributes ``z @ basis``."""
    square = np.random.default_rng(seed).standard_normal((LATENT_SIZE, len(ATTRIBUTES)))
    basis, triangle = np.linalg.qr(square)
    # The signs of QR depend on the LAPACK build.
    return np.asarray(basis * np.sign(np.diag(triangle)))


def present(value: float, share: float) -> float:
    """Opacity in 0..1 of a feature that about this share of dogs shows, from its trait."""
    normal = np.arctanh(np.clip(value, -0.99999, 0.99999)) / GAIN
    return float(1.0 / (1.0 + np.exp(-(normal - NormalDist().inv_cdf(1.0 - share)) / 0.2)))


def ramp(value: float, middle: float = 0.0, width: float = 0.3) -> float:
    """A logistic step from 0 to 1 around middle."""
    return float(1.0 / (1.0 + np.exp(-(value - middle) / (0.5 * width))))


def between(low: float, high: float, value: float) -> float:
    """Map a trait in [-1, 1] linearly to [low, high]."""
    return low + (high - low) * 0.5 * (value + 1.0)
