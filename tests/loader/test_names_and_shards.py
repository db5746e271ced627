"""Names and files as people have them: prefixes, wrappers, indexes that lie, odd tensors."""

import argparse
import collections
import datetime
import json
import pathlib
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from huref.errors import CheckpointError, HurefError, UnsupportedModelError
from huref.loader.checkpoint import open_checkpoint
from tests.loader.test_places import NAME, assert_same, tiny
from tests.support.containers import write_meta

__all__ = ["tiny"]  # a fixture

Tensors = dict[str, Tensor]


@pytest.fixture
def rewrite(tiny: Path, tmp_path: Path) -> Callable[..., Path]:
    """A function that writes the tiny model again, with other tensors or settings."""

    def write(change: Callable[[Tensors], Tensors], **settings: Any) -> Path:
        folder = tmp_path / "changed"
        folder.mkdir()
        shutil.copy(tiny / "tokenizer.json", folder)
        config = json.loads((tiny / "config.json").read_text()) | settings
        (folder / "config.json").write_text(json.dumps(config))
        tensors = change(load_file(tiny / "model.safetensors"))
        save_file({n: t.contiguous() for n, t in tensors.items()}, folder / "model.safetensors")
        return folder

    return write


PREFIXES = [
    "_orig_mod.", "module.", "pretrained_model.", "base_model.model.", "module._orig_mod.",
    "_forward_module.", "student.", "actor.module.", "model.", "base_model.", "policy.model.",
]  # fmt: skip


@pytest.mark.parametrize("prefix", PREFIXES)
def test_a_prefix_of_all_names(rewrite: Callable[..., Path], tiny: Path, prefix: str) -> None:
    def change(tensors: Tensors) -> Tensors:
        changed = {f"{prefix}{name}": tensor for name, tensor in tensors.items()}
        return changed | {f"{prefix}lm_head.weight": tensors["model.embed_tokens.weight"] + 0}

    assert_same(str(rewrite(change)), tiny)


MIDDLES: dict[str, Callable[[str], str]] = {
    "FSDP": lambda n: n.replace("layers.", "layers._fsdp_wrapped_module.", 1),
    "torch.compile in blocks": lambda n: n.replace(".self_attn.", "._orig_mod.self_attn."),
    "activation checkpointing": lambda n: n.replace(".mlp.", ".mlp._checkpoint_wrapped_module."),
    "a value head beside": lambda n: f"pretrained_model.{n}",
}  # fmt: skip


@pytest.mark.parametrize("kind", MIDDLES)
def test_words_of_training_frameworks(rewrite: Callable[..., Path], tiny: Path, kind: str) -> None:
    def change(tensors: Tensors) -> Tensors:
        changed = {MIDDLES[kind](name): tensor for name, tensor in tensors.items()}
        return changed | {"v_head.summary.weight": torch.ones(1, 16)}

    assert_same(str(rewrite(change)), tiny)


WRAPPERS = {
    "LLaVA": ("language_model.model.", "language_model.lm_head.weight", "vision_tower.x.weight"),
    "new LLaVA": ("model.language_model.", "lm_head.weight", "model.vision_tower.x.weight"),
    "Qwen": ("model.language_model.", "lm_head.weight", "model.visual.blocks.0.attn.qkv.weight"),
    "Idefics": ("model.text_model.", "lm_head.weight", "model.connector.modality.weight"),
    "audio": ("language_model.model.", "language_model.lm_head.weight", "audio_tower.fc1.weight"),
}  # fmt: skip


@pytest.mark.parametrize("kind", WRAPPERS)
def test_a_language_models_config_over_a_wrappers_names(
    rewrite: Callable[..., Path], tiny: Path, kind: str
) -> None:
    inner, head, other = WRAPPERS[kind]

    def change(tensors: Tensors) -> Tensors:
        changed = {n.replace("model.", inner, 1): t for n, t in tensors.items()}
        return changed | {head: torch.ones(32, 16), other: torch.ones(4, 4)}

    folder = rewrite(change)
    checkpoint = open_checkpoint(str(folder))
    expected = load_file(tiny / "model.safetensors")
    found = {n.removeprefix("model."): n for n in checkpoint.names}
    for name, tensor in expected.items():
        read = checkpoint.read([found[name.removeprefix("model.")]])
        assert torch.equal(next(iter(read.values())), tensor)
    assert not any("vis" in name or "audio" in name for name in checkpoint.names)
    from huref.architecture.reader import ModelReader

    assert ModelReader(checkpoint).read_attention(1) is not None


