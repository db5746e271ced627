"""Attributes and traits of a dog.

An attribute is one standard normal number, the projection of a latent on one direction. A trait, in
(-1, 1), is a smooth, nearly linear function of one attribute. Nothing in a drawing has a threshold:
docs/maths.md, "The response of a drawing", derives that no other response lets relatives resemble
each other more while strangers differ as much.
"""

import math
from statistics import NormalDist

import numpy as np

LATENT_SIZE = 512

# The trait of an attribute u is erf(GAIN * u / sqrt(2)): for a gain of 1 it is uniform in (-1, 1),
# and a little more often near the ends for this one.
GAIN = 1.2

# Standard deviations of an attribute between nothing of a feature and all of it.
REACH = 2.0
_CORNER = 0.1  # part of a step in which it accelerates, and in which it slows down

SPOTS = 10
ATTRIBUTES: tuple[str, ...] = (
    "ear_drop",
    "ear_length",
    "ear_width",
    "ear_round",
    "ear_set",
    "ear_fold",
    "ear_dark",
    "ear_mark",
    "coat_light",
    "coat_warm",
    "coat_red",
    "coat_length",
    "coat_curl",
    "coat_wire",
    "muzzle_width",
    "muzzle_length",
    "skull_width",
    "jaw_width",
    "blaze",
    "muzzle_colour",
    "cap",
    "patch_left",
    "patch_right",
    "mark_light",
    "mark_warm",
    "tan_points",
    "spots",
    "merle",
    "brindle",
    "back_green",
    "back_blue",
    "back_light",
    "mouth_open",
    "beard",
    "collar_light",
    "collar_green",
    "collar_blue",
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
    "body_mark",
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
    "mask_height",
    "cap_part",
    "chest_white",
    "neck_width",
    "ticking",
    "freckles",
    "socket",
    "cheek_light",
    "beard_light",
    "moustache",
    "collar_width",
    "tag",
    "back_down_light",
    "back_down_green",
    "back_down_blue",
    "back_across_light",
    "back_across_green",
    "back_across_blue",
    "back_corner_light",
    "back_corner_green",
    "back_corner_blue",
    "back_stripes",
    "back_dots",
    "back_rays",
    "light_side",
    "light_warm",
    "rim_light",
    "wrinkle",
    "ruff",
)


def traits_of(attributes: np.ndarray) -> dict[str, float]:
    """Traits of a dog by name, each in (-1, 1), from attributes (k,) of any float dtype."""
    values = np.asarray(attributes, dtype=np.float64)
    if values.shape != (len(ATTRIBUTES),):
        raise ValueError(f"expected {len(ATTRIBUTES)} attributes, got shape {values.shape}")
    found = (math.erf(GAIN * math.sqrt(0.5) * value) for value in values.tolist())
    return dict(zip(ATTRIBUTES, found, strict=True))


def latent_basis(seed: int = 0) -> np.ndarray:
    """Orthonormal columns (512, k) in float64; a latent z has the attributes ``z @ basis``.

    Every attribute depends on all 512 coordinates of z.
    """
    square = np.random.default_rng(seed).standard_normal((LATENT_SIZE, len(ATTRIBUTES)))
    basis, triangle = np.linalg.qr(square)
    # The signs of QR depend on the LAPACK build.
    return np.asarray(basis * np.sign(np.diag(triangle)))


def normal(value: float) -> float:
    """The attribute of a trait, a standard normal number."""
    return NormalDist().inv_cdf(0.5 + 0.5 * min(max(value, -1 + 1e-9), 1 - 1e-9)) / GAIN


def step(x: float) -> float:
    """From 0 up to x = 0 to 1 from x = 1, linearly but for the corners: a slope of at most 1.11."""
    slope = 1.0 / (1.0 - _CORNER)
    if x <= 0.0 or x >= 1.0:
        return float(x > 0.0)
    if x < _CORNER:
        return slope * x**2 / (2 * _CORNER)
    if x > 1.0 - _CORNER:
        return 1.0 - slope * (1.0 - x) ** 2 / (2 * _CORNER)
    return slope * (x - 0.5 * _CORNER)


def grown(attribute: float, share: float) -> float:
    """Amount in 0..1 of a feature that about this share of dogs shows, from its attribute.

    It is 0 up to the quantile 1 - share and 1 from REACH standard deviations above it. Between
    them it grows linearly, apart from rounded corners. Shares below 0.4 would make the growth
    steeper than three times its mean over the attributes -2 to 2.
    """
    return step((attribute - NormalDist().inv_cdf(1.0 - share)) / REACH)


def present(value: float, share: float) -> float:
    """Amount in 0..1 of a feature that about this share of dogs shows, from its trait."""
    return grown(normal(value), share)


def extent(amount: float, low: float, high: float) -> float:
    """Radius of an area that grows linearly with its amount: low at 0, high at 1.

    A low below zero lets the soft or rough edge of an area vanish too.
    """
    return low + (high - low) * math.sqrt(amount)


def opaque(amount: float) -> float:
    """Opacity of a thing that grows from nothing: it is soon opaque, while it is still small."""
    return min(1.0, 4.0 * amount)


def blend(trait: float) -> float:
    """The weight of the second of two ends that a trait blends, 0.04 to 0.96.

    It is linear. A trait saturates already, and a logistic step of it is nearly three times as
    steep in its middle as on average.
    """
    return between(0.04, 0.96, trait)


def ramp(value: float, middle: float = 0.0, width: float = 0.7) -> float:
    """A logistic step from 0 to 1 around middle."""
    return float(1.0 / (1.0 + np.exp(-(value - middle) / (0.5 * width))))


def between(low: float, high: float, value: float) -> float:
    """Map a trait in [-1, 1] linearly to [low, high]."""
    return low + (high - low) * 0.5 * (value + 1.0)
