"""NVIDIA's generators: stylegan2-ada-pytorch's, and the StyleGAN2 configurations of stylegan3."""

import math
from typing import Any

from huref.decoder.dialects.converted import Converted, require_symmetric, unsupported
from huref.decoder.network_files import NetworkFile

NVIDIA_LICENCE = "NVIDIA Source Code License, non-commercial use only"


def convert_nvidia(file: NetworkFile) -> Converted:
    """Take the tensors unchanged, after checking the settings in the modules' attributes.

    Raises:
        CheckpointError: a variant that `huref.decoder.stylegan2` does not render.
    """
    names = file.entries
    if any(name.startswith("mapping.embed.") for name in names):
        raise unsupported(file, "it needs labels (c_dim > 0)")
    if any(".skip." in name for name in names):
        raise unsupported(file, "its architecture is 'resnet'")
    if "synthesis.b4.torgb.weight" not in names:
        raise unsupported(file, "its architecture is 'orig', without colours at every resolution")
    state = file.read(name for name in names if not name.startswith("num_batches"))
    require_symmetric(file, state)
    layers = {name: module.state for name, module in file.modules.items()}
    for layer in layers.values():
        if layer.get("activation", "lrelu") not in ("lrelu", "linear"):
            raise unsupported(file, "its activation is not the usual 'lrelu'")
        if layer.get("use_noise", True) is not True:
            raise unsupported(file, "it has no noise inputs")
    rates = [m.get("bias_gain") for name, m in layers.items() if name.startswith("mapping.fc")]
    clamps = [m["conv_clamp"] for m in layers.values() if "conv_clamp" in m]
    notes = [] if file.modules else ["lr_mul 0.01 and no clamp are NVIDIA's defaults"]
    lr_mul = _setting(file, rates, "learning rate") or 0.01
    settings = {"lr_mul": lr_mul, "clamp": _setting(file, clamps, "clamping")}
    return Converted("stylegan2", state, settings, NVIDIA_LICENCE, notes)


def _setting(file: NetworkFile, values: list[Any], what: str) -> float | None:
    """The positive number that all layers have in common; None if no layer has one."""
    for value in values:
        if value is None:
            continue
        if type(value) not in (int, float) or not 0 < value < math.inf:
            raise unsupported(file, f"its {what} is not a positive number")
    if len(set(values)) > 1:
        raise unsupported(file, f"its layers differ in {what}")
    return float(values[0]) if values and values[0] is not None else None
