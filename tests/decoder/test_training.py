"""Training of the decoder: growing, the loss, the optimiser, and resuming."""

import copy
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from huref.decoder.render import load_decoder, to_bytes
from huref.decoder.stylegan2 import Generator
from huref.decoder.stylegan2_layers import resample_filter, upsample_image
from scripts.decoder import shards
from tests.support.small_generator import small_generator

if TYPE_CHECKING:
    from scripts.decoder.training import Training

StartTraining = Callable[[str], "Training"]


def test_folding_the_basis_gives_the_same_pictures() -> None:
    from scripts.decoder.network import fold_basis, unfold_basis

    generator = small_generator()
    basis, _ = torch.linalg.qr(torch.randn(512, 24, dtype=torch.float64))
    folded = Generator.from_state(fold_basis(generator.state_dict(), basis), lr_mul=0.5)
    assert folded.z_dim == 512
    z = torch.randn(6, 512)
    unit = z * math.sqrt(512) / z.norm(dim=1, keepdim=True)
    w = generator.mapping.from_normalised(unit @ basis.float())
    assert torch.allclose(folded.mapping(z), w, atol=1e-4)
    back = unfold_basis(fold_basis(generator.state_dict(), basis), basis)
    first = "mapping.fc0.weight"
    assert torch.allclose(back[first], generator.state_dict()[first], atol=1e-5)


def test_a_grown_generator_starts_as_the_smaller_one_enlarged() -> None:
    from scripts.decoder.network import build, grow

    channels = {4: 12, 8: 10, 16: 8}
    small = build(24, 16, 2, channels, 8, 1.0)
    large = grow(build(24, 16, 2, channels, 16, 1.0), small.state_dict())
    z = torch.randn(2, 24)
    assert torch.allclose(large(z), upsample_image(small(z), resample_filter()), atol=1e-5)
    with pytest.raises(ValueError, match="does not fit"):
        grow(build(24, 16, 2, {4: 12, 8: 11}, 8, 1.0), small.state_dict())


def test_growing_keeps_what_noise_of_another_strength_gave() -> None:
    from scripts.decoder.network import build, grow

    channels = {4: 12, 8: 10}
    small = Generator(24, 16, 2, channels, lr_mul=1.0)
    with torch.no_grad():
        for name, parameter in small.named_parameters():
            if name.endswith("noise_strength"):
                parameter.fill_(0.7)
    trained = grow(build(24, 16, 2, channels, 8, 1.0), small.state_dict())
    z = torch.randn(3, 24)
    assert torch.allclose(trained(z), small(z), atol=1e-5)
    assert trained.get_parameter("synthesis.b8.conv1.noise_strength").item() == 1.0
    fresh = build(24, 16, 2, channels, 8, 1.0)
    assert not fresh.get_parameter("synthesis.b8.conv1.noise_const").any()


def test_the_loss_sees_every_kind_of_error() -> None:
    from scripts.decoder.loss import distance, psnr

    weights = {"contrast": 1.0, "detail": 1.0, "edges": 1.0}
    target = torch.zeros(2, 3, 32, 32)
    target[:, :, 10:14, 10:14] = 1.0
    assert distance(target, target, **weights).item() == 0
    shifted = target.roll(1, dims=3)
    assert distance(shifted, target, **weights) > distance(
        shifted, target, **weights | {"edges": 0}
    )
    on_eye, off_eye = target.clone(), target.clone()
    on_eye[:, :, 10, 10] -= 0.5
    off_eye[:, :, 25, 25] += 0.5
    pixels = {"contrast": 4.0, "detail": 0.0, "edges": 0.0}
    assert distance(on_eye, target, **pixels) > 2 * distance(off_eye, target, **pixels)
    missing = {"contrast": 0.0, "detail": 0.0, "edges": 0.0, "squares": 1.0}
    little, much = (distance(target + error, target, **missing) for error in (0.1, 0.5))
    assert little.item() == pytest.approx(0.1 + 0.01)
    assert much.item() == pytest.approx(0.5 + 0.25)
    assert psnr(target + 0.2, target - 0.0) > psnr(target - 0.5, target)
    assert psnr(target - 0.2, target) == pytest.approx(10 * math.log10(4 / 0.04), abs=1e-4)


