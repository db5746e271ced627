"""Codes to read out, captions, and two dogs side by side."""

import math
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from huref.api.fingerprint import fingerprint
from huref.cli import main
from huref.decoder.picture import captioned, contact_sheet, pair_view, read_png_text
from huref.decoder.spoken import SWATCHES, WORDS, colour_strip, spoken_code
from tests.support.zoo import ZOO


def pairs(cosine: float, count: int = 300) -> list[tuple[np.ndarray, np.ndarray]]:
    rng = np.random.default_rng(5)
    found = []
    for _ in range(count):
        z, other = rng.standard_normal((2, 512))
        other -= z * (other @ z) / (z @ z)
        other *= np.linalg.norm(z) / np.linalg.norm(other)
        found.append((z, cosine * z + math.sqrt(1 - cosine**2) * other))
    return found


# The figures in the docstring of huref.decoder.spoken.
@pytest.mark.parametrize(
    ("cosine", "words"), [(1, 4.0), (0.99, 3.4), (0.95, 2.7), (0.8, 1.6), (0.5, 0.7), (0, 0.1)]
)
def test_relatives_share_words_and_unrelated_latents_do_not(cosine: float, words: float) -> None:
    same = [
        sum(a == b for a, b in zip(spoken_code(z), spoken_code(other), strict=True))
        for z, other in pairs(cosine)
    ]
    assert np.mean(same) == pytest.approx(words, abs=0.15)


def test_codes_are_words_of_their_lists_and_depend_on_direction_alone() -> None:
    codes = [spoken_code(z) for z, _ in pairs(0)]
    assert len(set(codes)) == len(codes)
    for words, said in zip(WORDS, zip(*codes, strict=True), strict=True):
        assert set(said) <= set(words)
        assert len(set(said)) == len(words), "every word is used"
    assert len({word for words in WORDS for word in words}) == 128
    z = pairs(0)[0][0]
    assert spoken_code(7 * z.astype(np.float32)) == spoken_code(z)
    assert np.array_equal(colour_strip(7 * z), colour_strip(z))


def test_colours_change_smoothly_and_differ_between_strangers() -> None:
    def change(cosine: float) -> float:
        return float(
            np.mean(
                [
                    np.abs(colour_strip(a).astype(int) - colour_strip(b)).mean()
                    for a, b in pairs(cosine, 60)
                ]
            )
        )

    assert colour_strip(pairs(0)[0][0]).shape == (SWATCHES, 3)
    assert change(1) == 0
    assert 0 < change(0.999) < 4
    assert change(0.99) < change(0.8) < change(0)
    assert change(0) > 50


def test_a_caption_does_not_change_the_picture() -> None:
    image = np.full((256, 256, 3), 90, np.uint8)
    colours = np.arange(24, dtype=np.uint8).reshape(8, 3)
    made = captioned(image, "org/model", ("amber", "bold", "acorn", "beach"), colours)
    assert np.array_equal(made[:256], image)
    assert made.shape[1] == 256
    assert 20 < made.shape[0] - 256 < 60
    assert np.array_equal(made[256, 16::32], colours), "one swatch each, right below the dog"
    other = captioned(image, "org/other", ("amber", "bold", "acorn", "beach"), colours)
    assert not np.array_equal(made, other)
    long = captioned(image, "org/" + "m" * 200, ("amber", "bold", "acorn", "beach"), colours)
    assert long.shape == made.shape
    assert (long[262:, -6:] == long[-1, -1]).all(), "a long name stays inside"


def test_a_pair_stands_side_by_side() -> None:
    images = [np.full((8, 8, 3), level, np.uint8) for level in (0, 200)]
    view = pair_view(images, ["one", "two"], "ICS 0.98\ncos z 0.97", cell=64)
    assert (view[4:68, 4:68] == 0).all()
    assert (view[4:68, 72:136] == 200).all()
    assert view.shape[0] > contact_sheet(images, ["one", "two"], 2, 64).shape[0]
    assert not np.array_equal(view, pair_view(images, ["one", "two"], "ICS 0.1\ncos z 0", 64))
    with pytest.raises(ValueError, match="no pair"):
        pair_view(images[:1], ["one"], "")


def test_fingerprints_with_captions(tmp_path: Path) -> None:
    model = ZOO / "llama-a"
    plain = fingerprint(model, tmp_path / "plain.png")
    one = fingerprint(model, tmp_path / "one.png", caption=True)
    assert (tmp_path / "one.png").read_bytes() != (tmp_path / "plain.png").read_bytes()
    texts = [read_png_text(tmp_path / name) for name in ("one.png", "plain.png")]
    digests = {text.pop("huref:digest") for text in texts}
    assert texts[0] == texts[1]
    assert len(digests) == 2, "the pixels differ"
    assert np.array_equal(one.image, plain.image)
    assert one.code == plain.code == spoken_code(plain.latent)
    result = CliRunner().invoke(
        main, ["fingerprint", str(model), "-o", str(tmp_path / "two.png"), "--caption"]
    )
    assert result.exit_code == 0, result.output
    assert (tmp_path / "two.png").read_bytes() == (tmp_path / "one.png").read_bytes()
    assert f"code     {' '.join(one.code)}\n" in result.stdout
    with Image.open(tmp_path / "one.png") as picture:
        assert picture.height > picture.width
        assert np.array_equal(np.asarray(picture)[: picture.width], one.image)
    again = fingerprint(tmp_path / "one.png")  # a picture with a caption can be read again
    assert np.array_equal(again.latent, one.latent)