@pytest.mark.parametrize("prefix", ["", "model.", "module.model."])
def test_a_tied_head_alone(rewrite: Callable[..., Path], tiny: Path, prefix: str) -> None:
    def change(tensors: Tensors) -> Tensors:
        embedding = tensors.pop("model.embed_tokens.weight")
        changed = {prefix + n.removeprefix("model."): t for n, t in tensors.items()}
        return changed | {f"{prefix.removesuffix('model.')}lm_head.weight": embedding}

    from huref.architecture.reader import ModelReader

    reader = ModelReader(open_checkpoint(str(rewrite(change))))
    expected = load_file(tiny / "model.safetensors")["model.embed_tokens.weight"]
    assert torch.equal(reader.embeddings([3, 0]), expected[[3, 0]])


def test_a_head_alone_of_a_model_that_is_not_tied(rewrite: Callable[..., Path]) -> None:
    def change(tensors: Tensors) -> Tensors:
        return tensors | {"lm_head.weight": tensors.pop("model.embed_tokens.weight")}

    from huref.architecture.reader import ModelReader

    with pytest.raises(UnsupportedModelError, match="hold no 'embed_tokens"):
        ModelReader(open_checkpoint(str(rewrite(change, tie_word_embeddings=False))))


def test_an_adapter_that_was_not_merged(rewrite: Callable[..., Path]) -> None:
    def change(tensors: Tensors) -> Tensors:
        stem = "base_model.model.model.layers.0.self_attn.q_proj"
        changed = {f"base_model.model.{n}": t for n, t in tensors.items()}
        changed[f"{stem}.base_layer.weight"] = changed.pop(f"{stem}.weight")
        return changed | {f"{stem}.lora_A.default.weight": torch.ones(2, 16),
                          f"{stem}.lora_B.default.weight": torch.ones(16, 2)}  # fmt: skip

    with pytest.raises(UnsupportedModelError, match=r"was not merged.*merge_and_unload"):
        _ = open_checkpoint(str(rewrite(change))).names


def shard(tiny: Path, folder: Path, count: int, start: int = 1, index: bool = True) -> list[str]:
    """The tiny model in shards."""
    folder.mkdir(exist_ok=True)
    for name in ("config.json", "tokenizer.json"):
        shutil.copy(tiny / name, folder)
    tensors = load_file(tiny / "model.safetensors")
    names = [f"model-{i + start:05}-of-{count:05}.safetensors" for i in range(count)]
    file_of = {name: names[i % count] for i, name in enumerate(tensors)}
    for file in names:
        save_file({n: tensors[n] for n in tensors if file_of[n] == file}, folder / file)
    if index:
        text = json.dumps({"weight_map": file_of})
        (folder / "model.safetensors.index.json").write_text(text)
    return names


def test_an_index_is_a_hint(tiny: Path, tmp_path: Path) -> None:
    whole = tmp_path / "whole"
    names = shard(tiny, whole, 3)
    for name in names:
        (whole / name).unlink()
    shutil.copy(tiny / "model.safetensors", whole)
    assert_same(str(whole), tiny)
    resharded = tmp_path / "resharded"
    for name in shard(tiny, resharded, 3):
        (resharded / name).unlink()
    shard(tiny, resharded, 2, index=False)
    assert_same(str(resharded), tiny)
    without = tmp_path / "without"
    shard(tiny, without, 3, index=False)
    assert_same(str(without), tiny)
    from_zero = tmp_path / "zero"
    shard(tiny, from_zero, 2, start=0, index=False)
    assert_same(str(from_zero), tiny)
    wrong = tmp_path / "wrong"
    names = shard(tiny, wrong, 3)
    index = wrong / "model.safetensors.index.json"
    swapped = {
        n: names[(names.index(f) + 1) % 3]
        for n, f in json.loads(index.read_text())["weight_map"].items()
    }
    index.write_text(json.dumps({"weight_map": swapped}))
    assert_same(str(wrong), tiny)
    for text in ('{"weight_map": {}}', '{"weight_map":', "[]", '{"weight_map": 3}'):
        (whole / "model.safetensors.index.json").write_text(text)
        assert_same(str(whole), tiny)
    absent = tmp_path / "absent"
    names = shard(tiny, absent, 3)
    (absent / names[1]).unlink()
    with pytest.raises(CheckpointError, match=f"'{names[1]}', which is missing; download"):
        _ = open_checkpoint(str(absent)).names
    (absent / "model.safetensors.index.json").unlink()
    with pytest.raises(CheckpointError, match=f"of 3 shards 1 are missing, such as '{names[1]}'"):
        _ = open_checkpoint(str(absent)).names
    outside = tmp_path / "outside"
    shard(tiny, outside, 2)
    text = json.dumps({"weight_map": {NAME: "../../x.safetensors"}})
    (outside / "model.safetensors.index.json").write_text(text)
    with pytest.raises(CheckpointError, match="outside the folder"):
        _ = open_checkpoint(str(outside)).names


