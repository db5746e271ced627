import math
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from huref.decoder.picture import contact_sheet, read_png_text, write_png
from huref.decoder.render import load_decoder, save_decoder, to_bytes
from huref.decoder.stylegan2 import (
    SQRT2,
    Generator,
    StyledConv,
    ToRGB,
    resample_filter,
    upsample_image,
)
from huref.errors import CheckpointDigestError, RecordError
from scripts.decoder import shards

if TYPE_CHECKING:
    from scripts.decoder.training import Training

StartTraining = Callable[[str], "Training"]
METADATA = {"name": "test", "licence": "none", "psi": 0.7, "cutoff": 3, "lr_mul": 0.5}


def small_generator(z_dim: int = 24, seed: int = 0) -> Generator:
    torch.manual_seed(seed)
    generator = Generator(z_dim, 16, 2, {4: 12, 8: 10, 16: 8}, lr_mul=0.5, clamp=256.0)
    with torch.no_grad():
        for name, parameter in generator.named_parameters():
            if name.endswith(("bias", "noise_strength")):
                parameter.add_(0.3 * torch.randn_like(parameter))
        generator.mapping.w_avg.normal_()
    return generator.eval().requires_grad_(False)


def zero_insert_and_filter(x: torch.Tensor, up: int = 2) -> torch.Tensor:
    """Up-sample as written down: zeros between samples, the binomial filter, one sum at a time."""
    n, c, h, w = x.shape
    wide = torch.zeros(n, c, up * h + 3, up * w + 3, dtype=x.dtype)
    wide[:, :, 2 : 2 + up * h : up, 2 : 2 + up * w : up] = x
    taps = torch.tensor([1.0, 3.0, 3.0, 1.0], dtype=x.dtype) / 8 * up
    out = torch.zeros(n, c, up * h, up * w, dtype=x.dtype)
    for i in range(4):
        for j in range(4):
            out += taps[i] * taps[j] * wide[:, :, i : i + up * h, j : j + up * w]
    return out


def test_upsampled_image_matches_zero_insertion_and_fir() -> None:
    image = torch.randn(2, 3, 5, 5, dtype=torch.float64)
    kernel = resample_filter().double()
    assert torch.allclose(upsample_image(image, kernel), zero_insert_and_filter(image), atol=1e-12)


@pytest.mark.parametrize("up", [False, True])
def test_styled_conv_matches_a_weight_of_its_own_per_sample(up: bool) -> None:
    torch.manual_seed(1)
    layer = StyledConv(5, 7, 6, 16 if up else 8, up=up).double()
    with torch.no_grad():
        layer.bias.normal_()
        layer.noise_strength.fill_(0.4)
    x = torch.randn(3, 5, 8, 8, dtype=torch.float64)
    w = torch.randn(3, 6, dtype=torch.float64)
    expected = []
    for sample, code in zip(x, w, strict=True):
        style = code @ layer.affine.weight.T / math.sqrt(6) + layer.affine.bias
        weight = layer.weight * style[None, :, None, None]
        weight = weight / (weight.square().sum((1, 2, 3), keepdim=True) + 1e-8).sqrt()
        y = torch.zeros(7, *layer.noise_const.shape, dtype=torch.float64)
        if up:
            # Every input pixel stamps the kernel on a grid of twice the step, then the filter.
            grid = torch.zeros(1, 7, 19, 19, dtype=torch.float64)
            for i in range(8):
                for j in range(8):
                    stamp = torch.einsum("oiab,i->oab", weight, sample[:, i, j])
                    grid[0, :, 2 * i + 1 : 2 * i + 4, 2 * j + 1 : 2 * j + 4] += stamp
            taps = torch.tensor([1.0, 3.0, 3.0, 1.0], dtype=torch.float64) / 4
            for i in range(4):
                for j in range(4):
                    y += taps[i] * taps[j] * grid[0, :, i : i + 16, j : j + 16]
        else:
            padded = torch.nn.functional.pad(sample, (1, 1, 1, 1))
            for i in range(3):
                for j in range(3):
                    patch = padded[:, i : i + 8, j : j + 8]
                    y += torch.einsum("oi,ihw->ohw", weight[:, :, i, j], patch)
        y = y + 0.4 * layer.noise_const + layer.bias[:, None, None]
        y = torch.where(y > 0, y, 0.2 * y) * SQRT2
        expected.append(y.clamp(-2.0, 2.0))
    assert torch.allclose(layer(x, w, 2.0), torch.stack(expected), atol=1e-10)


