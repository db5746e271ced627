"""Draws a portrait: background, body, ears, collar and head."""

import numpy as np
import skia

from scripts.dogs import coat, eyes, face
from scripts.dogs.attributes import between, blend, extent, present, traits_of
from scripts.dogs.ears import Ear, ear_of
from scripts.dogs.ink import argb, fill, pen
from scripts.dogs.palette import Palette, mixed, palette_of
from scripts.dogs.shapes import Build, body_outline, build_of, head_outline, polygon
from scripts.dogs.textures import Fields, fields_for

# Axes of the background's hue: green to magenta, blue to yellow.
_GREEN = np.array([-46.0, 28.0, -25.0])
_BLUE = np.array([-34.0, -5.0, 48.0])
_PINK = np.array([206.0, 138.0, 136.0])


def _background(f: Fields, t: dict[str, float]) -> np.ndarray:
    """A colour that changes downwards and across, with a faint pattern, (size, size, 3) float32."""
    parts = []
    for low, high, size, name in (
        (108.0, 182.0, 1.0, "back"),
        (-38.0, 38.0, 1.1, "back_down"),
        (-34.0, 34.0, 1.0, "back_across"),
        (-34.0, 34.0, 1.0, "back_corner"),
    ):
        hue = _GREEN * t[f"{name}_green"] + _BLUE * t[f"{name}_blue"]
        parts.append((between(low, high, t[f"{name}_light"]) + size * hue).astype(np.float32))
    middle, down, across, corner = parts
    vertical, horizontal = np.tanh((f.y - 36) / 30)[..., None], np.tanh((f.x - 50) / 34)[..., None]
    image = middle + down * vertical + across * horizontal + corner * (vertical * horizontal)
    stripes = np.tanh(4 * np.sin((f.x + 0.6 * f.y) * 0.5))
    dots = np.tanh(4 * (np.cos(f.x * 0.56) * np.cos(f.y * 0.56) - 0.35))
    rays = np.tanh(3 * np.sin(np.arctan2(f.y - 50, f.x - 50) * 12))
    pattern = np.float32(0.13 * present(t["back_stripes"], 0.5)) * stripes
    pattern += np.float32(0.13 * present(t["back_dots"], 0.5)) * (dots + 0.4)
    pattern += np.float32(0.14 * present(t["back_rays"], 0.5)) * rays
    glow = 1.10 - 0.30 * ((f.x - 50) ** 2 + (f.y - 48) ** 2) / 4000
    return np.asarray(image * (glow + pattern)[..., None], dtype=np.float32)


def _bytes(image: np.ndarray) -> np.ndarray:
    """Convert float RGB to opaque uint8 BGRA, the layout of a skia raster."""
    out = np.full((*image.shape[:2], 4), 255, dtype=np.uint8)
    out[..., :3] = np.clip(image + 0.5, 0, 255)[..., ::-1]
    return out


def _texture(image: np.ndarray) -> skia.Paint:
    """A paint that shows the image, aligned with the frame."""
    scale = 100 / image.shape[0]
    picture = skia.Image.fromarray(_bytes(image), skia.kBGRA_8888_ColorType)
    shader = picture.makeShader(skia.SamplingOptions(), skia.Matrix.Scale(scale, scale))
    return skia.Paint(AntiAlias=True, Shader=shader)


def _draw_ear(
    canvas: skia.Canvas,
    ear: Ear,
    texture: skia.Paint,
    p: Palette,
    t: dict[str, float],
    opacity: float,
) -> None:
    edge = skia.Simplify(polygon(ear.outline))
    dark = mixed(p.ear * 0.30, np.full(3, 12.0), 0.4)
    texture.setAlphaf(opacity)
    canvas.drawPath(edge, texture)
    canvas.save()
    canvas.clipPath(edge, True)
    inside = mixed(mixed(_PINK, p.ear * 0.45, 0.35), p.ear * 0.42, blend(t["ear_inner"]))
    canvas.drawPath(polygon(ear.inner), fill(inside, 0.95 * opacity))
    canvas.drawPath(polygon(ear.inner), pen(dark, 1.6, 0.30 * opacity))
    ends = [skia.Point(*ear.spine[0].tolist()), skia.Point(*ear.spine[-1].tolist())]
    shade = skia.GradientShader.MakeLinear(
        ends,
        [argb(dark, 0.42 * opacity), argb(dark, 0.0), argb(dark, 0.25 * opacity)],
        [0.0, 0.45, 1.0],
    )
    canvas.drawPath(edge, skia.Paint(AntiAlias=True, Shader=shade))
    canvas.restore()
    canvas.drawPath(edge, pen(dark, 1.3, 0.8 * opacity))
    texture.setAlphaf(1.0)


