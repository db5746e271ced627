"""StyleGAN2 checkpoints of other code bases give the same picture as the code that made them."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from huref.decoder.library import import_decoder, list_decoders
from huref.decoder.render import load_decoder
from tests.support.generator_arithmetic import SIDES, W
from tests.support.lucidrains_generator import lucidrains_image, lucidrains_state
from tests.support.nvidia_generator import (
    nvidia_image,
    nvidia_network,
    nvidia_state,
    write_nvidia,
)
from tests.support.rosinality_generator import (
    rosinality_image,
    rosinality_state,
    rosinality_training,
)

pytestmark = pytest.mark.usefixtures("nvidia_modules", "home")
CLOSE = 1e-4


def latents(count: int = 3) -> Tensor:
    return 2.0 * torch.randn(count, 512, generator=torch.Generator().manual_seed(9))


@pytest.mark.parametrize("protocol", [3, 4, 5])
@pytest.mark.parametrize(
    ("psi", "cutoff", "clamp", "lr_mul"),
    [(1.0, None, None, 0.01), (0.5, 4, 256.0, 0.01), (0.7, None, 0.8, 0.1)],
)
def test_nvidia_pickles(
    tmp_path: Path, protocol: int, psi: float, cutoff: int | None, clamp: float, lr_mul: float
) -> None:
    state = nvidia_state(lr_mul=lr_mul)
    path = tmp_path / "stylegan2-afhqdog-512x512.pkl"
    write_nvidia(path, nvidia_network(state, clamp, lr_mul), protocol)
    decoder, entry = import_decoder(path, "dog")
    assert (entry.psi, entry.cutoff) == (0.5, 8), "AFHQ, by the file's name"
    assert "non-commercial" in entry.licence
    assert decoder.metadata["clamp"] == clamp
    assert decoder.metadata["lr_mul"] == lr_mul
    for name, value in decoder.generator.state_dict().items():
        assert torch.equal(value, state[name]), name
    z = latents()
    images = decoder.generator(z, psi, cutoff)
    for image, latent in zip(images, z, strict=True):
        expected = nvidia_image(state, latent, psi, cutoff, clamp, lr_mul)
        assert expected.abs().max() > 1, "a picture of nothing proves nothing"
        assert (image - expected).abs().max() < CLOSE


@pytest.mark.parametrize("is_zip", [True, False])
@pytest.mark.parametrize("kind", ["converted", "training"])
def test_rosinality_files(tmp_path: Path, is_zip: bool, kind: str) -> None:
    state, mean = rosinality_state(), 0.3 * torch.randn(W)
    path = tmp_path / "550000.pt"
    saved: dict[str, Any] = {"g_ema": state, "latent_avg": mean}
    if kind == "training":
        saved = rosinality_training(state)
    torch.save(saved, path, _use_new_zipfile_serialization=is_zip)
    decoder, entry = import_decoder(path, psi=0.7, licence="MIT")
    assert (entry.name, entry.psi, entry.cutoff) == ("550000", 0.7, None)
    assert entry.licence == "MIT"
    z = latents()
    stored = decoder.generator.mapping.w_avg
    if kind == "training":
        w = decoder.generator.mapping(torch.randn(4000, 512))
        assert (w.mean(0) - stored).abs().max() < 0.1 * w.std(), "averaged, for want of a mean"
    else:
        assert torch.equal(stored, mean)
    images = decoder.generator(z, 0.7, None)
    for image, latent in zip(images, z, strict=True):
        expected = rosinality_image(state, stored, latent, 0.7)
        assert expected.abs().max() > 1
        assert (image - expected).abs().max() < CLOSE


def test_rosinality_without_noise_or_filters_gets_noise_of_its_own(tmp_path: Path) -> None:
    whole = rosinality_state()
    state = {k: v for k, v in whole.items() if "noises" not in k and "kernel" not in k}
    torch.save({"g_ema": state, "latent_avg": torch.zeros(W)}, tmp_path / "old.pt")
    decoder, _ = import_decoder(tmp_path / "old.pt", "one")
    again, _ = import_decoder(tmp_path / "old.pt", "two")
    assert any("noise" in note for note in decoder.metadata["notes"])
    tensors = decoder.generator.state_dict()
    for name, value in again.generator.state_dict().items():
        assert torch.equal(value, tensors[name]), name
    order = {"noise_0": "b4.conv1"}
    for j, side in enumerate(SIDES[1:]):
        order |= {f"noise_{2 * j + 1}": f"b{side}.conv0", f"noise_{2 * j + 2}": f"b{side}.conv1"}
    noises = {
        f"noises.{theirs}": tensors[f"synthesis.{ours}.noise_const"][None, None]
        for theirs, ours in order.items()
    }
    expected = rosinality_image(state | noises, None, latents()[0], 1.0)
    assert (decoder.generator(latents()[:1])[0] - expected).abs().max() < CLOSE


@pytest.mark.parametrize("psi", [1.0, 0.6])
def test_lucidrains_files(tmp_path: Path, psi: float) -> None:
    state = lucidrains_state()
    torch.save({"GAN": state, "version": "1.9.0"}, tmp_path / "model_100.pt")
    decoder, entry = import_decoder(tmp_path / "model_100.pt", psi=psi)
    assert (entry.architecture, entry.resolution) == ("stylegan2-pytorch", SIDES[-1])
    noise = decoder.generator.state_dict()["synthesis.noise"].T
    assert (noise.min() >= 0, noise.max() <= 1, noise.std() > 0.2) == (True, True, True)
    z, mean = latents(), decoder.generator.mapping.w_avg
    images = decoder.generator(z, psi, None)
    for image, latent in zip(images, z, strict=True):
        expected = lucidrains_image(state, noise, latent, mean, psi)
        assert expected.abs().max() > 1
        assert ((image + 1) / 2 - expected).abs().max() < CLOSE
    again = load_decoder(entry.path)
    assert (again.render(z) == decoder.render(z)).all()


def test_converted_safetensors_of_every_dialect(tmp_path: Path) -> None:
    nvidia, rosinality = nvidia_state(), rosinality_state()
    z = latents()[:1]
    save_file(nvidia, tmp_path / "a.safetensors")
    decoder, entry = import_decoder(tmp_path / "a.safetensors")
    expected = nvidia_image(nvidia, z[0], 1.0, None, None, 0.01)
    assert (decoder.generator(z)[0] - expected).abs().max() < CLOSE
    save_file(rosinality | {"latent_avg": torch.zeros(W)}, tmp_path / "b.safetensors")
    other, _ = import_decoder(tmp_path / "b.safetensors")
    expected = rosinality_image(rosinality, None, z[0], 1.0)
    assert (other.generator(z)[0] - expected).abs().max() < CLOSE
    copied, copy = import_decoder(Path(entry.path), "copy")
    assert copied.render(z).tolist() == decoder.render(z).tolist()
    assert copy.name == "copy"
    shipped = Path(list_decoders()[0].path)
    moved, _ = import_decoder(shipped, "shipped", psi=0.8)
    assert moved.metadata["psi"] == 0.8
    assert Path(list_decoders()[-1].path).stat().st_size < 1.01 * shipped.stat().st_size
