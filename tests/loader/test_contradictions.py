"""Files that contradict their settings: read by what the files hold, or refused by name."""

import json
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
from tests.loader.test_adapters import make_adapter
from tests.support.containers import write_gguf

Model = Callable[..., Path]
Tensors = dict[str, Tensor]
UP = "model.layers.1.mlp.up_proj.weight"


@pytest.fixture
def base(make_llama: Model) -> Path:
    return make_llama("base", num_hidden_layers=2)


def with_weights(base: Path, folder: Path, tensors: Tensors, **config: Any) -> str:
    """A copy of a model with other weights and further settings."""
    shutil.copytree(base, folder)
    save_file({n: t.contiguous().clone() for n, t in tensors.items()}, folder / "model.safetensors")
    settings = json.loads((folder / "config.json").read_text()) | config
    (folder / "config.json").write_text(json.dumps(settings))
    return str(folder)


def read_all(model: str) -> Tensors:
    checkpoint = open_checkpoint(model)
    return checkpoint.read(checkpoint.names)


def in_shards(base: Path, folder: Path, place: Callable[[int], int]) -> Tensors:
    """Write a model in three shards, whose index puts tensor i into shard place(i)."""
    tensors = load_file(base / "model.safetensors")
    shutil.copytree(base, folder)
    (folder / "model.safetensors").unlink()
    names = [f"model-{number:05}-of-00003.safetensors" for number in (1, 2, 3)]
    for number, name in enumerate(names):
        save_file(dict(list(tensors.items())[number::3]), folder / name)
    index = {name: names[place(i)] for i, name in enumerate(tensors) if place(i) >= 0}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    return tensors


PLACES: dict[str, Callable[[int], int]] = {
    "all in one": lambda i: 0,
    "each in the next one": lambda i: (i + 1) % 3,
    "some nowhere": lambda i: i % 3 if i % 4 else -1,
}


@pytest.mark.parametrize("place", PLACES)
def test_an_index_is_corrected_by_the_files(base: Path, tmp_path: Path, place: str) -> None:
    tensors = in_shards(base, tmp_path / "shards", PLACES[place])
    read = read_all(str(tmp_path / "shards"))
    assert read.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert torch.equal(read[name], tensor), name


def test_several_models_in_a_file_are_named(base: Path, tmp_path: Path) -> None:
    tensors = load_file(base / "model.safetensors")
    both = {f"{who}.{n}": t for who in ("policy", "reference") for n, t in tensors.items()}
    with pytest.raises(UnsupportedModelError, match=r"several models \(policy, reference\)"):
        read_all(with_weights(base, tmp_path / "both", both))
    beside = {**tensors, **{f"ema.{n}": torch.zeros_like(t) for n, t in tensors.items()}}
    read = open_checkpoint(with_weights(base, tmp_path / "ema", beside)).read([UP])
    assert torch.equal(read[UP], tensors[UP])


