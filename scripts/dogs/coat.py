"""The coat with its markings as float32 images, shape (size, size, 3), in 0..255 of sRGB."""

from statistics import NormalDist

import numpy as np

from scripts.dogs.attributes import SPOTS, between, blend, extent, grown, normal, present, ramp
from scripts.dogs.palette import BLACK, TAN, WHITE, Colour, Palette, mixed
from scripts.dogs.shapes import EYE_LINE, Build
from scripts.dogs.textures import Fields

_SPOT_PLACES = np.random.default_rng(21).permutation(
    np.array(
        [
            (33, 31),
            (50, 25),
            (67, 32),
            (25, 52),
            (76, 51),
            (41, 36),
            (60, 38),
            (30, 65),
            (70, 64),
            (50, 45),
        ],
        dtype=np.float64,
    )
)
_SPOT_SIZES = np.random.default_rng(22).uniform(4.2, 6.2, SPOTS)


def _step(field: np.ndarray, softness: float) -> np.ndarray:
    """A smooth step from 0 (field < 0) to 1; field and softness in percent of the frame."""
    return np.asarray(0.5 + 0.5 * np.tanh(field * np.float32(1 / softness)), dtype=np.float32)


def _above(height: np.ndarray, amount: float, most: float, softness: float) -> np.ndarray:
    """Mask of the places above the level that leaves `most` of a normal height at amount 1."""
    level = NormalDist().inv_cdf(1 - max(most * amount, 1e-4))
    return _step(height - np.float32(level), softness)


def fur_of(f: Fields, t: dict[str, float]) -> np.ndarray:
    """Relief of the coat, about [-1, 1]: fixed textures, weighted by the traits."""
    shaggy = blend(t["coat_length"])
    curly = present(t["coat_curl"], 0.5)
    wire = present(t["coat_wire"], 0.5) * (1 - curly)
    straight = 1 - curly
    fur = np.float32(0.30 * straight * (1 - shaggy)) * f.short
    fur += np.float32(0.62 * straight * shaggy) * f.long
    fur += np.float32(0.85 * curly) * f.curl
    fur += np.float32(0.5 * wire) * f.wire
    return fur * np.float32(between(0.65, 1.25, t["coat_contrast"]))


def _blend(image: np.ndarray, mask: np.ndarray, colour: Colour, opacity: float) -> None:
    weight = (mask * np.float32(opacity))[..., None]
    image += (colour.astype(np.float32) - image) * weight


class Painter:
    """An image onto which colours are blended through masks."""

    def __init__(self, colour: Colour, size: int) -> None:
        self.image = np.empty((size, size, 3), dtype=np.float32)
        self.image[:] = colour

    def cover(self, mask: np.ndarray, colour: Colour, opacity: float) -> None:
        """Blend colour in where mask (size, size) is 1; skipped at an invisible opacity."""
        if opacity > 0.001:
            _blend(self.image, mask, colour, opacity)

    def spot(
        self,
        f: Fields,
        edge: np.ndarray,
        place: np.ndarray,
        radius: float,
        colour: Colour,
        opacity: float,
    ) -> None:
        """Blend in a rough-edged spot; only the pixels around it are computed."""
        scale = self.image.shape[0] / 100
        left, top = (max(0, int((part - 12) * scale)) for part in place.tolist())
        right, bottom = (int((part + 12) * scale) for part in place.tolist())
        near = (slice(top, bottom), slice(left, right))
        reach = radius - np.hypot(f.x[near] - place[0], (f.y[near] - place[1]) * 0.9)
        _blend(self.image[near], _step(reach + 0.45 * edge[near], 0.9), colour, opacity)


