"""The drawings that the decoder is distilled from."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from huref.decoder.render import load_decoder
from tests.support.zoo import ROOT

pytest.importorskip("skia")

from scripts.dogs import digest
from scripts.dogs.draw import ATTRIBUTES, draw, latent_basis, main

pytestmark = pytest.mark.slow

SIZE = 64


def distance(first: np.ndarray, second: np.ndarray) -> float:
    return float(np.abs(first.astype(float) - second.astype(float)).mean())


@pytest.fixture(scope="module")
def dogs() -> np.ndarray:
    return np.random.default_rng(0).standard_normal((12, len(ATTRIBUTES)))


def test_attributes_are_many_and_distinct() -> None:
    assert len(ATTRIBUTES) >= 128
    assert len(set(ATTRIBUTES)) == len(ATTRIBUTES)


@pytest.mark.parametrize("size", [32, 64, 128])
def test_draws_an_rgb_image_of_the_requested_size(dogs: np.ndarray, size: int) -> None:
    image = draw(dogs[0], size)
    assert image.shape == (size, size, 3)
    assert image.dtype == np.uint8
    assert image.std() > 10


def test_same_attributes_same_picture(dogs: np.ndarray) -> None:
    first = draw(dogs[0], SIZE)
    draw(dogs[1], SIZE)
    assert np.array_equal(first, draw(dogs[0].copy(), SIZE))


def test_extreme_attributes_still_draw() -> None:
    for value in (-30.0, 30.0):
        assert draw(np.full(len(ATTRIBUTES), value), SIZE).std() > 5


def test_the_shipped_decoder_was_trained_on_these_drawings() -> None:
    decoder = load_decoder(ROOT / "checkpoints" / "decoder.safetensors")
    trained_on = decoder.metadata["training"]["drawing"]
    assert digest.drawing_of(trained_on) == digest.drawing_digest() != trained_on


def test_the_digest_depends_on_the_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    before = digest.drawing_digest()
    monkeypatch.setattr(digest, "draw", lambda dog, size: draw(dog * [1.02, *[1] * 184], size))
    assert digest.drawing_digest.__wrapped__() != before


def test_refuses_a_wrong_number_of_attributes() -> None:
    with pytest.raises(ValueError, match="attributes"):
        draw(np.zeros(3), SIZE)


def test_small_steps_make_small_changes(dogs: np.ndarray) -> None:
    pictures = [draw(dog, SIZE) for dog in dogs]
    strangers = np.mean([distance(a, b) for a, b in pairwise(pictures)])
    rng = np.random.default_rng(1)
    for dog, picture in zip(dogs, pictures, strict=True):
        step = rng.standard_normal(dog.shape)
        step *= 0.01 * np.sqrt(len(step)) / np.linalg.norm(step)
        assert distance(picture, draw(dog + step, SIZE)) < 0.1 * strangers


def test_every_attribute_changes_some_pixel(dogs: np.ndarray) -> None:
    def shows(index: int, dog: np.ndarray) -> bool:
        low, high = dog.copy(), dog.copy()
        low[index], high[index] = -1.2, 1.2
        return distance(draw(low, 48), draw(high, 48)) >= 0.01

    # Not every attribute shows in every dog: a hanging ear hides its inside.
    unseen = [
        name
        for index, name in enumerate(ATTRIBUTES)
        if not any(shows(index, dog) for dog in dogs[:8])
    ]
    assert unseen == []


def test_ears_pass_from_pricked_to_hanging_without_a_jump(dogs: np.ndarray) -> None:
    drops = [index for index, name in enumerate(ATTRIBUTES) if name.startswith("ear_drop.")]
    for dog in dogs[:6].copy():
        pictures = []
        for place in np.linspace(-1.0, 1.0, 81):
            dog[drops] = place
            pictures.append(draw(dog, SIZE))
        steps = [distance(a, b) for a, b in pairwise(pictures)]
        assert distance(pictures[0], pictures[-1]) > 2.0
        assert max(steps) < 0.1 * sum(steps)


def test_basis_is_orthonormal_and_repeatable() -> None:
    basis = latent_basis()
    assert basis.shape == (512, len(ATTRIBUTES))
    assert np.allclose(basis.T @ basis, np.eye(len(ATTRIBUTES)), atol=1e-12)
    assert np.array_equal(basis, latent_basis(0))
    assert not np.allclose(basis, latent_basis(1))


def test_writes_sheets(tmp_path: Path) -> None:
    from PIL import Image

    main(["sheet", str(tmp_path / "sheet.png"), "--rows", "2", "--columns", "3", "--size", "32"])
    main(["kinship", str(tmp_path / "kin.png"), "--rows", "2", "--size", "32"])
    assert Image.open(tmp_path / "sheet.png").size == (96, 64)
    assert Image.open(tmp_path / "kin.png").size == (256, 64)
