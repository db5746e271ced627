"""Adapters whose settings or tensors are odd: refused by name, or merged as if they were not.

As test_odd_quantisation.py. The scale is a number that may be any, so that other values of it are
other adapters; test_adapter_kinds.py holds them against PEFT.
"""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from huref.errors import CheckpointError, HurefError
from huref.loader.checkpoint import open_checkpoint
from tests.loader.test_odd_quantisation import places, replaced

Tensors = dict[str, Tensor]
Settings = dict[str, Any]
ROOT = "base_model.model."
Q = "model.layers.0.self_attn.q_proj"
DOWN = "model.layers.0.mlp.down_proj"
EMBED = f"{ROOT}model.embed_tokens"


def noise(*shape: int) -> Tensor:
    return torch.randn(*shape) * 0.3


def lora(**more: Tensor) -> Tensors:
    pair = {f"{ROOT}{Q}.lora_A.weight": noise(4, 24), f"{ROOT}{Q}.lora_B.weight": noise(16, 4)}
    return {**pair, **more}


def of_q(**parts: Tensor) -> Tensors:
    return {f"{ROOT}{Q}.{role}": part for role, part in parts.items()}


def adapters() -> dict[str, tuple[Settings, Tensors]]:
    """kind -> (adapter_config.json, tensors)."""
    torch.manual_seed(0)
    plain: Settings = {
        "peft_type": "LORA", "r": 4, "lora_alpha": 12, "target_modules": ["q_proj"],
        "use_rslora": False, "use_dora": False, "init_lora_weights": True, "rank_pattern": {},
        "alpha_pattern": {}, "modules_to_save": None,
    }  # fmt: skip
    magnitude = {f"{ROOT}{Q}.lora_magnitude_vector": noise(16).abs()}
    tokens = {f"{EMBED}.token_adapter.trainable_tokens_delta": noise(2, 24)}
    saved = {f"{ROOT}lm_head.modules_to_save.weight": noise(40, 24)}
    mlx: Settings = {
        "fine_tune_type": "lora", "num_layers": 1, "lora_parameters": {"rank": 4, "scale": 3.0},
    }  # fmt: skip
    pair = {f"{Q}.lora_a": noise(24, 4), f"{Q}.lora_b": noise(4, 16)}
    return {
        "LoRA": (plain, lora()),
        "patterns": (
            {**plain, "rank_pattern": {"q_proj": 4}, "alpha_pattern": {r".*\.0\..*q_proj": 7}},
            lora()),
        "DoRA": ({**plain, "use_dora": True}, lora(**magnitude)),
        "PiSSA": ({**plain, "init_lora_weights": "pissa"}, lora()),
        "OLoRA": ({**plain, "init_lora_weights": "olora"}, lora()),
        "tokens": ({**plain, "trainable_token_indices": {"embed_tokens": [1, 3]}}, lora(**tokens)),
        "embedding": (
            {**plain, "target_modules": ["embed_tokens"]},
            {f"{EMBED}.lora_embedding_A": noise(4, 40), f"{EMBED}.lora_embedding_B": noise(24, 4)}),
        "saved module": ({**plain, "modules_to_save": ["lm_head"]}, lora(**saved)),
        "AdaLoRA": (
            {"peft_type": "ADALORA", "init_r": 4, "lora_alpha": 8, "rank_pattern": None},
            of_q(lora_A=noise(4, 24), lora_B=noise(16, 4), lora_E=noise(4, 1))),
        "LoHa": (
            {"peft_type": "LOHA", "r": 4, "alpha": 8, "rank_pattern": {}, "alpha_pattern": {}},
            of_q(hada_w1_a=noise(16, 4), hada_w1_b=noise(4, 24), hada_w2_a=noise(16, 4),
                 hada_w2_b=noise(4, 24))),
        "LoKr": (
            {"peft_type": "LOKR", "r": 2, "alpha": 8},
            of_q(lokr_w1=noise(4, 2), lokr_w2_a=noise(4, 2), lokr_w2_b=noise(2, 12))),
        "VeRA": (
            {"peft_type": "VERA", "r": 4, "save_projection": True},
            of_q(vera_lambda_b=noise(16), vera_lambda_d=noise(4))
            | {"base_model.vera_A": noise(4, 24), "base_model.vera_B": noise(16, 4)}),
        "IA3": (
            {"peft_type": "IA3", "target_modules": ["q_proj", "down_proj"]},
            of_q(ia3_l=noise(16, 1)) | {f"{ROOT}{DOWN}.ia3_l": noise(1, 32)}),
        "norms": (
            {"peft_type": "LN_TUNING"}, {f"{ROOT}model.norm.ln_tuning_layers.weight": noise(24)}),
        "MLX": (mlx, pair),
        "MLX, older": ({**mlx, "lora_parameters": {"rank": 4, "scale": 3.0, "alpha": 8.0}}, pair),
        "DoRA of MLX": (
            {**mlx, "fine_tune_type": "dora"}, {**pair, f"{Q}.m": noise(16).abs()}),
        "MLX, all weights": ({**mlx, "fine_tune_type": "full"}, {f"{Q}.weight": noise(16, 24)}),
    }  # fmt: skip


