"""Names as they can be drawn: how wide, how short, and without what would disturb a page."""

import unicodedata
from functools import lru_cache

from PIL import ImageFont

# They turn the direction of the text that follows, so a name could pose as another.
WIDER = 1.12
_TURNING = frozenset("\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\u061c")


def printable(text: str) -> str:
    """The text with what cannot be seen or would reorder it shown as the replacement sign."""
    return "".join(
        "\ufffd" if letter in _TURNING or unicodedata.category(letter) in ("Cc", "Cs") else letter
        for letter in text
    )


@lru_cache(maxsize=32)
def font_of(size: float) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Pillow's own font; the same on every machine."""
    return ImageFont.load_default(size)


def width_of(text: str, size: float) -> float:
    """How wide a line may become, in the units of `size`: browsers choose wider fonts."""
    return float(font_of(size).getlength(text)) * WIDER


def shorten(text: str, width: float, size: float) -> str:
    """The text, its middle left out where it would be wider: models differ at their ends."""
    text = printable(text)
    if width_of(text, size) <= width:
        return text
    kept = len(text)
    while kept > 2 and width_of(_without_middle(text, kept), size) > width:
        kept -= 1
    return _without_middle(text, kept)


def _without_middle(text: str, kept: int) -> str:
    return f"{text[: (kept + 1) // 2]}…{text[len(text) - kept // 2 :]}"