def test_two_variants_are_a_choice(tiny: Path, tmp_path: Path) -> None:
    for name in ("config.json", "tokenizer.json"):
        shutil.copy(tiny / name, tmp_path)
    shutil.copy(tiny / "model.safetensors", tmp_path / "model.fp32.safetensors")
    assert_same(str(tmp_path), tiny)
    shutil.copy(tiny / "model.safetensors", tmp_path / "model.fp16.safetensors")
    with pytest.raises(CheckpointError, match=r"several variants .*fp16.*name one of them"):
        _ = open_checkpoint(str(tmp_path)).names
    assert_same(str(tmp_path / "model.fp32.safetensors"), tiny)


def test_mistrals_consolidated_shards(tiny: Path, tmp_path: Path) -> None:
    write_meta(tiny, tmp_path / "meta")
    folder = tmp_path / "shards"
    folder.mkdir()
    for name in ("params.json", "tokenizer.json"):
        if (tmp_path / "meta" / name).exists():
            shutil.copy(tmp_path / "meta" / name, folder)
    shutil.copy(tiny / "tokenizer.json", folder)
    tensors = torch.load(tmp_path / "meta" / "consolidated.00.pth", weights_only=True)
    names = list(tensors)
    for number in (1, 2):
        part = {n: tensors[n].contiguous() for n in names[number - 1 :: 2]}
        save_file(part, folder / f"consolidated-{number:05}-of-00002.safetensors")
    checkpoint = open_checkpoint(str(folder))
    expected = load_file(tiny / "model.safetensors")
    read = checkpoint.read(n for n in expected if n in checkpoint.names)
    assert len(read) == len(expected)
    assert all(torch.equal(read[name], expected[name]) for name in expected)
    (folder / "consolidated-00002-of-00002.safetensors").unlink()
    with pytest.raises(CheckpointError, match="shards 1 are missing"):
        _ = open_checkpoint(str(folder)).names