KINDS = adapters()
ODD: tuple[Any, ...] = (
    None, True, 0, -1, 3, 8, 10**9, 10**400, 0.5, float("nan"), float("inf"), 1e308, "4", "", [],
    [4], {}, {"a": {}}, "(a+)+$", {"(": 4}, {"q_proj": "x"}, {"q_proj": 0}, {"(a+)+$": 9}, "false",
)  # fmt: skip
# Settings that are the scale, the start, or which rows were trained: other values mean another
# adapter.
FREE = ("lora_alpha", "alpha", "alpha_pattern", "scale", "init_lora_weights", "use_rslora",
        "trainable_token_indices")  # fmt: skip


@pytest.fixture
def base(tmp_path: Path) -> Path:
    torch.manual_seed(1)
    tensors = {
        "model.embed_tokens.weight": torch.randn(40, 24), f"{Q}.weight": torch.randn(16, 24),
        f"{DOWN}.weight": torch.randn(24, 32), "model.norm.weight": torch.ones(24),
        "lm_head.weight": torch.randn(40, 24),
    }  # fmt: skip
    folder = tmp_path / "base"
    folder.mkdir()
    save_file(tensors, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"model_type": "llama", "vocab_size": 40}))
    return folder


def read(base: Path, kind: str, settings: object, tensors: Tensors) -> Tensors:
    """All tensors of the base with an adapter."""
    folder = base.parent / "adapter"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    file = "adapters.safetensors" if "MLX" in kind else "adapter_model.safetensors"
    save_file({name: t.contiguous().clone() for name, t in tensors.items()}, folder / file)
    (folder / "adapter_config.json").write_text(json.dumps(settings))
    checkpoint = open_checkpoint(str(folder), str(base))
    return checkpoint.read(checkpoint.names)


def outcome(base: Path, kind: str, settings: object, tensors: Tensors, merged: Tensors) -> str:
    """`same`, `refused`, `infinite` (which is refused when it is used) or `other`."""
    try:
        found = read(base, kind, settings, tensors)
    except HurefError as error:
        message = str(error)
        assert "\n" not in message
        assert len(message) < 900
        assert any(word in message for word in ("config", "safetensors", "model."))
        return "refused"
    if all(torch.equal(found[name].float(), merged[name].float()) for name in merged):
        return "same"
    finite = all(bool(tensor.float().isfinite().all()) for tensor in found.values())
    return "other" if finite else "infinite"


