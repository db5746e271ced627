"""Pictures: PNG files with text chunks, captions, and sheets of several pictures."""

import io
import warnings
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont, PngImagePlugin, UnidentifiedImageError

from huref.budget import Budget
from huref.errors import BudgetExceededError, EditedError, RecordError, one_line
from huref.files import replacing

Picture = NDArray[np.uint8]

LARGEST_FILE = 64 << 20  # bytes
LARGEST_SIDE = 8192  # pixels
OURS = "huref:"  # how the keys of huref's texts begin
TEXTS = (b"tEXt", b"zTXt", b"iTXt")
CHUNKS = (b"IHDR", b"IDAT", b"IEND", b"tIME")  # beside texts; others change what is shown
LARGEST_TEXT = 1 << 20  # bytes of one text chunk; also Pillow's own limit
MOST_COMPRESSED = 8  # compressed texts, which may unfold to LARGEST_TEXT each; huref writes none
PIXEL = 8  # bytes in memory while it is read: Pillow's four, and three of an array

PAPER = (250, 249, 246)
INK = (72, 70, 66)
PALE_INK = (138, 134, 127)


def as_png(image: Picture) -> bytes:
    """A picture as the bytes of a PNG, without texts."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    return buffer.getvalue()


def write_png(path: Path, image: Picture, text: dict[str, str]) -> None:
    """Write an image (h, w, 3) uint8 with text chunks; the same input gives the same bytes.

    The file is written completely or not at all. Text that is not ASCII becomes an iTXt chunk.

    Raises:
        ValueError: the image has another shape or type, or a text is longer than LARGEST_TEXT.
    """
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise ValueError(f"an image is (h, w, 3) uint8; got {image.shape} {image.dtype}")
    chunks = PngImagePlugin.PngInfo()
    for key in sorted(text):
        value = text[key]
        if len(value.encode()) >= LARGEST_TEXT:
            raise ValueError(f"the text '{key}' is too long for a picture")
        if value.isascii():
            chunks.add_text(key, value)
        else:
            chunks.add_itxt(key, value)
    with replacing(path) as temporary:
        # Level 9 takes six times as long and saves 4 % of the bytes.
        Image.fromarray(image).save(temporary, format="PNG", pnginfo=chunks, compress_level=4)


def read_png_text(path: Path) -> dict[str, str]:
    """Read the text chunks of a PNG, before and after the image data.

    Raises:
        RecordError: there is no such file, or it is not a PNG, damaged or too large.
    """
    with _opened(path) as image:
        return {key: str(value) for key, value in image.text.items()}


def read_png(path: Path) -> tuple[dict[str, str], Picture]:
    """The text chunks and the pixels (h, w, 3) uint8 of a PNG.

    Raises:
        RecordError: as `read_png_text`; or the PNG is not opaque RGB, is animated, or has a text
            of huref twice, so that another reader could see something else.
    """
    with _opened(path) as image:
        if image.mode != "RGB" or image.is_animated or "transparency" in image.info:
            raise EditedError("the picture was edited: not plain RGB", file=path)
        text = {key: str(value) for key, value in image.text.items()}
        pixels = np.array(image)
    keys = [key for key in _text_keys(path) if key.startswith(OURS)]
    if len(set(keys)) < len(keys):
        raise EditedError("the picture was edited: it has one of huref's texts twice", file=path)
    return text, pixels


@contextmanager
def _opened(path: Path) -> Iterator[PngImagePlugin.PngImageFile]:
    """A PNG whose pixels and text have been read, with Pillow's errors in words."""
    try:
        if path.stat().st_size > LARGEST_FILE:
            raise RecordError("it is too large for a fingerprint picture", file=path)
        _refuse_bombs(path)
        with warnings.catch_warnings(), Image.open(path, formats=["PNG"]) as image:
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            if max(image.size) > LARGEST_SIDE:
                raise RecordError(
                    f"not a fingerprint picture: {image.size[0]} x {image.size[1]} pixels, more "
                    f"than {LARGEST_SIDE} on a side",
                    file=path,
                )
            Budget(path.stat().st_size).spend(PIXEL * image.width * image.height)
            assert isinstance(image, PngImagePlugin.PngImageFile)
            _ = image.text
            yield image
    except UnidentifiedImageError as error:
        raise RecordError("not a PNG picture", file=path) from error
    except BudgetExceededError as error:
        raise RecordError(
            f"not a fingerprint picture: {image.width} x {image.height} pixels in a file of "
            f"{path.stat().st_size:,} bytes",
            file=path,
        ) from error
    except (
        OSError,
        SyntaxError,  # what Pillow raises on a broken chunk
        ValueError,  # what Pillow raises on a text chunk above its limit
        zlib.error,
        Image.DecompressionBombError,
        Image.DecompressionBombWarning,
    ) as error:
        raise RecordError(f"it cannot be read as a picture ({error})", file=path) from error


def _text_keys(path: Path) -> Iterator[str]:
    """The keyword of every text chunk of a PNG that Pillow has read whole.

    Raises:
        EditedError: it has a chunk that changes how the pixels are shown, such as a colour
            profile, or bytes after its end, which another program may read as another file.
    """
    data = path.read_bytes()
    end = 8
    for kind, start, end in _chunks(data):
        if kind in TEXTS:
            yield data[start : end - 4].partition(b"\0")[0].decode("latin-1")
        elif kind not in CHUNKS:
            shown = kind.decode("latin-1")
            raise EditedError(f"the picture was edited: it has a chunk '{shown}'", file=path)
    if end != len(data):
        raise EditedError("the picture was edited: bytes after its end", file=path)


