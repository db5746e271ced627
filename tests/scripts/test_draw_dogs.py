"""The drawings that the decoder is distilled from."""

from itertools import combinations, pairwise
from pathlib import Path

import numpy as np
import pytest

from huref.decoder.render import load_decoder
from tests.support.zoo import ROOT

pytest.importorskip("skia")

from scripts.dogs import digest
from scripts.dogs.attributes import grown, normal, traits_of
from scripts.dogs.draw import ATTRIBUTES, draw, latent_basis, main, relative

pytestmark = pytest.mark.slow

SIZE = 64


def distance(first: np.ndarray, second: np.ndarray) -> float:
    return float(np.abs(first.astype(float) - second.astype(float)).mean())


@pytest.fixture(scope="module")
def dogs() -> np.ndarray:
    return np.random.default_rng(0).standard_normal((12, len(ATTRIBUTES)))


def test_attributes_are_many_and_distinct() -> None:
    assert len(ATTRIBUTES) >= 100
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
    for value in (-30.0, 0.0, 30.0):
        assert draw(np.full(len(ATTRIBUTES), value), SIZE).std() > 5


def test_the_shipped_decoder_was_trained_on_these_drawings() -> None:
    decoder = load_decoder(ROOT / "checkpoints" / "decoder.safetensors")
    trained_on = decoder.metadata["training"]["drawing"]
    assert digest.drawing_of(trained_on) == digest.drawing_digest()


def test_the_digest_depends_on_the_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    before = digest.drawing_digest()
    monkeypatch.setattr(digest, "draw", lambda dog, size: draw(dog * 1.02, size))
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


@pytest.mark.parametrize("share", [0.4, 0.5, 0.7])
def test_growth_is_even(share: float) -> None:
    attributes = np.linspace(-2, 2, 2001)
    amounts = np.array([grown(value, share) for value in attributes])
    steps = np.diff(amounts)
    assert steps.min() >= 0
    assert amounts[0] == 0
    assert amounts[-1] > 0.85
    assert steps.max() < 3 * steps.mean()
    normal = np.random.default_rng(0).standard_normal(4000)
    assert np.mean([grown(value, share) > 0 for value in normal]) == pytest.approx(share, abs=0.03)


def test_a_trait_is_known_from_its_attribute_and_back() -> None:
    attributes = np.linspace(-3, 3, len(ATTRIBUTES))
    found = [normal(trait) for trait in traits_of(attributes).values()]
    assert np.allclose(found, attributes, atol=1e-3)


# Each changes most of its picture in another way: a shape, an area, a colour, a texture.
@pytest.mark.parametrize(
    "trait",
    ["ear_drop", "cap", "blaze", "patch_left", "coat_light", "muzzle_colour", "merle",
     "brindle", "coat_curl", "mouth_open", "tongue_length", "collar_green", "tag", "back_rays",
     "eye_blue", "beard", "ruff", "chest_white", "coat_length"],
)  # fmt: skip
def test_no_trait_jumps(dogs: np.ndarray, trait: str) -> None:
    steps = []
    for dog in dogs[:3].copy():
        pictures = []
        for value in np.linspace(-2.0, 2.0, 17):
            dog[ATTRIBUTES.index(trait)] = value
            pictures.append(draw(dog, 2 * SIZE))  # skia's antialiasing is in quarters of a pixel
        steps.append([distance(a, b) for a, b in pairwise(pictures)])
    mean = np.mean(steps, axis=0)
    assert mean.max() < 3 * mean.mean()


def test_relatives_are_nearer_than_strangers() -> None:
    rng, basis = np.random.default_rng(3), latent_basis()
    z = rng.standard_normal((24, 512))
    pictures = [draw(one @ basis, SIZE) for one in z]
    near = [
        distance(picture, draw(relative(one, rng.standard_normal(512), 0.98) @ basis, SIZE))
        for one, picture in zip(z, pictures, strict=True)
    ]
    between = [distance(a, b) for a, b in combinations(pictures, 2)]
    assert max(near) < 0.6 * min(between)


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