def head_image(f: Fields, b: Build, p: Palette, t: dict[str, float], fur: np.ndarray) -> np.ndarray:
    """The head's coat with markings, fur and shading, (size, size, 3)."""
    dx = f.x - 50
    away = np.abs(dx)
    edge = f.rough * np.float32(1.6 + 1.2 * blend(t["coat_length"]))
    paint = Painter(p.coat, f.x.shape[0])
    under = mixed(p.coat, WHITE, 0.5)
    paint.cover(_step(f.y - 66 + 0.3 * away + edge, 6.0), under, 0.5 * present(t["undercoat"], 0.5))
    _pattern(paint, f, p, t)
    # The head is wider at the eyes than at its top, so the line slows down on its way.
    cap = present(t["cap"], 0.7)
    cap_line = np.float32(20.0 + 30.0 * cap * (1.15 - 0.15 * cap)) - 0.012 * away**2
    cap_line += 10 * np.exp(-((dx / 7) ** 2)) * np.float32(-t["cap_part"])
    paint.cover(_step(cap_line - f.y + edge, 1.6), p.mark, 0.95)
    for name, side in (("patch_left", -1), ("patch_right", 1)):
        reach = extent(present(t[name], 0.55), -2.0, 14.5) - np.hypot(
            (f.x - 50 - side * 17) / 1.0, (f.y - EYE_LINE + 1) / 1.2
        )
        paint.cover(_step(reach + edge, 1.4), p.mark, 0.95)
    _tan_points(paint, f, b, t, edge)
    many = normal(t["spots"])
    for number, (place, size) in enumerate(zip(_SPOT_PLACES, _SPOT_SIZES, strict=True)):
        amount = grown(0.75 * normal(t[f"spot_{number}"]) + 0.66 * many, 0.5)
        paint.spot(f, edge, place, extent(amount, -1.5, size), p.mark, 0.95)
    ruff = f.y - 80 + 0.35 * (away - b.jaw)
    low = extent(present(t["ruff"], 0.5), 10.0, 0.0)
    paint.cover(_step(ruff - low + edge, 1.6), WHITE, 0.92)
    _muzzle_and_blaze(paint, f, b, t, edge)
    tick = mixed(p.mark, BLACK, 0.3)
    ticks = present(t["ticking"], 0.5)
    paint.cover(_step(f.ticking - np.float32(extent(ticks, 1.25, 0.0)), 0.3), tick, 0.85)
    paint.cover(
        np.exp(-(((away - b.eye_gap) / 7) ** 2) - ((f.y - EYE_LINE) / 7) ** 2),
        BLACK,
        0.42 * present(t["socket"], 0.5),
    )
    return _lit(paint.image, _relief(f, b, t, fur), t)


def _pattern(paint: Painter, f: Fields, p: Palette, t: dict[str, float]) -> None:
    """Brindle stripes and merle patches, over head and body."""
    stripe = mixed(TAN, BLACK, ramp(p.lightness, 0.25, 0.3))
    paint.cover(_above(f.brindle, present(t["brindle"], 0.5), 0.42, 0.3), stripe, 0.82)
    blotch = mixed(WHITE * 0.72, p.coat * 0.38, ramp(p.lightness, 0.3, 0.3))
    paint.cover(_above(f.merle, present(t["merle"], 0.5), 0.5, 0.25), blotch, 0.9)


def _tan_points(paint: Painter, f: Fields, b: Build, t: dict[str, float], edge: np.ndarray) -> None:
    away = np.abs(f.x - 50)
    brow = np.hypot(away - b.eye_gap + 1.5, (f.y - EYE_LINE + 10.5) * 1.2) / 4.0
    cheek = np.hypot((away - 22) * 0.9, f.y - 63) / 8.0
    muzzle = np.hypot(away - b.muzzle * 0.75, (f.y - b.nose - 5) * 0.9) / 7.0
    reach = extent(present(t["tan_points"], 0.5), -0.2, 1.1)
    field = np.float32(reach) - np.minimum(np.minimum(brow, cheek), muzzle)
    paint.cover(_step(6.0 * field + 0.6 * edge, 1.3), TAN, 0.93)


def _muzzle_and_blaze(
    paint: Painter, f: Fields, b: Build, t: dict[str, float], edge: np.ndarray
) -> None:
    dx = f.x - 50
    away = np.abs(dx)
    half = np.float32(-1.8 + 10.5 * present(t["blaze"], 0.6))
    blaze = half + 0.010 * (f.y - 42) ** 2 * _step(f.y - 42, 6) * 0.9 - away
    blaze = blaze + np.float32(0.10) * (34 - f.y) * _step(34 - f.y, 4)
    paint.cover(_step(blaze + 0.7 * edge, 1.1) * _step(b.chin - 8 - f.y, 4), WHITE, 0.96)
    rise = between(-2.0, 7.0, t["mask_height"])
    reach = np.sqrt(
        (dx / (b.muzzle + 3.5)) ** 2 + ((f.y - b.nose - 6 + 0.5 * rise) / (15 + 0.8 * rise)) ** 2
    )
    for colour, amount in ((WHITE, t["muzzle_colour"]), (BLACK, -t["muzzle_colour"])):
        size = extent(present(amount, 0.5), -0.3, 1.08)
        paint.cover(_step((np.float32(size) - reach) * 15 + edge, 1.5), colour, 0.95)