def _chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Kind, first byte of the contents and end (after the checksum) of each chunk up to IEND."""
    end = 8  # of the signature
    while end + 8 <= len(data):
        kind, start = data[end + 4 : end + 8], end + 8
        end = start + int.from_bytes(data[end : end + 4], "big") + 4
        yield kind, start, end
        if kind == b"IEND":
            return


def _refuse_bombs(path: Path) -> None:
    """Raise RecordError for a PNG whose texts may unfold to more than its size justifies."""
    data = path.read_bytes()
    compressed = 0
    for kind, start, end in _chunks(data):
        if kind == b"iTXt":
            flag = data.find(b"\0", start, end) + 1
            compressed += 0 < flag < end and data[flag] != 0
        compressed += kind == b"zTXt"
        if compressed > MOST_COMPRESSED:
            raise RecordError("not a fingerprint picture: it has many compressed texts", file=path)


def enlarge(image: Picture, side: int) -> Picture:
    """Scale a square image (h, h, 3) up to `side` pixels; a larger one is not changed."""
    if image.shape[0] >= side:
        return image
    return np.asarray(Image.fromarray(image).resize((side, side), Image.Resampling.LANCZOS))


def captioned(
    image: Picture, name: str, code: Sequence[str], colours: NDArray[np.uint8]
) -> Picture:
    """Add a caption below a square image (h, h, 3).

    Args:
        image: the image.
        name: first line of the caption.
        code: words of the second line.
        colours: (n, 3) uint8, shown as a strip between image and caption.

    Returns:
        (h + height of the caption, h, 3).
    """
    side = image.shape[0]
    margin, strip = side // 24, max(3, side // 48)
    font = ImageFont.load_default(max(9, side // 20))
    line = _line_height(font)
    band = Image.new("RGB", (side, strip + margin // 2 + 2 * line + margin // 2), PAPER)
    pen = ImageDraw.Draw(band)
    name = one_line(name)
    edges = [round(i * side / len(colours)) for i in range(len(colours) + 1)]
    for left, right, colour in zip(edges, edges[1:], colours, strict=False):
        pen.rectangle((left, 0, right - 1, strip - 1), fill=tuple(map(int, colour)))
    for j, (text, ink) in enumerate(((name, INK), (" ".join(code), PALE_INK))):
        place = (margin, strip + margin // 2 + j * line)
        pen.text(place, _shorten(text, side - 2 * margin, pen, font), fill=ink, font=font)
    return np.concatenate([image, np.asarray(band)])


def pair_view(
    images: Sequence[Picture], captions: Sequence[str], between: str, cell: int = 384
) -> Picture:
    """Two images side by side, with the lines of `between` below them.

    Raises:
        ValueError: there are not exactly two images and two captions.
    """
    if len(images) != 2 or len(captions) != 2:
        raise ValueError(f"{len(images)} images and {len(captions)} captions are no pair")
    sheet = Image.fromarray(contact_sheet(images, captions, 2, cell))
    font = ImageFont.load_default(cell // 18)
    margin, line = cell // 16, _line_height(font)
    lines = between.split("\n")
    whole = Image.new("RGB", (sheet.width, sheet.height + len(lines) * line + margin // 2), PAPER)
    whole.paste(sheet)
    pen = ImageDraw.Draw(whole)
    for j, text in enumerate(lines):
        fitted = _shorten(text, sheet.width - 2 * margin, pen, font)
        left = (sheet.width - pen.textlength(fitted, font)) / 2
        pen.text((left, sheet.height + j * line), fitted, fill=INK, font=font)
    return np.asarray(whole)


def contact_sheet(
    images: Sequence[Picture], captions: Sequence[str], columns: int, cell: int = 256
) -> Picture:
    """A sheet (h, w, 3) uint8 of images in rows, each with its caption below.

    Images are scaled to squares of `cell` pixels. Captions may have several lines; lines that do
    not fit are shortened.

    Raises:
        ValueError: there are no images or columns, or not one caption per image.
    """
    if not images or columns < 1 or len(images) != len(captions):
        raise ValueError(f"{len(images)} images, {len(captions)} captions, {columns} columns")
    columns = min(columns, len(images))
    margin, font = cell // 16, ImageFont.load_default(max(11, cell // 16))
    line = _line_height(font)
    lines = max(caption.count("\n") + 1 if caption else 0 for caption in captions)
    width, height = cell + margin, cell + margin + lines * line
    rows = -(-len(images) // columns)
    sheet = Image.new("RGB", (columns * width + margin, rows * height + margin), PAPER)
    pen = ImageDraw.Draw(sheet)
    for i, (image, caption) in enumerate(zip(images, captions, strict=True)):
        x, y = margin + i % columns * width, margin + i // columns * height
        portrait = Image.fromarray(image).resize((cell, cell), Image.Resampling.LANCZOS)
        sheet.paste(portrait, (x, y))
        for j, text in enumerate(caption.split("\n")):
            fitted = _shorten(text, cell, pen, font)
            pen.text((x, y + cell + margin // 4 + j * line), fitted, fill=INK, font=font)
    return np.asarray(sheet)


def _line_height(font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> int:
    return round(1.35 * sum(font.getmetrics())) if isinstance(font, ImageFont.FreeTypeFont) else 14


def _shorten(
    text: str,
    width: int,
    pen: ImageDraw.ImageDraw,
    font: ImageFont.FreeTypeFont | ImageFont.ImageFont,
) -> str:
    if pen.textlength(text, font) <= width:
        return text
    while text and pen.textlength(text + "...", font) > width:
        text = text[:-1]
    return text + "..."
