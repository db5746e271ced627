"""PNG files that carry text, damaged ones, and sheets of several pictures."""

import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from huref.decoder.picture import contact_sheet, read_png_text, write_png
from huref.errors import RecordError


def test_png_carries_its_text(tmp_path: Path) -> None:
    image = np.random.default_rng(0).integers(0, 256, (9, 7, 3), np.uint8)
    text = {"huref:model": "org/模型 ▁é", "latent": "[0.25, -1.5]", "empty": ""}
    one, two = tmp_path / "one.png", tmp_path / "two.png"
    write_png(one, image, text)
    write_png(two, image, dict(reversed(list(text.items()))))
    assert one.read_bytes() == two.read_bytes()
    assert read_png_text(one) == text
    assert np.array_equal(np.asarray(Image.open(one)), image)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["one.png", "two.png"]


def test_a_failed_write_leaves_the_old_picture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "dog.png"
    image = np.zeros((4, 4, 3), np.uint8)
    write_png(path, image, {"a": "b"})
    before = path.read_bytes()

    def fail(*_: object, **__: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(Image.Image, "save", fail)
    with pytest.raises(OSError, match="disk full"):
        write_png(path, image + 1, {"a": "c"})
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("image", [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3), np.float32)])
def test_only_colour_bytes_are_written(tmp_path: Path, image: np.ndarray) -> None:
    with pytest.raises(ValueError, match="uint8"):
        write_png(tmp_path / "x.png", image, {})


def png_chunk(kind: bytes, data: bytes) -> bytes:
    checksum = zlib.crc32(kind + data).to_bytes(4, "big")
    return len(data).to_bytes(4, "big") + kind + data + checksum


def png(width: int, height: int, *chunks: bytes) -> bytes:
    header = width.to_bytes(4, "big") + height.to_bytes(4, "big") + b"\x08\x02\0\0\0"
    return b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", header) + b"".join(chunks)


def test_hostile_pictures_are_refused(tmp_path: Path) -> None:
    pixels = png_chunk(b"IDAT", zlib.compress(bytes(4)))
    end = png_chunk(b"IEND", b"")
    bomb = zlib.compress(bytes(100 << 20), 9)
    broken = png_chunk(b"tEXt", b"a\0b")[:-1] + b"!"
    path = tmp_path / "hostile.png"
    for content in (
        b"",
        b"GIF89a not a png",
        png(1, 1, png_chunk(b"zTXt", b"a\0\0" + bomb), pixels, end),
        png(1, 1, png_chunk(b"iTXt", b"a\0\1\0\0\0" + bomb), pixels, end),
        png(60000, 60000, pixels, end),
        png(9000, 2, pixels, end),
        png(1, 1, broken, pixels, end),
        png(1, 1),
        png(300, 300, pixels),
    ):
        path.write_bytes(content)
        with pytest.raises(RecordError, match=r"hostile\.png") as caught:
            read_png_text(path)
        assert "\n" not in str(caught.value)
    with pytest.raises(RecordError):
        read_png_text(tmp_path / "missing.png")
    path.write_bytes(png(1, 1, pixels, png_chunk(b"tEXt", b"late\0text"), end))
    assert read_png_text(path) == {"late": "text"}


def test_contact_sheet_places_images_and_writes_captions() -> None:
    colours = [np.full((8, 8, 3), level, np.uint8) for level in (0, 100, 200)]
    long = "a name that is much too long for the width of one cell, so it is cut"
    sheet = contact_sheet(colours, ["one\nline two", long, ""], 2, cell=64)
    plain = contact_sheet(colours, ["", "", ""], 2, cell=64)
    assert sheet.dtype == np.uint8
    assert sheet.shape[1] == plain.shape[1] == 2 * (64 + 4) + 4
    assert sheet.shape[0] > plain.shape[0]
    assert (plain[4:68, 4:68] == 0).all()
    assert (plain[4:68, 72:136] == 100).all()
    assert (plain[72:136, 4:68] == 200).all()
    under, paper = sheet[70:88, 72:140], sheet[0, 0]
    assert (under != paper).any(), "the caption is written"
    assert (sheet[68:, 136:] == paper).all(), "and does not leave its cell"
    again = contact_sheet(colours, ["one\nline two", long, ""], 2, cell=64)
    assert np.array_equal(sheet, again)
    with pytest.raises(ValueError, match="captions"):
        contact_sheet(colours, ["one"], 2)
