"""Drawings as pixels."""

import math
from itertools import pairwise

import numpy as np
from PIL import Image, ImageColor, ImageDraw

from huref.decoder.picture import Picture
from huref.escape import printable
from huref.report.canvas import Area, Box, Canvas, Disc, Dog, Line, Mark, Point, Words
from huref.report.lettering import font_of
from huref.report.palette import light
from huref.report.portraits import Portraits

SCALE = 2  # pixels for one unit of the drawing
FINER = 2  # oversampling, since Pillow's lines are not anti-aliased
MOST = 40_000_000  # pixels of the picture; oversampling needs four times as many
DASH, GAP = 5.0, 4.0


def rasterise(canvas: Canvas, portraits: Portraits, scale: float = SCALE) -> Picture:
    """A drawing in light mode, (height, width, 3) uint8; very large ones at a smaller scale."""
    scale = min(scale, math.sqrt(MOST / max(canvas.width * canvas.height, 1.0)))
    size = (round(canvas.width * scale), round(canvas.height * scale))
    factor = size[0] / canvas.width * FINER
    image = Image.new("RGB", (size[0] * FINER, size[1] * FINER), light("paper"))
    pen = ImageDraw.Draw(image)
    for mark in canvas.marks:
        if isinstance(mark, Words):
            _write(image, mark, factor)
        elif isinstance(mark, Dog):
            _paste(image, mark, factor, portraits)
        else:
            _shape(pen, mark, factor)
    return np.asarray(image.resize(size, Image.Resampling.BOX))


def _shape(pen: ImageDraw.ImageDraw, mark: Mark, factor: float) -> None:
    match mark:
        case Box():
            corners = (
                mark.x * factor,
                mark.y * factor,
                (mark.x + mark.width) * factor - 1,
                (mark.y + mark.height) * factor - 1,
            )
            if mark.outlined:
                pen.rectangle(corners, outline=light(mark.paint), width=round(factor))
            else:
                pen.rectangle(corners, fill=_blend(mark.paint, mark.opacity))
        case Line():
            width = max(1, round(mark.width * factor))
            for piece in _dashes(mark.points) if mark.dashed else [mark.points]:
                scaled = _scaled(piece, factor)
                pen.line(scaled, fill=light(mark.paint), width=width, joint="curve")
        case Area():
            pen.polygon(_scaled(mark.points, factor), fill=light(mark.paint))
        case Disc():
            box = [
                (mark.x + sign * mark.radius) * factor if axis == 0
                else (mark.y + sign * mark.radius) * factor
                for sign in (-1, 1)
                for axis in (0, 1)
            ]  # fmt: skip
            if mark.filled:
                pen.ellipse(box, fill=light(mark.paint))
            else:
                pen.ellipse(box, outline=light(mark.paint), width=round(1.8 * factor))


def _write(image: Image.Image, mark: Words, factor: float) -> None:
    font = font_of(round(mark.size * factor, 1))
    anchor = {"start": "lm", "middle": "mm", "end": "rm"}[mark.align]
    text = printable(mark.text)
    if not mark.upright:
        place = (mark.x * factor, mark.y * factor)
        ImageDraw.Draw(image).text(place, text, fill=light(mark.paint), font=font, anchor=anchor)
        return
    length, height = math.ceil(font.getlength(text)) + 2, math.ceil(1.6 * mark.size * factor)
    strip = Image.new("L", (length, height))
    ImageDraw.Draw(strip).text((0, height / 2), text, fill=255, font=font, anchor="lm")
    turned = strip.transpose(Image.Transpose.ROTATE_90)
    below = {"start": 0.0, "middle": length / 2, "end": float(length)}[mark.align]
    corner = (round(mark.x * factor - height / 2), round(mark.y * factor + below - length))
    image.paste(light(mark.paint), corner, turned)


def _paste(image: Image.Image, mark: Dog, factor: float, portraits: Portraits) -> None:
    side = round(mark.side * factor)
    corner = (round(mark.x * factor), round(mark.y * factor))
    dog = portraits.rounded(mark.model, side)
    if dog is not None:
        image.paste(dog, corner, dog)
        return
    box = (*corner, corner[0] + side, corner[1] + side)
    pen = ImageDraw.Draw(image)
    pen.rounded_rectangle(box, side / 7, outline=light("line"), width=round(factor))


def _blend(paint: str, opacity: float) -> tuple[int, ...]:
    over, under = ImageColor.getrgb(light(paint)), ImageColor.getrgb(light("paper"))
    mixed = (opacity * a + (1 - opacity) * b for a, b in zip(over, under, strict=True))
    return tuple(round(value) for value in mixed)


def _scaled(points: tuple[Point, ...], factor: float) -> list[Point]:
    return [(x * factor, y * factor) for x, y in points]


def _dashes(points: tuple[Point, ...]) -> list[tuple[Point, ...]]:
    """The visible pieces of a dashed line."""
    pieces: list[tuple[Point, ...]] = []
    for (x, y), (right, lower) in pairwise(points):
        length = math.hypot(right - x, lower - y)
        start = 0.0
        while start < length:
            stop = min(start + DASH, length)
            pieces.append(
                (
                    (x + (right - x) * start / length, y + (lower - y) * start / length),
                    (x + (right - x) * stop / length, y + (lower - y) * stop / length),
                )
            )
            start += DASH + GAP
    return pieces