def test_torgb_is_modulated_but_not_normalised() -> None:
    torch.manual_seed(2)
    layer = ToRGB(5, 6)
    x, w = torch.randn(2, 5, 4, 4), torch.randn(2, 6)
    style = (w @ layer.affine.weight.T / math.sqrt(6) + layer.affine.bias) / math.sqrt(5)
    expected = torch.einsum("oi,ni,nihw->nohw", layer.weight[:, :, 0, 0], style, x)
    assert torch.allclose(layer(x, w, None), expected, atol=1e-5)


def test_mapping_follows_the_published_arithmetic() -> None:
    mapping = small_generator().mapping
    z = 3.0 * torch.randn(4, 24)
    x = z / z.square().mean(1, keepdim=True).sqrt()
    for i in range(2):
        layer: Any = mapping.get_submodule(f"fc{i}")
        x = x @ (layer.weight * 0.5 / math.sqrt(layer.weight.shape[1])).T + 0.5 * layer.bias
        x = torch.where(x > 0, x, 0.2 * x) * SQRT2
    assert torch.allclose(mapping(z), x, atol=1e-5)


def test_truncation_reaches_only_the_first_layers() -> None:
    generator = small_generator()
    w, mean = torch.randn(2, 16), generator.mapping.w_avg
    ws = generator.truncate(w, 0.5, 2)
    assert len(ws) == generator.synthesis.num_ws == 6
    assert torch.allclose(ws[1], mean + 0.5 * (w - mean))
    assert torch.equal(ws[2], w)
    assert all(torch.equal(a, ws[0]) for a in generator.truncate(w, 0.5, None))


def test_each_layer_takes_its_own_w() -> None:
    """A block's torgb shares its w with the next block's conv0."""
    generator = small_generator()
    ws = list(torch.randn(6, 2, 16))
    blocks: dict[int, Any] = {r: generator.synthesis.get_submodule(f"b{r}") for r in (4, 8, 16)}
    x = generator.get_parameter("synthesis.b4.const").expand(2, -1, -1, -1)
    x = blocks[4].conv1(x, ws[0], 256.0)
    image = blocks[4].torgb(x, ws[1], 256.0)
    for resolution, first in ((8, 1), (16, 3)):
        block = blocks[resolution]
        x = block.conv1(block.conv0(x, ws[first], 256.0), ws[first + 1], 256.0)
        colour = block.torgb(x, ws[first + 2], 256.0)
        image = zero_insert_and_filter(image) + colour
    assert torch.allclose(generator.synthesis(ws), image, atol=1e-4)


def test_from_state_reads_every_size_from_the_tensors() -> None:
    generator = small_generator()
    again = Generator.from_state(generator.state_dict(), lr_mul=0.5, clamp=256.0)
    assert again.channels == {4: 12, 8: 10, 16: 8}
    z = torch.randn(3, 24)
    assert torch.equal(generator(z, 0.7, 2), again(z, 0.7, 2))
    # 2 fully connected layers and w_avg; 13 tensors at 4 px; 19 at each further resolution.
    assert len(generator.state_dict()) == 5 + 13 + 2 * 19


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("mapping.fc0.weight"), "fc0"),
        (lambda s: s.pop("synthesis.b8.conv1.weight"), "resolutions"),
        (lambda s: s.update({"synthesis.b8.conv0.bias": torch.zeros(3)}), "conv0.bias"),
        (lambda s: s.update({"synthesis.b8.skip.weight": torch.zeros(3)}), "skip"),
        (lambda s: s.update({"mapping.fc0.weight": torch.zeros(3)}), "fc0"),
        (lambda s: s.clear(), "StyleGAN2"),
    ],
)
def test_tensors_of_something_else_are_refused(
    change: Callable[[dict[str, torch.Tensor]], object], message: str
) -> None:
    state = dict(small_generator().state_dict())
    change(state)
    with pytest.raises(CheckpointDigestError, match=message):
        Generator.from_state(state)


