"""Text in drawings: its width, its shortening, and the removal of unsafe characters."""

from functools import lru_cache

from PIL import ImageFont

from huref.escape import printable

WIDER = 1.12  # browsers use wider fonts than Pillow's


@lru_cache(maxsize=32)
def font_of(size: float) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """The font that Pillow ships, the same on every machine."""
    return ImageFont.load_default(size)


def width_of(text: str, size: float) -> float:
    """The width that a line can have in a browser, in the units of `size`."""
    return float(font_of(size).getlength(text)) * WIDER


def shorten(text: str, width: float, size: float) -> str:
    """The text, without its middle where it is wider than `width`: names differ at their ends."""
    text = printable(text)
    if width_of(text, size) <= width:
        return text
    kept = len(text)
    while kept > 2 and width_of(_without_middle(text, kept), size) > width:
        kept -= 1
    return _without_middle(text, kept)


def _without_middle(text: str, kept: int) -> str:
    return f"{text[: (kept + 1) // 2]}…{text[len(text) - kept // 2 :]}"