def _draw_collar(canvas: skia.Canvas, t: dict[str, float]) -> None:
    colour = np.full(3, between(78.0, 186.0, t["collar_light"]))
    colour = colour + np.array([-74.0, 44.0, -40.0]) * t["collar_green"]
    colour = colour + np.array([-54.0, -12.0, 76.0]) * t["collar_blue"]
    width = between(2.2, 7.6, t["collar_width"])
    band = skia.PathBuilder()
    band.moveTo(22, 82)
    band.quadTo(50, 103, 78, 82)
    path = band.detach()
    canvas.drawPath(path, pen(colour * 0.35, width + 1.4, 0.75))
    canvas.drawPath(path, pen(colour, width))
    canvas.drawPath(path, pen(np.full(3, 255.0), 0.25 * width, 0.13))
    hung = present(t["tag"], 0.7)
    tag = extent(hung * (1.4 - 0.4 * hung), 0.0, 1.05)
    canvas.drawCircle(50, 92.2 + 2.6 * tag, 4.0 * tag, fill(np.array([120.0, 84.0, 20.0])))
    canvas.drawCircle(50, 92.0 + 2.4 * tag, 3.3 * tag, fill(np.array([240.0, 196.0, 74.0])))
    canvas.drawCircle(50 - tag, 92.0 + 1.4 * tag, 1.1 * tag, fill(np.array([255.0, 244.0, 200.0])))


def _draw_head(
    canvas: skia.Canvas, b: Build, p: Palette, t: dict[str, float], image: np.ndarray
) -> None:
    head = polygon(head_outline(b, t))
    canvas.drawPath(head, pen(mixed(p.coat * 0.22, np.full(3, 10.0), 0.3), 1.2, 0.6))
    canvas.drawPath(head, _texture(image))
    rim = present(t["rim_light"], 0.5)
    canvas.save()
    canvas.clipPath(head, True)
    canvas.translate(0.9, 1.3)
    canvas.drawPath(head, pen(np.array([255.0, 250.0, 236.0]), 1.5, 0.42 * rim))
    canvas.restore()


def draw(attributes: np.ndarray, size: int) -> np.ndarray:
    """A portrait as uint8 RGB (size, size, 3) from standard normal attributes (k,)."""
    t = traits_of(attributes)
    f = fields_for(size)
    b = build_of(t)
    p = palette_of(t)
    fur = coat.fur_of(f, t)
    raster = _bytes(_background(f, t))
    canvas = skia.Surface(raster, skia.kBGRA_8888_ColorType).getCanvas()
    canvas.scale(size / 100, size / 100)
    body = polygon(body_outline(t))
    ears = [ear_of(b, t, side) for side in (-1, 1)]
    ear_texture = _texture(coat.ear_image(f, p, t, fur))
    for ear in ears:
        _draw_ear(canvas, ear, ear_texture, p, t, 1.0)
    canvas.drawPath(body, pen(p.body * 0.25, 1.4, 0.7))
    canvas.drawPath(body, _texture(coat.body_image(f, p, t, fur)))
    _draw_collar(canvas, t)
    _draw_head(canvas, b, p, t, coat.head_image(f, b, p, t, fur))
    for ear in ears:
        _draw_ear(canvas, ear, ear_texture, p, t, ear.drop)
    face.draw_beard(canvas, b, p, t)
    face.draw_mouth(canvas, b, p, t)
    face.draw_nose(canvas, b, t)
    eyes.draw_eyes(canvas, b, p, t)
    eyes.draw_brows(canvas, b, p, t)
    return np.ascontiguousarray(raster[..., 2::-1])