def test_decoder_file_gives_the_same_bytes_whatever_the_batch(tmp_path: Path) -> None:
    path = tmp_path / "decoder.safetensors"
    saved = save_decoder(path, small_generator().state_dict(), METADATA | {"clamp": 256.0})
    decoder = load_decoder(path)
    assert decoder.digest == saved.digest
    assert len(decoder.digest) == 64
    z = torch.randn(5, 24)
    images = decoder.render(z)
    assert images.shape == (5, 16, 16, 3)
    assert images.dtype == np.uint8
    assert np.array_equal(images[3:4], load_decoder(path).render(z[3:4]))
    assert np.array_equal(images, decoder.render(2.5 * z)), "only the direction of z matters"
    assert not np.array_equal(images[0], images[1])
    half = {k: v.half().float() for k, v in small_generator().state_dict().items()}
    expected = Generator.from_state(half, lr_mul=0.5, clamp=256.0)(z, 0.7, 3)
    assert np.abs(images.astype(int) - to_bytes(expected).numpy().astype(int)).max() <= 1


def test_another_machine_may_differ_by_one_level_at_most(tmp_path: Path) -> None:
    """What differs between machines is the order of sums: here, by threads and memory layout."""
    decoder = save_decoder(tmp_path / "d", small_generator().state_dict(), METADATA)
    z = torch.randn(4, 24)
    images = decoder.render(z).astype(int)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1 if threads > 1 else 2)
        assert np.abs(decoder.render(z) - images).max() <= 1
    finally:
        torch.set_num_threads(threads)
    exact = decoder.generator.double()(z.double(), 0.7, 3)
    assert np.abs(to_bytes(exact).numpy() - images).max() <= 1


def test_another_setting_is_another_digest(tmp_path: Path) -> None:
    state = small_generator().state_dict()
    one = save_decoder(tmp_path / "a", state, METADATA | {"clamp": None})
    other = save_decoder(tmp_path / "b", state, METADATA | {"clamp": None, "psi": 0.6})
    assert one.digest != other.digest


@pytest.mark.parametrize("shape", [(24,), (1, 23), (1, 24, 1)])
def test_latents_of_another_shape_are_refused(tmp_path: Path, shape: tuple[int, ...]) -> None:
    decoder = save_decoder(tmp_path / "d", small_generator().state_dict(), METADATA)
    with pytest.raises(ValueError, match="latents"):
        decoder.render(torch.zeros(shape))
    with pytest.raises(ValueError, match="finite"):
        decoder.render(torch.full((1, 24), math.nan))


def test_files_that_are_not_decoders_are_refused(tmp_path: Path) -> None:
    good = tmp_path / "good.safetensors"
    save_decoder(good, small_generator().state_dict(), METADATA)
    tensors = load_file(good)
    bad = tmp_path / "bad.safetensors"

    def refused(match: str) -> None:
        with pytest.raises(CheckpointDigestError, match=match) as caught:
            load_decoder(bad)
        assert "\n" not in str(caught.value)

    refused("not a readable decoder")  # not there at all
    bad.write_bytes(b"not safetensors")
    refused("not a readable decoder")
    bad.write_bytes(good.read_bytes()[:-100])
    refused("not a readable decoder")
    save_file(tensors, bad)
    refused("not a decoder of huref")
    save_file(tensors, bad, metadata={"format": "huref decoder 1", "psi": "{"})
    refused("metadata")
    altered = bytearray(good.read_bytes())
    altered[-1] ^= 1
    bad.write_bytes(altered)
    refused("altered")
    for wrong, match in (
        ({"psi": "much"}, "numbers"),
        ({"lr_mul": None}, "numbers"),
        ({"cutoff": 1.5}, "cutoff"),
    ):
        with pytest.raises(CheckpointDigestError, match=match):
            save_decoder(bad, small_generator().state_dict(), METADATA | wrong)
    state = small_generator().state_dict() | {"mapping.w_avg": torch.full((16,), math.inf)}
    with pytest.raises(CheckpointDigestError, match="infinite"):
        save_decoder(bad, state, METADATA)


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
