"""The measures of a decoder, on cases of known result."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("torchmetrics")
pytest.importorskip("skia")

from scripts.evaluate.decoder import likeness, measures, regressor, sheets
from scripts.evaluate.decoder.drawings import drawings, latents_of, reduced, relative_of
from scripts.evaluate.decoder.note import write_note
from scripts.evaluate.decoder.regressor import TRAITS, load_regressor, read_traits, to_input, traits

pytestmark = pytest.mark.slow

RNG = np.random.default_rng(0)


def test_relatives_have_the_requested_cosine_and_norm() -> None:
    z, other = latents_of(1, 5), latents_of(2, 5)
    relatives = relative_of(z, other, 0.8)
    norms = np.linalg.norm(relatives, axis=1)
    assert np.allclose(norms, np.sqrt(512))
    assert np.allclose((z * relatives).sum(1) / 512, 0.8)
    assert np.array_equal(latents_of(1, 3), z[:3]), "a longer sequence starts with the same latents"


def test_frechet_distance_of_gaussians() -> None:
    a = RNG.standard_normal((40_000, 3))
    b = RNG.standard_normal((40_000, 3)) * [1, 2, 3] + [4, 0, 0]
    # 4^2 + (1 - 1)^2 + (1 - 2)^2 + (1 - 3)^2
    assert measures.frechet(a, b) == pytest.approx(21, rel=0.03)
    assert measures.frechet(a, a) == pytest.approx(0, abs=1e-9)
    turned = a @ np.linalg.qr(RNG.standard_normal((3, 3)))[0]
    assert measures.frechet(turned * [1, 1, 1], a) < 0.01


def test_fidelity_is_perfect_for_equals_and_falls_with_noise() -> None:
    drawn = RNG.integers(0, 256, (2, 128, 128, 3), np.uint8) // 2 + 60
    same = measures.fidelity(drawn, drawn + np.uint8(1))
    assert same["psnr"] == pytest.approx(20 * np.log10(255), abs=0.01)
    assert same["ms_ssim"] > 0.99
    noisy = measures.fidelity(RNG.permutation(drawn.reshape(-1)).reshape(drawn.shape), drawn)
    assert noisy["ms_ssim"] < 0.6
    assert noisy["psnr"] < 20


def test_twice_the_resolution_adds_what_enlarged_pictures_lack() -> None:
    flat = np.full((2, 64, 64, 3), 90, np.uint8)
    fine = np.full((2, 128, 128, 3), 90, np.uint8)
    assert measures.twice_as_large(flat, flat, fine)["drawings, gradient"] == 0
    fine[:, :, ::2] += 20  # stripes of one pixel, which only the larger drawings have
    figures = measures.twice_as_large(flat + np.uint8(20), flat + np.uint8(10), fine)
    assert figures["large"] == 20
    assert figures["pictures, gradient"] == figures["drawings, gradient"] == 0
    assert figures["drawings, psnr"] == pytest.approx(20 * np.log10(255 / 10), abs=0.01)
    assert figures["pictures, psnr"] == pytest.approx(20 * np.log10(255 / 200**0.5), abs=0.01)


def test_explained_variance_by_name() -> None:
    truth = RNG.standard_normal((1000, len(TRAITS))).astype(np.float32)
    seen = np.zeros_like(truth)
    seen[:, 3] = truth[:, 3]
    seen[:, 5] = 0.5 * truth[:, 5]
    found = measures.explained(seen, truth)
    assert found[TRAITS[3]] == pytest.approx(1)
    assert found[TRAITS[5]] == pytest.approx(0.75, abs=0.01)
    assert found[TRAITS[0]] == pytest.approx(0, abs=0.01)


def test_distances_are_root_mean_squares() -> None:
    a, b = RNG.integers(0, 9, (3, 4, 4, 3), np.uint8), RNG.integers(0, 9, (2, 4, 4, 3), np.uint8)
    table = measures.distances(a, b)
    for i, x in enumerate(a.astype(float)):
        for j, y in enumerate(b.astype(float)):
            assert table[i, j] == pytest.approx(np.sqrt(np.square(x - y).mean()))


def test_identification_of_points_whose_families_are_known() -> None:
    base = 10.0 * RNG.standard_normal((30, 8))
    near = np.tile(base, (2, 1)) + 0.1 * RNG.standard_normal((60, 8))
    swapped = near.copy()
    swapped[[0, 1]] = swapped[[1, 0]]
    strangers = 10.0 * RNG.standard_normal((400, 8))
    found = measures.identification(measures.Families(base, {0.95: near, 0.8: swapped}), strangers)
    assert found["pairs"] == 10_000
    assert found["found 0.95"] == 1
    assert found["found 0.8"] == pytest.approx(58 / 60)
    assert found["look_alikes 0.95"] == 0
    assert 0 < found["within 0.95"] < 0.05
    hopeless = RNG.standard_normal((60, 8)) * 10
    found = measures.identification(measures.Families(base, {0.95: hopeless}), strangers)
    assert found["found 0.95"] < 0.3
    assert found["look_alikes 0.95"] > 0.8


def test_smoothness_tells_a_jump_from_a_turn() -> None:
    pattern = RNG.standard_normal((512, 64 * 64 * 3)) / np.sqrt(512)

    def turn(_: str, z: np.ndarray) -> np.ndarray:
        images = np.clip(128 + 40 * z @ pattern, 0, 255).astype(np.uint8)
        return np.asarray(images.reshape(-1, 64, 64, 3))

    def jump(name: str, z: np.ndarray) -> np.ndarray:
        images = turn(name, z).astype(int)
        over = (z @ pattern[:, :1] > 0)[:, :, None, None]
        return np.asarray(np.clip(images + 90 * over, 0, 255))

    smooth: dict[str, Any] = measures.smoothness(turn, 4)
    jumpy: dict[str, Any] = measures.smoothness(jump, 4)
    curve = smooth["curve"]
    assert isinstance(curve, list)
    assert curve[0] == 0
    assert curve == sorted(curve)
    assert curve[-1] == pytest.approx(1, abs=0.1)
    assert smooth["monotone"] == 1
    assert smooth["steepest"] < 1.3 < 3 < jumpy["steepest"]
    assert smooth["abrupt"] < 0.2 < 0.7 < jumpy["abrupt"]


def test_drawings_are_kept_and_extended(tmp_path: Path) -> None:
    z = latents_of(1, 3)
    two = drawings(tmp_path, "x", z[:2], 64, 0)
    three = drawings(tmp_path, "x", z, 64, 0)
    assert np.array_equal(three[:2], two)
    assert np.array_equal(three[2:], drawings(tmp_path, "y", z[2:], 64, 0))
    assert (
        reduced(np.full((1, 128, 128, 3), 7, np.uint8)).tolist()
        == np.full((1, 64, 64, 3), 7).tolist()
    )


def test_a_regressor_resumes_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = load_regressor(tmp_path / "a", 0, 64, 3)
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    path = next((tmp_path / "b").glob("regressor*.pt"))
    path.unlink()
    calls = iter(range(9))

    def stop_at_the_third(images: np.ndarray) -> torch.Tensor:
        if next(calls) == 2:
            raise KeyboardInterrupt
        return to_input(images)

    with monkeypatch.context() as patch:
        patch.setattr(regressor, "SAVE_EVERY", 1)
        patch.setattr(regressor, "to_input", stop_at_the_third)
        with pytest.raises(KeyboardInterrupt):
            load_regressor(tmp_path / "b", 0, 64, 3)
    again = load_regressor(tmp_path / "b", 0, 64, 3)
    stamp = path.stat().st_mtime_ns
    load_regressor(tmp_path / "b", 0, 64, 3)
    assert path.stat().st_mtime_ns == stamp, "what is trained is not trained again"
    pictures = drawings(tmp_path / "a", "1", latents_of(1, 8), 64, 0)
    seen = read_traits(again, pictures)
    assert seen.shape == traits(latents_of(1, 8), 0).shape == (8, len(TRAITS))
    assert np.allclose(seen, read_traits(whole, pictures), atol=1e-5)
    features = again.trunk(to_input(pictures))
    assert features.std(0).min() > 0, "no feature is dead"


def test_the_linear_part_is_ridge_regression(tmp_path: Path) -> None:
    pictures = RNG.integers(0, 256, (40, 64, 64, 3), np.uint8)
    truth = torch.from_numpy(RNG.standard_normal((40, len(TRAITS))).astype(np.float32))
    model = regressor.Regressor().eval()
    model.solve_linear(pictures, truth)
    x = regressor.coarse(to_input(pictures)).double().numpy()
    x0, y0 = x - x.mean(0), truth.double().numpy()
    # The same through the kernel: predictions of ridge regression are K (K + n r)^-1 y.
    kernel = x0 @ x0.T
    expected = kernel @ np.linalg.solve(
        kernel + 40 * regressor.RIDGE * np.eye(40), y0 - y0.mean(0)
    ) + y0.mean(0)
    assert np.allclose(read_traits(model, pictures), expected, atol=1e-2)


def test_the_blind_test_scores_letters_in_order(tmp_path: Path) -> None:
    def draw(z: np.ndarray) -> np.ndarray:
        return (
            np.broadcast_to(128 + 20 * z[:, :3, None, None], (len(z), 3, 8, 8))
            .transpose(0, 2, 3, 1)
            .clip(0, 255)
            .astype(np.uint8)
        )

    sheets.draw_blind_test(draw, tmp_path, 0)
    answers = json.loads((tmp_path / "blind-answers.json").read_text())
    right = [answers[str(i + 1)] for i in range(20)]
    assert sorted(right) == list(sheets.LETTERS)
    assert sheets.score_blind_test(tmp_path, " ".join(right).lower()) == (20, 20)
    assert sheets.score_blind_test(tmp_path, "".join(right[1:] + right[:1])) == (0, 20)
    with pytest.raises(SystemExit, match="19 guesses"):
        sheets.score_blind_test(tmp_path, "".join(right[1:]))


def test_the_likeness_of_pictures_that_are_linear_in_the_latent() -> None:
    """Distances are then those of the latents: sqrt(2 - 2 cos), against about sqrt(2)."""
    mixing = RNG.standard_normal((512, 48)) / np.sqrt(512)

    def render(name: str, z: np.ndarray) -> np.ndarray:
        shades = np.repeat((z @ mixing).reshape(-1, 4, 4, 3), 16, 1).repeat(16, 2)
        return (128 + 25 * shades).clip(0, 255).astype(np.uint8)

    found = likeness.nearness(render, 1)
    assert found["near"] == found["near_most"]
    assert 0.2 < found["near"] < 0.5  # 0.2 / 1.41, a quantile of 95 % by one of 1 %
    assert found["far"] == found["far_most"] > found["near"]
    paths = likeness.random_paths(render, 3)
    assert max(paths) < 1.2


def test_a_jump_on_a_path_is_steep() -> None:
    basis = np.eye(512)[:, : len(TRAITS)]

    def render(name: str, z: np.ndarray) -> np.ndarray:
        shades = 100 + 20 * z[:, 1] + np.where(z[:, 0] > 0, 60, 0)
        return np.broadcast_to(shades[:, None, None, None], (len(z), 64, 64, 3)).astype(np.uint8)

    found = likeness.steepest_traits(render, basis, TRAITS[:2], 2)
    assert found[TRAITS[0]] == pytest.approx(likeness.STEPS, rel=0.2)
    assert found[TRAITS[1]] < 1.3


def test_the_note_names_lost_traits(tmp_path: Path) -> None:
    figures = {
        "decoder": "d", "resolution": 64, "drawing": "new", "trained_on": "old", "images": 10,
        "held_out": 4, "random": 20, "families": 3, "epochs": 0, "dogs": 6, "psnr": 20.5,
        "ms_ssim": 0.8,
        "r2": {"ear_drop": 0.01, "blaze": 0.5}, "r2_drawings": {"ear_drop": 0.9, "blaze": 0.6},
        "frechet": 2.0, "frechet_floor": 1.0, "blind": {"right": 19, "of": 20},
        "smoothness": {"curve": [0.0, 0.5], "monotone": 1.0, "steepest": 1.5, "abrupt": 0.17},
        "kinship": {"decoder, pixels": {
            "pairs": 10_000, "found 0.95": 1.0, "look_alikes 0.95": 0.0003,
            "found 0.8": 0.75, "look_alikes 0.8": 0.2,
        }},
        "likeness": {kind: {
            "near": 0.4, "near_most": 0.45, "far": 0.9, "far_most": 1.1, "strangers": 30.0,
            "path": 2.5, "trait": "blaze", "steepness": steepest, "over three": over,
        } for kind, steepest, over in (("drawings", 2.9, []), ("decoder", 3.2, ["blaze"]))},
        "ears": {f"same {kind} {cosine}": 0.97 for kind in ("kind", "third")
                 for cosine in (0.99, 0.95)},
    }  # fmt: skip
    write_note(tmp_path / "note.md", figures)
    note = (tmp_path / "note.md").read_text()
    assert "Lost (R² under 0.1): ear_drop." in note
    assert "other drawings (old)" in note
    assert "| 2.90 | 3.20 | 3 |" in note
    assert "averaged over 6 dogs. Traits of the decoder steeper than 3: blaze." in note
    assert "| decoder | pixels | 100.0 % | 3 of 10,000 | 75.0 % | 2,000 of 10,000 |" in note
    assert "**19 of 20**" in note