@pytest.mark.parametrize("dtype", ["C64", "F4", "F8_E4M3FNUZ", "F6_E2M3", "X9"])
def test_a_newer_dtype_is_refused_only_where_it_is_needed(
    tiny: Path, tmp_path: Path, dtype: str
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(tiny, folder)
    data = (folder / "model.safetensors").read_bytes()
    size = int.from_bytes(data[:8], "little")
    header, body = json.loads(data[8 : 8 + size]), data[8 + size :]
    bits = {"C64": 64, "F4": 4, "F8_E4M3FNUZ": 8, "F6_E2M3": 6, "X9": 9}[dtype]
    count = 32 * bits // 8
    header["freqs"] = {
        "dtype": dtype,
        "shape": [8, 4],
        "data_offsets": [len(body), len(body) + count],
    }
    text = json.dumps(header).encode()
    (folder / "model.safetensors").write_bytes(
        len(text).to_bytes(8, "little") + text + body + bytes(count)
    )
    assert_same(str(folder), tiny)
    checkpoint = open_checkpoint(str(folder))
    for read in (lambda: checkpoint.read(["freqs"]), lambda: checkpoint.read_rows("freqs", [0])):
        with pytest.raises(CheckpointError, match=f"'freqs': it has the dtype '{dtype}'"):
            read()


def test_training_arguments_are_passed_over_without_being_built(tiny: Path, tmp_path: Path) -> None:
    import transformers

    folder = tmp_path / "model"
    folder.mkdir()
    for name in ("config.json", "tokenizer.json"):
        shutil.copy(tiny / name, folder)
    beside = {
        "args": argparse.Namespace(lr=0.1, path=pathlib.PurePosixPath("/a/b")),
        "training": transformers.TrainingArguments(str(tmp_path / "out"), report_to=[]),
        "counts": collections.defaultdict(int, {"a": 1}),
        "when": datetime.datetime(2026, 1, 1),
        "seen": {1, 2, 3},
        "frozen": frozenset({"x"}),
        "schedule": transformers.SchedulerType.COSINE,
    }
    for is_zip in (True, False):
        tensors = load_file(tiny / "model.safetensors")
        buffer = torch.polar(torch.ones(4), torch.ones(4))
        torch.save(
            {"state_dict": {**tensors, "freqs_cis": buffer}, **beside},
            folder / "pytorch_model.bin",
            _use_new_zipfile_serialization=is_zip,
        )
        assert_same(str(folder), tiny)


class Subclass:
    """Pickled as a tensor of a subclass that one of torch's functions builds."""

    def __init__(self, function: object, *arguments: object):
        self.call = (function, *arguments)

    def __reduce__(self) -> Any:
        function, *arguments = self.call
        return torch._tensor._rebuild_from_type_v2, (function, torch.Tensor, (*arguments,), {})


def test_tensors_of_subclasses_are_described_or_refused(tiny: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    for name in ("config.json", "tokenizer.json"):
        shutil.copy(tiny / name, folder)
    tensors: dict[str, Any] = dict(load_file(tiny / "model.safetensors"))
    with_attribute = tensors[NAME].clone()
    with_attribute.note = "an attribute makes torch write it in another way"
    torch.save(tensors | {NAME: with_attribute}, folder / "pytorch_model.bin")
    assert_same(str(folder), tiny)
    again = torch._tensor._rebuild_from_type_v2
    for odd in (Subclass(collections.OrderedDict, [("a", 1)]), Subclass(again, 1, 2, 3)):
        torch.save(tensors | {"x": odd}, folder / "pytorch_model.bin")
        with pytest.raises(HurefError, match="objects of a tensor subclass"):
            _ = open_checkpoint(str(folder)).names


@pytest.mark.parametrize(
    "names",
    [["optimizer.pt"], ["scheduler.bin", "rng_state_0.pth"], ["tokenizer.bin", "imatrix.dat"]],
)
def test_other_files_beside_the_weights(tiny: Path, tmp_path: Path, names: list[str]) -> None:
    folder = tmp_path / "model"
    shutil.copytree(tiny, folder)
    (folder / "model.safetensors").rename(folder / "weights-a.safetensors")
    for name in names:
        (folder / name).write_bytes(b"no weights")
    assert_same(str(folder), tiny)


def test_files_are_told_by_their_first_bytes(tiny: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(tiny, folder)
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    assert_same(str(folder), tiny)
    (folder / "pytorch_model.bin").write_bytes(b"<html>not found</html>" * 10)
    with pytest.raises(HurefError, match=r"a web page.*download the file itself"):
        _ = open_checkpoint(str(folder)).names


def test_a_vocabulary_named_tiktoken_model(tiny: Path, tmp_path: Path) -> None:
    import base64

    folder = tmp_path / "model"
    shutil.copytree(tiny, folder)
    (folder / "tokenizer.json").unlink()
    lines = [base64.b64encode(f"w{i}".encode()) + b" %d" % i for i in range(32)]
    (folder / "tiktoken.model").write_bytes(b"\n".join(lines))
    vocabulary = open_checkpoint(str(folder)).vocabulary
    assert [token.text for token in vocabulary[:2]] == [b"w0", b"w1"]


LEFT_OVER = [
    {"quant_method": "hqq"}, {"quant_method": "bitnet", "quantization_mode": "online"},
    {"quant_method": "gptq", "bits": 4}, {"quant_method": "bitsandbytes", "load_in_4bit": True},
    {"quant_method": "torchao"}, {"quant_method": "anything"}, {"bits": 4, "group_size": 64},
    {"quant_method": "compressed-tensors", "config_groups": {}}, {"quant_method": "fp8"}, {},
]  # fmt: skip


@pytest.mark.parametrize("settings", LEFT_OVER, ids=str)
def test_settings_left_over_beside_plain_weights(
    rewrite: Callable[..., Path], tiny: Path, settings: dict[str, Any]
) -> None:
    folder = rewrite(lambda tensors: tensors, quantization_config=settings)
    assert_same(str(folder), tiny)
    assert open_checkpoint(str(folder)).describe_files()["quantisation"] is None
