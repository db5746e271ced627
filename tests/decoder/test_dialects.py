"""StyleGAN2 checkpoints of other code bases give the same picture as the code that made them."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import save_file
from torch import Tensor

from huref.api.fingerprint import fingerprint
from huref.assets import locate
from huref.cli import main
from huref.decoder.library import import_decoder, list_decoders
from huref.decoder.render import load_decoder
from huref.errors import CheckpointDigestError, CheckpointError, RecordError
from huref.recipe import load_recipe
from tests.support.generator_arithmetic import SIDES, W
from tests.support.lucidrains_generator import lucidrains_image, lucidrains_state
from tests.support.nvidia_generator import (
    install_nvidia_modules,
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
from tests.support.zoo import ROOT

CLOSE = 1e-4


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    install_nvidia_modules(monkeypatch)
    monkeypatch.setenv("HUREF_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


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


def reject(path: Path, match: str) -> None:
    with pytest.raises((CheckpointError, CheckpointDigestError), match=match) as caught:
        import_decoder(path, "refused")
    assert path.name in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not list((path.parent / "home").rglob("*.safetensors")), "nothing is left behind"


def without(state: dict[str, Tensor], *parts: str) -> dict[str, Tensor]:
    return {k: v for k, v in state.items() if not any(part in k for part in parts)}


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda s: s | {"mapping.embed.weight": torch.ones(2, 2)}, "labels"),
        (lambda s: s | {"synthesis.b8.skip.weight": torch.ones(2, 2)}, "resnet"),
        (lambda s: without(s, "b4.torgb", "b8.torgb"), "orig"),
        (
            lambda s: without(s, "b8.conv0.affine"),
            r"conv0\.affine\.weight': it is missing; .* has one of shape",
        ),
        (lambda s: s | {"mapping.fc0.weight": torch.ones(W, 64)}, "64 dimensions"),
        (lambda s: s | {"mapping.w_avg": torch.full((W,), torch.nan)}, "NaN"),
        (lambda s: s | {"synthesis.b4.resample_filter": torch.eye(4).roll(1, 0)}, "symmetric"),
        (lambda s: s | {"synthesis.b4.resample_filter": torch.ones(12)}, "filter of shape"),
        (lambda s: {"synthesis.L0_36_512.weight": torch.ones(2, 2)}, "StyleGAN3"),
        (lambda s: {"model.embed.weight": torch.ones(9, 9)}, r"not a StyleGAN2.*model\.embed"),
    ],
)
def test_variants_that_cannot_be_rendered(tmp_path: Path, change: Any, match: str) -> None:
    path = tmp_path / "x.safetensors"
    save_file({k: v.contiguous() for k, v in change(nvidia_state()).items()}, path)
    reject(path, match)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"GE.attns.0.fn.to_q.weight": torch.ones(2, 2)}, "attention"),
        ({"GE.to_initial_block.weight": torch.ones(2, 2)}, "no_const"),
        ({"GE.blocks.0.to_rgb.conv.weight": torch.ones(4, 12, 1, 1)}, "transparent"),
    ],
)
def test_variants_of_lucidrains(tmp_path: Path, change: dict[str, Tensor], match: str) -> None:
    path = tmp_path / "model_3.pt"
    torch.save({"GAN": lucidrains_state() | change, "version": "1"}, path)
    reject(path, match)
    state = without(lucidrains_state(), "blocks.1.to_noise2")
    torch.save({"GAN": state, "version": "1"}, path)
    reject(path, "to_noise2")


@pytest.mark.parametrize(
    ("attribute", "value", "match"),
    [
        ("activation", "relu", "activation"),
        ("use_noise", False, "noise"),
        ("conv_clamp", 3.0, "differ in clamping"),
        ("conv_clamp", "often", "clamping is not a positive number"),
        ("conv_clamp", [[]], "clamping is not a positive number"),
        ("activation", [[]], "activation"),
    ],
)
def test_settings_that_cannot_be_rendered(
    tmp_path: Path, attribute: str, value: Any, match: str
) -> None:
    network = nvidia_network(nvidia_state(), None, 0.01)
    setattr(network.get_submodule("synthesis.b8.conv1"), attribute, value)
    write_nvidia(tmp_path / "x.pkl", network)
    reject(tmp_path / "x.pkl", match)


STATES: dict[str, dict[str, Tensor]] = {
    "NVIDIA": nvidia_state(),
    "rosinality": rosinality_state(),
    "lucidrains": {
        name: value
        for name, value in lucidrains_state().items()
        if name.startswith(("SE.", "GE.")) and "upsample" not in name
    },
}
OPTIONAL = ("kernel", "noises", "w_avg")


@pytest.mark.parametrize("wrong", [torch.tensor(1.0), torch.ones(2, 1, 1, 3), torch.ones(0), None])
@pytest.mark.parametrize("dialect", STATES)
def test_a_tensor_of_another_shape_is_refused(
    tmp_path: Path, dialect: str, wrong: Tensor | None
) -> None:
    """One of each kind of tensor, and with a message that is ours."""
    path = tmp_path / "x.safetensors"
    whole = STATES[dialect]
    for name in {re.sub(r"\d+", "#", name): name for name in whole}.values():
        if wrong is None and any(part in name for part in OPTIONAL):
            continue
        if wrong is not None and wrong.dim() == 0 and whole[name].numel() == 1:
            continue
        changed = {k: v for k, v in whole.items() if k != name}
        save_file(changed if wrong is None else changed | {name: wrong}, path)
        with pytest.raises(CheckpointError) as caught:
            import_decoder(path, f"from-{name.lower()}"[:64])
        assert "x.safetensors" in str(caught.value), name


def test_resolutions_beyond_any_are_refused_before_noise_is_drawn(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    one = torch.ones(1)
    huge = {f"GE.blocks.{j}.conv1.weight": one for j in range(40)}
    save_file({k: v.clone() for k, v in huge.items()}, path)
    reject(path, "40 resolutions")
    huge = {f"convs.{j}.conv.weight": one.clone() for j in range(80)} | {"style.1.weight": one}
    save_file(huge, path)
    reject(path, "80 convolutions")
    huge = {f"synthesis.b{4 << j}.conv1.weight": one.clone() for j in range(50)}
    huge |= {"synthesis.b4.torgb.weight": one.clone(), "mapping.fc0.weight": one.clone()}
    save_file(huge, path)
    reject(path, "resolutions")


def test_a_fingerprint_of_an_imported_decoder_finds_it_again(tmp_path: Path, home: Path) -> None:
    path, recipe = tmp_path / "x.safetensors", tmp_path / "own.yaml"
    save_file(nvidia_state(), path)
    import_decoder(path, "dog")
    zoo = ROOT / "checkpoints" / "zoo" / "llama-a"
    dog = fingerprint(zoo, tmp_path / "dog.png", decoder="dog")
    assert not np.array_equal(dog.image, fingerprint(zoo).image)
    assert np.array_equal(fingerprint(tmp_path / "dog.png").image, dog.image)
    shipped = locate("configs/recipes/default.yaml")
    text = shipped.read_text("utf-8").replace("checkpoints/decoder.safetensors", "dog")
    recipe.write_text(text.replace("checkpoints/", f"{shipped.parents[2]}/checkpoints/"))
    assert np.array_equal(fingerprint(zoo, recipe=str(recipe)).image, dog.image)
    for file in home.glob("decoders/*"):
        file.unlink()
    with pytest.raises(RecordError, match="--decoder"):
        fingerprint(tmp_path / "dog.png")


def test_names_and_the_command_line(tmp_path: Path, home: Path) -> None:
    def run(*arguments: object) -> Any:
        return CliRunner().invoke(main, ["decoder", *map(str, arguments)])

    path = tmp_path / "AFHQ Dog (1).pkl"
    write_nvidia(path, nvidia_network(nvidia_state(), 256.0, 0.01))
    made = run("import", path, "--json")
    assert made.exit_code == 0, made.output
    entry = json.loads(made.stdout)
    assert entry["name"] == "afhq-dog-1"
    assert Path(entry["path"]) == home / "decoders" / "afhq-dog-1.safetensors"
    taken = run("import", path)
    assert (taken.exit_code, taken.stdout) == (1, "")
    assert "--replace" in taken.stderr
    again = run("import", path, "--replace", "--psi", "0.9", "--cutoff", "3")
    assert "psi 0.9 on the first 3 layers" in again.stdout
    assert "non-commercial" in again.stdout
    for name in ("../escape", "Upper", "", "a/b", ".hidden"):
        refused = run("import", path, "--name", name)
        assert refused.exit_code == 1
        assert "is no name" in refused.stderr
    assert run("import", path, "--name", "x", "--psi", "1.5").exit_code == 1
    assert run("import", tmp_path / "none.pkl").exit_code == 1
    listed = json.loads(run("list", "--json").stdout)
    assert [(e["name"], e["shipped"]) for e in listed] == [
        ("default", True),
        ("afhq-dog-1", False),
    ]
    text = run("list").stdout.splitlines()
    assert text[0].split() == ["name", "px", "psi", "cutoff", "digest", "licence"]
    assert "non-commercial" in text[2]
    recipe, _, decoder_path = load_recipe("default", "afhq-dog-1")
    assert decoder_path == Path(entry["path"])
    assert recipe.decoder == listed[1]["digest"]
    from_elsewhere = CliRunner().invoke(
        main, ["fingerprint", str(tmp_path), "--decoder", "nobody", "-o", str(tmp_path / "x.png")]
    )
    assert from_elsewhere.exit_code == 1
    assert "afhq-dog-1" in from_elsewhere.stderr