def _relief(f: Fields, b: Build, t: dict[str, float], fur: np.ndarray) -> np.ndarray:
    """Factor of brightness of the head, (size, size)."""
    dx, dy = f.x - 50, f.y - 50
    away = np.abs(dx)
    side = np.float32(0.13 * t["light_side"])
    ball = np.sqrt((dx / 36) ** 2 + ((dy - 2) / 38) ** 2)
    shade = 1.13 - 0.36 * ball**3 + side * dx / 30 - 0.0016 * dy
    ry = b.chin - 1 - b.muzzle_top
    u, v = dx / (b.muzzle + 1), (f.y - b.muzzle_top - 0.5 * ry) / (0.5 * ry)
    radius = np.sqrt(u**2 + v**2 * np.where(v > 0, 1.0, 0.8))
    inside = _step(1 - radius, 0.16)
    bump = 0.20 * inside * (1 - 1.25 * np.maximum(v, -0.3)) + 0.10 * inside * side * u
    rim = np.exp(-(((radius - 1.08) / 0.14) ** 2)) * _step(f.y - b.muzzle_top - 7, 5)
    socket = np.exp(-(((away - b.eye_gap + 1) / 7.5) ** 2) - ((f.y - EYE_LINE) / 7) ** 2)
    stop = np.exp(-((dx / (1.2 + 0.05 * f.y)) ** 2)) * _step(f.y - 27, 4) * _step(52 - f.y, 5)
    brow = np.exp(-((dx / 13) ** 2) - ((f.y - 36) / 6) ** 2)
    wrinkle = brow * np.sin((f.y + 0.010 * dx**2) * 1.2)
    cheeks = np.exp(-(((away - 22) / 6) ** 2) - ((f.y - 60) / 7) ** 2)
    # The bridge of the nose catches light, its flanks do not, the more the longer the muzzle.
    span = _step(f.y - 45, 5) * _step(b.nose + 3 - f.y, 4)
    ridge = np.exp(-((dx / (0.5 * b.muzzle)) ** 2))
    flank = np.exp(-(((away - 0.95 * b.muzzle) / 4.5) ** 2)) * _step(f.y - 51, 4)
    shade += np.float32(between(0.05, 0.16, t["muzzle_length"])) * span * (ridge - 1.2 * flank)
    shade = shade + bump - 0.30 * rim - 0.16 * socket
    shade -= np.float32(between(0.0, 0.22, t["stop"])) * stop
    shade += np.float32(0.40 * present(t["wrinkle"], 0.5)) * wrinkle
    shade += np.float32(0.12 * t["cheek_light"]) * cheeks
    # Short hair on the muzzle and around the eyes.
    calm = 1 - 0.6 * inside - 0.4 * socket
    return np.asarray(shade + 0.36 * fur * np.maximum(calm, 0.25), dtype=np.float32)


def _lit(image: np.ndarray, shade: np.ndarray, t: dict[str, float]) -> np.ndarray:
    """Shading that lightens dark coats a little and darkens light ones."""
    warm = np.array([1 + 0.05 * t["light_warm"], 1.0, 1 - 0.06 * t["light_warm"]], np.float32)
    lift = (shade - 1)[..., None] * np.float32(26)
    return np.asarray((image * shade[..., None] + lift) * warm, dtype=np.float32)


def body_image(f: Fields, p: Palette, t: dict[str, float], fur: np.ndarray) -> np.ndarray:
    """The coat of neck, chest and shoulders."""
    paint = Painter(p.body, f.x.shape[0])
    away = np.abs(f.x - 50)
    _pattern(paint, f, p, t)
    ruff = extent(present(t["ruff"], 0.5), -3.0, 8.5) - np.abs(f.y - 79 + 0.008 * away**2)
    paint.cover(_step(ruff + 1.3 * f.rough, 2.0), WHITE, 0.92)
    white = present(t["chest_white"], 0.7)
    chest = np.float32(-2.0 + 26.0 * white * (1.4 - 0.4 * white)) - away
    paint.cover(_step(chest + 1.3 * f.rough, 2.0), WHITE, 0.94)
    shade = 1.02 - 0.0002 * away**2 + np.float32(0.13 * t["light_side"]) * (f.x - 50) / 40
    shade -= 0.42 * np.exp(-(((f.y - 76) / 12) ** 2))
    return _lit(paint.image, shade + 0.34 * fur, t)


def ear_image(f: Fields, p: Palette, t: dict[str, float], fur: np.ndarray) -> np.ndarray:
    """The coat of the ears."""
    paint = Painter(p.ear, f.x.shape[0])
    paint.cover(_above(f.brindle, present(t["brindle"], 0.5), 0.42, 0.3), BLACK, 0.5)
    tip = np.hypot(f.x - 50, 0.55 * (f.y - 42)) - 34
    tip_colour = mixed(BLACK, WHITE, ramp(t["ear_tip"], 0.0, 0.5))
    far = extent(abs(t["ear_tip"]), 16.0, 0.0)
    paint.cover(_step(tip - far + f.rough, 2.5), tip_colour, 0.8)
    shade = 1.02 + np.float32(0.13 * t["light_side"]) * (f.x - 50) / 40
    return _lit(paint.image, shade + 0.3 * fur, t)
