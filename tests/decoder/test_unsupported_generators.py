"""Generators that cannot be rendered, and damaged ones, are refused with a reason."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from huref.decoder.library import import_decoder
from huref.errors import CheckpointDigestError, CheckpointError
from tests.support.generator_arithmetic import W
from tests.support.lucidrains_generator import lucidrains_state
from tests.support.nvidia_generator import (
    nvidia_network,
    nvidia_state,
    write_nvidia,
)
from tests.support.rosinality_generator import (
    rosinality_state,
)

pytestmark = pytest.mark.usefixtures("nvidia_modules", "home")


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
    """For one tensor of each kind; the error names the file."""
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


def test_absurd_resolutions_are_refused_before_noise_is_drawn(tmp_path: Path) -> None:
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