@pytest.mark.parametrize("kind", KINDS)
def test_odd_settings(base: Path, kind: str) -> None:
    settings, tensors = KINDS[kind]
    merged = read(base, kind, settings, tensors)
    for place in places(settings):
        for odd in ODD if place else (None, [], "", 3):
            found = outcome(base, kind, replaced(settings, place, odd), tensors, merged)
            is_free = any(word in place for word in FREE)
            assert found in ("same", "refused") or is_free, (place, odd)


def changes(part: Tensor) -> Iterator[Tensor]:
    yield from (part.to(dtype) for dtype in (torch.int64, torch.int8, torch.uint8, torch.bool))
    yield from (part.view(torch.uint8), part.flatten()[:0], part.flatten()[:1], part.flatten()[0])
    yield from (part[None], part[..., None], part[:-1], torch.cat([part, part]), part[:1])
    if part.dim() > 1:
        yield from (part.flatten(), part.mT, part[..., :-1], torch.cat([part, part], -1))


@pytest.mark.parametrize("kind", KINDS)
def test_odd_tensors(base: Path, kind: str) -> None:
    settings, tensors = KINDS[kind]
    merged = read(base, kind, settings, tensors)
    for name, part in tensors.items():
        for other in changes(part):
            found = outcome(base, kind, settings, {**tensors, name: other}, merged)
            may_grow = "lm_head" in name and other.shape[1:] == part.shape[1:]  # a vocabulary
            # VeRA's matrices may be those of larger modules, of which the first part is used.
            assert found in ("same", "refused") or may_grow, (name, other.dtype, other.shape)
        rest = {other: tensor for other, tensor in tensors.items() if other != name}
        assert outcome(base, kind, settings, rest, merged) == "refused", name


@pytest.mark.parametrize("kind", KINDS)
def test_a_tensor_twice_under_two_names(base: Path, kind: str) -> None:
    settings, tensors = KINDS[kind]
    for name, part in tensors.items():
        doubles = [name.replace(ROOT, ""), ROOT + name]
        doubles += [] if name.endswith(".weight") else [f"{name}.default"]
        doubles += [name.replace(".weight", ".default.weight"), name.replace("model.", "", 1)]
        for double in {double for double in doubles if double != name}:
            both = {**tensors, double: part * 2}
            with pytest.raises(HurefError):
                read(base, kind, settings, both)


def test_only_some_modules_have_magnitudes(base: Path) -> None:
    settings, tensors = KINDS["DoRA"]
    more = {
        f"{ROOT}{DOWN}.lora_A.weight": noise(4, 32),
        f"{ROOT}{DOWN}.lora_B.weight": noise(24, 4),
    }
    with pytest.raises(CheckpointError, match=r"lacks DoRA's magnitude of 'model\.layers\.0\.mlp"):
        read(base, "DoRA", settings, tensors | more)


PATTERNS: dict[str, dict[str, Any]] = {
    "ten thousand names": {f"layers.{i}.q_proj": 4 for i in range(10_000)},
    "too many": {f"layers.{i}.q_proj": 4 for i in range(10_001)},
    "ten thousand expressions": {f"(a+)+{i}": 4 for i in range(10_000)},
    "exponential": {"((a+)+)+b" * 20: 4, "(.*)*" * 20 + "x": 4},
    "long": {"a" * 100_000: 4},
    "repeated": {"(a{1000}){1000}": 4},
    "nested": {"(" * 500 + ")" * 500: 4},
    "no expression": {"q_proj[": 4},
    "looking back": {r"(q)_proj\1": 4, "(?<=a)b": 4},
    "empty": {"": 4},
}


# What patterns cost is measured by tests/faults/test_budgets.py.
@pytest.mark.parametrize("key", ["rank_pattern", "alpha_pattern"])
@pytest.mark.parametrize("patterns", PATTERNS)
def test_odd_patterns(base: Path, key: str, patterns: str) -> None:
    settings, tensors = KINDS["LoRA"]
    merged = read(base, "LoRA", settings, tensors)
    odd = {**settings, key: PATTERNS[patterns]}
    assert outcome(base, "LoRA", odd, tensors, merged) in ("same", "refused")
