"""Odd but small things in a model's files: one line each, never a traceback."""

import json
import os
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import huref
from huref.api.open import measure
from huref.errors import CheckpointError, HurefError, ModelNotFoundError
from huref.loader import ranges
from huref.loader.checkpoint import open_checkpoint
from huref.loader.model_name import open_repository

MakeModel = Callable[..., Path]


@pytest.mark.parametrize(
    "name",
    ["~nobody/x", "~", "~/", "a\0b", "~root\0", "", ".", "/dev/null", "/proc/self/mem", "a" * 5000,
     "org/name@" + "x" * 5000, "..", "\x1b[2J", "file:///etc/passwd", "org/../../etc"],
)  # fmt: skip
def test_an_odd_name_is_one_line(name: str, hub: object, tmp_path: Path) -> None:
    os.chdir(tmp_path)
    with pytest.raises(HurefError):
        measure(name)


def test_a_user_that_does_not_exist_is_no_traceback() -> None:
    with pytest.raises(ModelNotFoundError):
        open_repository("~nobody-of-that-name/x")


CHANGES: dict[str, Callable[[dict[str, object]], None]] = {
    "an unhashable dtype": lambda h: h["lm_head.weight"].update(dtype=["F32"]),  # type: ignore[attr-defined]
    "a dtype of numbers": lambda h: h["lm_head.weight"].update(dtype=7),  # type: ignore[attr-defined]
    "a shape of text": lambda h: h["lm_head.weight"].update(shape="ab"),  # type: ignore[attr-defined]
    "a nested shape": lambda h: h["lm_head.weight"].update(shape=[[1]]),  # type: ignore[attr-defined]
    "offsets of truth": lambda h: h["lm_head.weight"].update(data_offsets=[True, False]),  # type: ignore[attr-defined]
    "no entry": lambda h: h.update({"lm_head.weight": None}),
    "a list": lambda h: h.update({"lm_head.weight": []}),
}


@pytest.mark.parametrize("kind", CHANGES)
def test_an_odd_header_is_refused(kind: str, make_llama: MakeModel) -> None:
    path = make_llama("model") / "model.safetensors"
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    CHANGES[kind](header)
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data[8 + length :])
    with pytest.raises(CheckpointError) as caught:
        huref.fingerprint(path.parent)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("extra", [b"x", bytes(1000), b"PK\x03\x04"])
def test_bytes_after_the_last_tensor_are_refused(extra: bytes, make_llama: MakeModel) -> None:
    path = make_llama("model") / "model.safetensors"
    with path.open("ab") as file:
        file.write(extra)
    with pytest.raises(CheckpointError, match=f"{len(extra)} bytes after the last tensor"):
        _ = open_checkpoint(str(path.parent)).names


@pytest.mark.parametrize(
    "settings",
    [{"alpha_pattern": 7}, {"alpha_pattern": ["a"]}, {"lora_alpha": "8"}, {"lora_alpha": None},
     {"lora_alpha": float("nan")}, {"lora_alpha": float("inf")}, {"lora_alpha": [1]},
     {"base_model_name_or_path": 7}, {"base_model_name_or_path": "~nobody-there/x"},
     {"base_model_name_or_path": "a\0b"}, {"peft_type": ["LORA"]}, {"peft_type": 10**400}],
)  # fmt: skip
def test_an_odd_adapter_is_one_line(
    settings: dict[str, object], make_llama: MakeModel, hub: object
) -> None:
    folder = _adapter(make_llama, settings)
    with pytest.raises(HurefError) as caught:
        huref.fingerprint(folder)
    assert "\n" not in str(caught.value)


def _adapter(make_llama: MakeModel, settings: dict[str, object]) -> Path:
    from safetensors.torch import save_file

    base = make_llama("base")
    folder = base.parent / "adapters" / "one"
    folder.mkdir(parents=True)
    module = "base_model.model.model.layers.1.self_attn.q_proj"
    factors = {f"{module}.lora_A.weight": torch.ones(2, 64),
               f"{module}.lora_B.weight": torch.ones(64, 2)}  # fmt: skip
    save_file(factors, folder / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "lora_alpha": 8, "base_model_name_or_path": "../../base"}
    (folder / "adapter_config.json").write_text(json.dumps(config | settings))
    return folder


def test_a_checkpoint_that_claims_200_gb_costs_what_it_needs(
    make_llama: MakeModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = make_llama("model") / "model.safetensors"
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    end = len(data) - 8 - length
    for name, size in (("padding", 120_000_000_000), ("more", 80_000_000_000)):
        header[name] = {"dtype": "U8", "shape": [size], "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text + data[8 + length :])
        file.truncate(8 + len(text) + end)
    assert path.stat().st_size > 200_000_000_000
    checkpoint = open_checkpoint(str(path.parent))
    assert huref.fingerprint(path.parent).latent.shape == (512,)
    with pytest.raises(CheckpointError, match=r"120\.0 GB of memory at once"):
        checkpoint.read(["padding"])
    monkeypatch.setenv(ranges.LIMIT, "1K")
    with pytest.raises(CheckpointError, match="allow more with HUREF_MAX_MEMORY"):
        huref.fingerprint(path.parent)
    monkeypatch.setenv(ranges.LIMIT, "2G")
    assert huref.fingerprint(path.parent).latent.shape == (512,)


@pytest.mark.parametrize(
    ("text", "size"), [("64G", 64e9), ("1.5T", 1.5e12), ("500M", 5e8), ("7", 7), ("2GB", 2e9)]
)
def test_the_limit_of_memory_is_a_size(
    text: str, size: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(ranges.LIMIT, text)
    assert ranges.memory_limit() == size
    for odd in ("much", "-5G", "1e9", "9" * 50, "5X"):
        monkeypatch.setenv(ranges.LIMIT, odd)
        with pytest.raises(CheckpointError, match="not a size"):
            ranges.memory_limit()


IDS = [float("inf"), float("nan"), -1, 1.5, "7", None, [1], {}, True, 2**32, 10**400]


@pytest.mark.parametrize("number", IDS, ids=lambda value: str(value)[:12])
@pytest.mark.parametrize("file", ["tokenizer.json", "vocab.json"])
def test_an_odd_id_is_one_line(number: object, file: str, make_llama: MakeModel) -> None:
    folder = make_llama("model")
    data = json.loads((folder / "tokenizer.json").read_text())
    data["model"]["vocab"]["odd"] = 7
    (folder / "tokenizer.json").unlink()
    content = data if file == "tokenizer.json" else data["model"]["vocab"]
    text = json.dumps(content).replace('"odd": 7', f'"odd": {json.dumps(number)}')
    (folder / file).write_text(text)
    with pytest.raises(CheckpointError) as caught:
        huref.fingerprint(folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", [r'"\ud800"', r'"\udc00"', r'"\ud800\ud800"', r'"\\\ud800"'])
def test_a_lone_surrogate_is_one_line(text: str, make_llama: MakeModel) -> None:
    folder = make_llama("model")
    for file in ("config.json", "tokenizer.json"):
        before = (folder / file).read_text()
        (folder / file).write_text(before.replace("{", "{" + f'"odd": {text},', 1))
        with pytest.raises(CheckpointError, match="lone surrogate"):
            huref.fingerprint(folder)
        (folder / file).write_text(before)