@pytest.fixture
def training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[StartTraining]:
    """A training of coloured squares instead of dogs, two shards of 24 drawn, not yet begun."""
    from scripts.decoder.training import Training

    def draw(attributes: np.ndarray, size: int) -> np.ndarray:
        image = np.zeros((size, size, 3), np.uint8)
        image[:] = 128 + 60 * np.tanh(attributes[:3])
        image[size // 4 : size // 2, size // 4 : size // 2] = 128 + 100 * np.tanh(attributes[3])
        return image

    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # these networks are too small for more, and CI's cores are shared
    monkeypatch.setattr(shards, "draw", draw)
    monkeypatch.setattr(shards, "SHARD", 24)
    config = {
        "name": "squares", "licence": "none", "seed": 3, "size": 16, "basis_seed": 0,
        "w_dim": 32, "mapping_layers": 2, "lr_mul": 1.0, "channels": {4: 16, 8: 16, 16: 16, 32: 8},
        "compile": False,
        "psi": 1.0, "cutoff": None, "shards": 4, "ema_images": 64, "between_ears": 4.0,
        "loss": {"contrast": 0.5, "detail": 1.0, "edges": 1.0},
        "stages": [
            {"resolution": 8, "images": 160, "batch": 8, "lr": 3e-3, "matrix_lr": 3e-3,
             "hold": 1.0},
            {"resolution": 16, "images": 160, "batch": 8, "lr": 3e-3, "matrix_lr": 3e-3,
             "hold": 0.5},
            {"resolution": 32, "images": 80, "batch": 8, "lr": 3e-3, "matrix_lr": 3e-3,
             "hold": 0.5, "frozen": 8},
        ],
    }  # fmt: skip

    def make(folder: str) -> Training:
        made = Training(config, tmp_path / folder, torch.device("cpu"))
        for number in range(2):
            path = made.gallery.folder / f"{number:06d}.npy"
            shards.draw_shard(path, number, 24, 16, made.gallery.basis)
        made.gallery.set_resolution(8, 2)
        return made

    yield make
    torch.set_num_threads(threads)


@pytest.mark.slow
def test_ears_between_two_kinds_are_seen_more_often(training: StartTraining) -> None:
    from scripts.decoder.emphasis import between_ears, emphasis

    gallery = training("run").gallery
    found = np.array([between_ears(a.numpy()) for a, _ in gallery.shards.values() for a in a])
    assert 0 <= found.min() < 0.01
    assert 0.8 < found.max() <= 1
    sampler = torch.Generator().manual_seed(0)
    attributes, images = gallery.sample(4000, sampler)
    seen = np.mean([between_ears(a.numpy()) for a in attributes])
    expected = (found * (1 + 4 * found)).sum() / (1 + 4 * found).sum()
    assert seen == pytest.approx(expected, abs=0.02)
    assert seen > 1.5 * found.mean()
    # A picture comes with its own attributes: its square is as bright as the fourth says.
    bright = 100 * torch.tanh(attributes[:, 3])
    shown = (images[:, :, 2, 2] * 127.5).mean(1)
    assert torch.allclose(shown[:50], bright[:50], atol=2)
    assert emphasis(attributes.numpy()[:3], 0.0).tolist() == [1.0, 1.0, 1.0]


def test_a_resumed_training_goes_on_exactly_where_it_was(training: StartTraining) -> None:
    one, other = training("run"), training("run")
    first = one.step(0).item()
    for i in range(1, 12):
        last = one.step(i).item()
    assert last < first
    one.save()
    other.load()
    assert one.step(100).item() == other.step(100).item()
    for a, b in zip(one.mean.parameters(), other.mean.parameters(), strict=True):
        assert torch.equal(a, b)
    learned = other.mean.get_parameter("synthesis.b8.conv1.noise_const")
    assert learned.std() > 0
    assert (other.stage, other.seen_in_stage, other.seen) == (0, 104, 104)


def test_an_export_renders_what_was_trained_and_starts_another_training(
    training: StartTraining, tmp_path: Path
) -> None:
    one = training("run")
    for i in range(20):
        one.step(i)
    one.next_stage()
    one.gallery.set_resolution(16, 2)
    for i in range(5):
        one.step(i)
    path = tmp_path / "squares.safetensors"
    one.export(path)
    decoder = load_decoder(path)
    z = torch.randn(4, 512)
    unit = z * math.sqrt(512) / z.norm(dim=1, keepdim=True)
    with torch.no_grad():
        painted = to_bytes(one.paint(one.mean, unit @ one.basis.float())).numpy()
    # float16 weights and bfloat16 convolutions on the one side, float32 on the other
    assert np.abs(decoder.render(z).astype(int) - painted.astype(int)).max() <= 12
    assert decoder.generator.mapping.w_avg.abs().sum() > 0
    assert decoder.metadata["training"]["images"] == one.seen == 200
    other = training("another")
    other.warm_start(path)
    assert (other.stage, other.seen) == (1, 200)
    for a, b in zip(one.mean.parameters(), other.model.parameters(), strict=True):
        assert torch.allclose(a, b, atol=5e-3)


def test_rate_warms_up_holds_and_falls() -> None:
    from scripts.decoder.training import FINAL_LR, WARM_UP, Stage

    stage = Stage(resolution=16, images=1000, batch=10, lr=0.5, matrix_lr=0.1, hold=0.4)
    assert stage.part_of_rate(0, 0) == pytest.approx(1 / WARM_UP)
    assert stage.part_of_rate(400, 1000) == 1.0
    assert stage.part_of_rate(700, 1000) == pytest.approx((1 + FINAL_LR) / 2)
    assert stage.part_of_rate(5000, 1000) == pytest.approx(FINAL_LR)


@pytest.mark.parametrize("shape", [(24, 9), (9, 24), (16, 16)])
def test_orthogonalise_keeps_directions_and_evens_out_sizes(shape: tuple[int, int]) -> None:
    from scripts.decoder.optimiser import orthogonalise

    matrix = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    u, _, v = torch.linalg.svd(matrix, full_matrices=False)
    within = u.T @ orthogonalise(matrix.float()).double() @ v.T
    # This iteration's coefficients leave singular values between about 0.7 and 1.2.
    assert within.diagonal().min() > 0.6
    assert within.diagonal().max() < 1.3
    assert (within - within.diagonal().diag()).abs().max() < 0.1


def test_a_frozen_stage_draws_at_its_own_size_and_trains_larger_blocks_only(
    training: StartTraining,
) -> None:
    one = training("run")
    one.step(0)
    one.next_stage()
    one.next_stage()
    one.gallery.resolution = 32
    assert one.gallery.size == 32
    assert one.gallery.folder.name.endswith("-32")

    path = one.gallery.folder / "000000.npy"
    shards.draw_shard(path, 0, 24, 32, one.gallery.basis)
    one.gallery.set_resolution(32, 1)
    before = {name: value.clone() for name, value in one.model.state_dict().items()}
    for i in range(3):
        one.step(i)
    after = one.model.state_dict()
    changed = {name for name, value in before.items() if not torch.equal(value, after[name])}
    assert {name.split(".")[1] for name in changed} == {"b16", "b32"}


def test_former_attributes_draw_what_the_new_ones_draw() -> None:
    from scripts.decoder.fit_mapping import BLENDED, former_attributes
    from scripts.dogs.attributes import ATTRIBUTES, blend, ramp, traits_of

    attributes = np.random.default_rng(0).uniform(-1.5, 1.5, (20, len(ATTRIBUTES)))
    for new, old in zip(attributes, former_attributes(attributes), strict=True):
        now, before = traits_of(new), traits_of(old)
        for name in BLENDED:
            assert ramp(before[name]) == pytest.approx(blend(now[name]), abs=0.02)
        assert {n for n in ATTRIBUTES if now[n] != before[n]} == {*BLENDED, "mark_light"}


def test_a_fitted_mapping_gives_the_former_one_s_w() -> None:
    from scripts.decoder.fit_mapping import Former, descend, metric_of, to_input
    from scripts.decoder.network import build
    from scripts.dogs.attributes import ATTRIBUTES

    generator = build(len(ATTRIBUTES), 16, 2, {4: 12, 8: 10}, 8, 1.0)
    former = Former(copy.deepcopy(generator.mapping), metric_of(generator))
    attributes = np.random.default_rng(1).standard_normal((200, len(ATTRIBUTES)))
    target, red = former.target(attributes), former.red_target(attributes)

    def error(wanted: torch.Tensor) -> float:
        with torch.no_grad():
            w = generator.mapping.from_normalised(to_input(attributes))
        return ((w - wanted) @ former.metric).square().mean().item()

    first = error(target)
    descend(generator.mapping, former, 80, 0)
    assert error(target) < 0.96 * first
    before = error(red)
    descend(generator.mapping, former, 0, 80)
    assert error(red) < before