def in_eight_bits(tensors: Tensors, end: str, block: int = 0) -> tuple[Tensors, Tensors]:
    """Matrices as 8-bit floats with scales of a name, and the matrices that these stand for."""
    stored, plain = dict(tensors), dict(tensors)
    for name in [name for name in tensors if name.endswith("_proj.weight")]:
        rows, columns = tensors[name].shape
        high, wide = (block, block) if block else (rows, columns)
        tiles = tensors[name].view(rows // high, high, columns // wide, wide)
        scale = tiles.abs().amax((1, 3)) / 448
        values = (tiles / scale[:, None, :, None]).to(torch.float8_e4m3fn)
        stored[name] = values.view(rows, columns)
        stored[name.removesuffix("weight") + end] = scale if block else scale[0, 0]
        plain[name] = (values.float() * scale[:, None, :, None]).view(rows, columns)
    return stored, plain


@pytest.mark.parametrize(
    ("end", "block", "settings"),
    [("scale_weight", 0, None), ("scale", 0, None),
     ("weight_scale_inv", 32, {"quant_method": "fp8", "weight_block_size": [128, 128]}),
     ("weight_scale", 0, {"quant_method": "quark"})],
)  # fmt: skip
def test_scales_of_other_names_and_blocks(
    base: Path, tmp_path: Path, end: str, block: int, settings: dict[str, Any] | None
) -> None:
    stored, plain = in_eight_bits(load_file(base / "model.safetensors"), end, block)
    config = {} if settings is None else {"quantization_config": settings}
    read = read_all(with_weights(base, tmp_path / "fp8", stored, **config))
    assert read.keys() == plain.keys()
    for name, tensor in plain.items():
        torch.testing.assert_close(read[name].float(), tensor, msg=name)


def test_a_lost_scale_is_named(base: Path, tmp_path: Path) -> None:
    stored, _ = in_eight_bits(load_file(base / "model.safetensors"), "weight_scale")
    del stored[UP + "_scale"]
    model = with_weights(base, tmp_path / "fp8", stored)
    with pytest.raises(CheckpointError, match=r"up_proj\.weight'.*has no scale, unlike others"):
        open_checkpoint(model).read([UP])


def test_an_unknown_quantisation_is_named(base: Path, tmp_path: Path) -> None:
    tensors = load_file(base / "model.safetensors")
    left = with_weights(base, tmp_path / "left", tensors, quantization_config={"quant_method": "x"})
    assert torch.equal(read_all(left)[UP], tensors[UP]), "of plain weights it was left over"
    for end, others in ((".codes", {}), (".weight", {".scales": torch.ones(4, 4)})):
        packed = dict(tensors)
        for name in [name for name in tensors if name.endswith("_proj.weight")]:
            stem = name.removesuffix(".weight")
            del packed[name]
            packed[stem + end] = torch.zeros(4, 4, dtype=torch.int32)
            packed |= {stem + other: tensor for other, tensor in others.items()}
        model = with_weights(
            base, tmp_path / end[1:], packed, quantization_config={"quant_method": "newest"}
        )
        with pytest.raises(UnsupportedModelError, match="quantised by newest, which huref cannot"):
            read_all(model)


@pytest.mark.parametrize("stated", ["gptq", "awq"])
def test_gptq_and_awq_are_told_by_their_shapes(base: Path, tmp_path: Path, stated: str) -> None:
    tensors = load_file(base / "model.safetensors")
    expected: Tensors = {}
    torch.manual_seed(0)
    for name in [name for name in tensors if name.endswith("_proj.weight")]:
        rows, columns = tensors.pop(name).shape
        stem = name.removesuffix("weight")
        word = torch.randint(0, 2**31 - 1, (columns // 8, rows), dtype=torch.int32)
        tensors |= {
            stem + "qweight": word,
            stem + "scales": torch.rand(1, rows),
            stem + "qzeros": torch.full((1, rows // 8), 0x77777777, dtype=torch.int32),
        }
        integers = torch.stack([(word >> (4 * i)) & 15 for i in range(8)], 1).flatten(0, 1)
        expected[name] = ((integers - 8).float() * tensors[stem + "scales"]).T
    settings = {"quant_method": stated, "bits": 4}
    read = read_all(with_weights(base, tmp_path / "q", tensors, quantization_config=settings))
    for name, tensor in expected.items():
        torch.testing.assert_close(read[name], tensor, msg=name)


def test_gguf_by_its_first_bytes(base: Path, tmp_path: Path) -> None:
    tensors = load_file(base / "model.safetensors")
    for name in ("model.safetensors", "weights", "pytorch_model.bin"):
        folder = tmp_path / name.replace(".", "-")
        write_gguf(base, folder / "x.gguf", "llama")
        (folder / "x.gguf").rename(folder / name)
        for model in (folder, folder / name):
            assert torch.equal(open_checkpoint(str(model)).read([UP])[UP], tensors[UP])
    shutil.copy(base / "config.json", tmp_path / "model-safetensors" / "config.json")
    with pytest.raises(CheckpointError, match="is a GGUF file, whatever its name says; give that"):
        read_all(str(tmp_path / "model-safetensors"))


HEADS: dict[str, tuple[bytes, str]] = {
    "big-endian": (b"GGUF\0\0\0\3", "big-endian GGUF.*gguf-convert-endian"),
    "the first version": (b"GGUF\1\0\0\0", "version is 1;.*convert it again"),
    "older than GGUF": (b"tjgg\1\0\0\0", "GGJT format, which is older than GGUF"),
}


@pytest.mark.parametrize("name", HEADS)
def test_gguf_that_is_not_read_is_named(tmp_path: Path, name: str) -> None:
    head, message = HEADS[name]
    (tmp_path / "a.gguf").write_bytes(head + bytes(64))
    with pytest.raises(HurefError, match=message) as caught:
        read_all(str(tmp_path))
    assert "download" not in str(caught.value)


def test_pieces_of_a_gguf_file_are_named(base: Path, tmp_path: Path) -> None:
    write_gguf(base, tmp_path / "whole" / "a.gguf", "llama")
    data = (tmp_path / "whole" / "a.gguf").read_bytes()
    (tmp_path / "parts").mkdir()
    for number in (1, 2):
        half = data[: len(data) // 2] if number == 1 else data[len(data) // 2 :]
        (tmp_path / "parts" / f"a.gguf.part{number}of2").write_bytes(half)
    for model in (tmp_path / "parts", tmp_path / "parts" / "a.gguf.part1of2"):
        with pytest.raises(CheckpointError, match=r"split into pieces by hand; join them.*cat"):
            read_all(str(model))


def test_pissa_that_cannot_be_found_again(base: Path, tmp_path: Path) -> None:
    """The singular values of random matrices are close, so few iterations find chance."""
    make_adapter(base, tmp_path / "adapter", init_lora_weights="pissa_niter_2")
    with pytest.raises(CheckpointError, match=r"cannot be found again: two runs.*merge_and_unload"):
        read_all(str(tmp_path / "adapter"))


Change = Callable[[Tensors], Tensors]
ADAPTERS: dict[str, tuple[Change, str]] = {
    "no tensors": (lambda t: {}, "the adapter's file holds no tensors"),
    "kohya's names": (
        lambda t: {n.replace("lora_A", "lora_down").replace("lora_B", "lora_up"): x
                   for n, x in t.items()},
        "names of kohya's or diffusers' LoRA.*convert it",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", ADAPTERS)
def test_adapters_of_other_programs_and_empty_ones(base: Path, tmp_path: Path, name: str) -> None:
    change, message = ADAPTERS[name]
    make_adapter(base, tmp_path / "adapter")
    file = tmp_path / "adapter" / "adapter_model.safetensors"
    save_file(change(load_file(file)), file)
    with pytest.raises(HurefError, match=message):
        read_all(str(tmp_path / "adapter"))


def test_what_lies_in_an_adapter_beside_its_factors(base: Path, tmp_path: Path) -> None:
    """FSDP's words in names, a buffer, and a copy of the base beside it."""
    adapter = tmp_path / "adapter"
    merged = make_adapter(base, adapter)
    file = adapter / "adapter_model.safetensors"
    wrapped = {n.replace(".self_attn.", "._fsdp_wrapped_module.self_attn."): t
               for n, t in load_file(file).items()}  # fmt: skip
    buffer = "base_model.model.model.layers.1.self_attn.rotary_emb.inv_freq"
    save_file({**wrapped, buffer: torch.ones(8)}, file)
    shutil.copy(base / "model.safetensors", adapter / "model.safetensors")
    for name, tensor in read_all(str(adapter)).items():
        torch.testing.assert_close(tensor.float(), merged[name], rtol=1e-4, atol=1e-4)
    assert open_checkpoint(str(adapter)).describe_files()["unused"] == [buffer]


FOLDERS: dict[str, tuple[dict[str, str], str]] = {
    "Modelfile": ({"Modelfile": "FROM llama3.2\n"}, "Modelfile of Ollama from 'llama3.2'"),
    "TensorFlow": ({"model.ckpt.index": "x"}, "a TensorFlow checkpoint"),
    "Keras": ({"model.keras": "x"}, "a Keras archive"),
    "arguments": ({"training_args.bin": "x"}, "there is a training state"),
    "half of a release": ({"consolidated.00.pth": "x"}, "no params.json beside it"),
    "the other half": ({"params.json": "{}"}, "no weights beside it"),
    "a VAE": (
        {"config.json": '{"_class_name": "AutoencoderKL"}', "model.safetensors": "x"},
        r"part of a diffusers pipeline \(AutoencoderKL\)",
    ),
}


@pytest.mark.parametrize("name", FOLDERS)
def test_folders_of_other_things_are_named(tmp_path: Path, name: str) -> None:
    files, message = FOLDERS[name]
    for file, text in files.items():
        (tmp_path / file).write_text(text)
    with pytest.raises(HurefError, match=message) as caught:
        _ = open_checkpoint(str(tmp_path)).config
    assert "again" not in str(caught.value)
