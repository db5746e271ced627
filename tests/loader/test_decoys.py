"""Weights that transformers runs, laid out beside weights that it does not.

In each case the oracle loads the files first; then huref reads the same weights or refuses them.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from huref.architecture.block import Attention
from huref.architecture.reader import ModelReader
from huref.errors import HurefError
from huref.loader.checkpoint import open_checkpoint
from tests.support.hub_server import LoopbackHub
from tests.support.small_models import write_tokenizer

Tensors = dict[str, Tensor]
UP = "model.layers.1.mlp.up_proj.weight"
QUERY = "model.layers.1.self_attn.q_proj.weight"
ONE, TWO = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"
INDEX = "model.safetensors.index.json"


class Pair(NamedTuple):
    """A model's weights, those of another one of its shapes, and their configuration."""

    real: Tensors
    decoy: Tensors
    config: dict[str, Any]


@pytest.fixture(scope="module")
def pair() -> Pair:
    import transformers

    config = transformers.LlamaConfig(
        vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, tie_word_embeddings=False,
    )  # fmt: skip
    models = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        models.append(dict(transformers.LlamaForCausalLM(config).state_dict()))
    settings = {**config.to_dict(), "architectures": ["LlamaForCausalLM"]}
    return Pair(models[0], models[1], settings)


@pytest.fixture
def folder(pair: Pair, tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    write_tokenizer(folder, [f"w{i}" for i in range(64)])
    (folder / "config.json").write_text(json.dumps(pair.config))
    return folder


def save(tensors: Tensors, file: Path) -> None:
    file.parent.mkdir(exist_ok=True)
    parts = {name: tensor.contiguous().clone() for name, tensor in tensors.items()}
    if file.suffix == ".bin":
        torch.save(parts, file)
    else:
        save_file(parts, file, metadata={"format": "pt"})


def write_index(folder: Path, file_of: dict[str, str], name: str = INDEX) -> None:
    (folder / name).write_text(json.dumps({"metadata": {}, "weight_map": file_of}))


def add_settings(folder: Path, **settings: Any) -> None:
    config = json.loads((folder / "config.json").read_text()) | settings
    (folder / "config.json").write_text(json.dumps(config))


def loaded(folder: Path, name: str) -> Tensor:
    """A tensor of the model that transformers loads."""
    import transformers

    model = transformers.AutoModelForCausalLM.from_pretrained(folder)
    found: Tensor = model.state_dict()[name]
    return found


def two_shards(folder: Path, first: Tensors, second: Tensors, index: dict[str, str]) -> None:
    save(first, folder / ONE)
    save(second, folder / TWO)
    write_index(folder, index)


def only_in_the_first(tensors: Tensors) -> dict[str, str]:
    """An index that names the first shard, and the second for a tensor that does not matter."""
    return dict.fromkeys(tensors, ONE) | {"lm_head.weight": TWO}


Layout = Callable[[Path, Tensors, Tensors], None]


def last_shard(folder: Path, real: Tensors, decoy: Tensors) -> None:
    two_shards(folder, decoy, real, only_in_the_first(real))


def odd_safetensors(folder: Path, real: Tensors, decoy: Tensors) -> None:
    save(real, folder / "pytorch_model.bin")
    save(decoy, folder / "weights.safetensors")


def a_variant(folder: Path, real: Tensors, decoy: Tensors) -> None:
    save(real, folder / "pytorch_model.bin")
    save(decoy, folder / "model.fp16.safetensors")


def another_index(folder: Path, real: Tensors, decoy: Tensors) -> None:
    save(real, folder / "real.safetensors")
    save(decoy, folder / "decoy.safetensors")
    write_index(folder, dict.fromkeys(real, "real.safetensors"))
    write_index(folder, dict.fromkeys(real, "decoy.safetensors"), "a.safetensors.index.json")


def index_of_another_format(folder: Path, real: Tensors, decoy: Tensors) -> None:
    save(real, folder / "real.bin")
    save(decoy, folder / "decoy.safetensors")
    write_index(folder, dict.fromkeys(real, "real.bin"), "pytorch_model.bin.index.json")
    write_index(folder, dict.fromkeys(real, "decoy.safetensors"), "a.safetensors.index.json")


def whole_and_index_of_torch(folder: Path, real: Tensors, decoy: Tensors) -> None:
    save(real, folder / "pytorch_model.bin")
    save(decoy, folder / "decoy.bin")
    write_index(folder, dict.fromkeys(real, "decoy.bin"), "pytorch_model.bin.index.json")


def named_in_config(folder: Path, real: Tensors, decoy: Tensors) -> None:
    add_settings(folder, transformers_weights="inner/real.safetensors")
    save(real, folder / "inner" / "real.safetensors")
    save(decoy, folder / "pytorch_model.bin")


def damaged_shard_beside(folder: Path, real: Tensors, decoy: Tensors) -> None:
    first, second = "model-00001-of-00003.safetensors", "model-00002-of-00003.safetensors"
    save(decoy, folder / first)
    save(real, folder / second)
    write_index(folder, dict.fromkeys(real, first) | {"lm_head.weight": second})
    (folder / "model-00003-of-00003.safetensors").write_bytes(b"\0" * 64)


def biases_and_head_norms(folder: Path, real: Tensors, decoy: Tensors) -> None:
    strange = {
        name.replace(".weight", ".bias"): torch.full(real[name].shape[:1], 9.0)
        for name in real
        if "_proj" in name
    }
    for role in ("q_norm", "k_norm"):
        strange |= {f"model.layers.{i}.self_attn.{role}.weight": torch.randn(8) for i in range(2)}
    save(real | strange, folder / "model.safetensors")


READ: list[Layout] = [
    last_shard, odd_safetensors, a_variant, another_index, index_of_another_format,
    whole_and_index_of_torch, named_in_config, damaged_shard_beside, biases_and_head_norms,
]  # fmt: skip


@pytest.mark.parametrize("lay_out", READ, ids=lambda function: function.__name__)
def test_what_transformers_runs_is_read(pair: Pair, folder: Path, lay_out: Layout) -> None:
    lay_out(folder, pair.real, pair.decoy)
    assert torch.equal(loaded(folder, UP), pair.real[UP])
    checkpoint = open_checkpoint(str(folder))
    for name in (UP, "model.embed_tokens.weight"):
        assert torch.equal(checkpoint.read([name])[name], pair.real[name])
    plain = folder.parent / "plain"
    plain.mkdir()
    save(pair.real, plain / "model.safetensors")
    (plain / "config.json").write_text(json.dumps(pair.config))
    ours, expected = (ModelReader(open_checkpoint(str(f))).read_block(1) for f in (folder, plain))
    for role in ("q", "k", "v", "o"):
        assert torch.equal(getattr(ours.attention, role), getattr(expected.attention, role)), role
    assert isinstance(ours.attention, Attention)
    assert ours.attention.q_norm is None
    assert ours.attention.k_norm is None
    assert not ours.attention.biases


def in_blocks(tensors: Tensors, change: Callable[[str], str]) -> Tensors:
    return {change(name): tensor for name, tensor in tensors.items() if ".layers." in name}


def index_beside_a_whole_file(folder: Path, real: Tensors, decoy: Tensors) -> None:
    save(real, folder / "model.safetensors")
    two_shards(folder, decoy, {"x": torch.zeros(1)}, dict.fromkeys(real, ONE) | {"x": TWO})


def named_beside_a_whole_file(folder: Path, real: Tensors, decoy: Tensors) -> None:
    add_settings(folder, transformers_weights="real.safetensors")
    save(real, folder / "real.safetensors")
    save(decoy, folder / "model.safetensors")


def blocks_without_prefix(folder: Path, real: Tensors, decoy: Tensors) -> None:
    bare = in_blocks(real, lambda name: name.removeprefix("model."))
    save(decoy | bare, folder / "model.safetensors")


def networks_without_prefix(folder: Path, real: Tensors, decoy: Tensors) -> None:
    """Norms and attention under one prefix, networks under another, no name twice."""
    networks = {name for name in real if ".mlp." in name}
    rest = {name: tensor for name, tensor in real.items() if name not in networks}
    bare = {name.removeprefix("model."): real[name] for name in networks}
    fused = {
        f"model.layers.{i}.mlp.gate_up_proj.weight": torch.cat(
            [decoy[f"model.layers.{i}.mlp.{role}_proj.weight"] for role in ("gate", "up")]
        )
        for i in range(2)
    }
    save(rest | bare | fused, folder / "model.safetensors")


def prefix_and_one_letter(folder: Path, real: Tensors, decoy: Tensors) -> None:
    odd = {name.replace("model.", "modelXmodel.", 1): t for name, t in real.items()}
    other = {name.replace("model.", "transformer.", 1): t for name, t in decoy.items()}
    save(other | odd, folder / "model.safetensors")


def unlisted_shard(folder: Path, real: Tensors, decoy: Tensors) -> None:
    inner = {f"model.{name}": tensor for name, tensor in real.items()}
    two_shards(folder, inner, decoy, dict.fromkeys(inner, ONE))


def fused_beside_single(folder: Path, real: Tensors, decoy: Tensors) -> None:
    fused = {
        f"model.layers.{i}.self_attn.qkv_proj.weight": torch.cat(
            [decoy[f"model.layers.{i}.self_attn.{role}_proj.weight"] for role in "qkv"]
        )
        for i in range(2)
    }
    save(real | fused, folder / "model.safetensors")


def another_name_of_a_role(folder: Path, real: Tensors, decoy: Tensors) -> None:
    packed = {
        f"model.layers.{i}.self_attn.W_pack.weight": torch.cat(
            [decoy[f"model.layers.{i}.self_attn.{role}_proj.weight"] for role in "qkv"]
        )
        for i in range(2)
    }
    save(real | packed, folder / "model.safetensors")


def experts_in_a_dense_model(folder: Path, real: Tensors, decoy: Tensors) -> None:
    add_settings(folder, num_local_experts=2)
    experts = {
        name.replace(".mlp.", f".mlp.experts.{expert}."): tensor
        for name, tensor in decoy.items()
        for expert in range(2)
        if ".mlp." in name
    }
    save(real | experts, folder / "model.safetensors")


def scales_of_plain_weights(folder: Path, real: Tensors, decoy: Tensors) -> None:
    scales = {f"{name}_scale_inv": torch.rand_like(real[name]) for name in (UP, QUERY)}
    save(real | scales, folder / "model.safetensors")


def scales_of_raw_floats(folder: Path, real: Tensors, decoy: Tensors) -> None:
    """Without settings transformers runs 8-bit floats as they are."""
    raw = {n: t.to(torch.float8_e4m3fn) if "_proj" in n else t for n, t in real.items()}
    scales = {f"{n}_scale": torch.rand_like(t) - 0.5 for n, t in real.items() if "_proj" in n}
    save(raw | scales, folder / "model.safetensors")


def two_scales(folder: Path, real: Tensors, decoy: Tensors) -> None:
    raw = {n: t.to(torch.float8_e4m3fn) if "_proj" in n else t for n, t in real.items()}
    scales = {
        f"{name}_{end}": torch.rand(1)
        for name in real
        for end in ("scale", "scale_inv")
        if "_proj" in name
    }
    save(raw | scales, folder / "model.safetensors")


def packed_copies(folder: Path, real: Tensors, decoy: Tensors) -> None:
    packed: Tensors = {}
    for name in [name for name in real if "_proj" in name]:
        rows, columns = real[name].shape
        stem = name.removesuffix("weight")
        packed |= {
            f"{stem}qweight": torch.randint(0, 2**31 - 1, (columns // 8, rows), dtype=torch.int32),
            f"{stem}scales": torch.rand(1, rows),
            f"{stem}qzeros": torch.zeros(1, rows // 8, dtype=torch.int32),
        }
    save(real | packed, folder / "model.safetensors")


def settings_of_a_version(folder: Path, real: Tensors, decoy: Tensors) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.4.0.0.json").write_text(json.dumps(config))
    add_settings(folder, configuration_files=["config.4.0.0.json"], hidden_act="relu")
    save(real, folder / "model.safetensors")


def settings_of_a_wrapper(folder: Path, real: Tensors, decoy: Tensors) -> None:
    inner = {f"language_model.{name}": tensor for name, tensor in decoy.items()}
    save(real | inner, folder / "model.safetensors")


REFUSED: dict[Layout, str] = {
    index_beside_a_whole_file: "weights twice, 'model.safetensors' and",
    named_beside_a_whole_file: "weights twice, 'real.safetensors' and 'model.safetensors'",
    blocks_without_prefix: "programs differ in which of the two names",
    networks_without_prefix: "programs differ in which of the two names",
    prefix_and_one_letter: "programs differ in which of the two names",
    unlisted_shard: "programs differ in which of the two names",
    settings_of_a_wrapper: "programs differ in which of the two names",
    fused_beside_single: "for the same place",
    another_name_of_a_role: "for the same place",
    experts_in_a_dense_model: "for the same place",
    scales_of_plain_weights: "quantised and not quantised",
    scales_of_raw_floats: "has scales, but no quantization_config",
    two_scales: "has two scales",
    packed_copies: "quantised and not quantised",
    settings_of_a_version: r"names 'config\.4\.0\.0\.json'",
}


@pytest.mark.parametrize("lay_out", REFUSED, ids=lambda function: function.__name__)
def test_what_programs_load_differently_is_refused(
    pair: Pair, folder: Path, lay_out: Layout
) -> None:
    lay_out(folder, pair.real, pair.decoy)
    torch.testing.assert_close(loaded(folder, UP), pair.real[UP], atol=2e-2, rtol=0.1)
    with pytest.raises(HurefError, match=REFUSED[lay_out]) as caught:
        ModelReader(open_checkpoint(str(folder))).read_block(1)
    assert "\n" not in str(caught.value)


def test_an_adapter_beside_its_base_is_refused(pair: Pair, folder: Path) -> None:
    import peft
    import transformers

    save(pair.real, folder / "model.safetensors")
    base = transformers.AutoModelForCausalLM.from_pretrained(folder)
    settings = peft.LoraConfig(r=4, target_modules=["up_proj"], init_lora_weights=False)
    peft.get_peft_model(base, settings).save_pretrained(folder)
    run = transformers.AutoModelForCausalLM.from_pretrained(folder)
    assert any("lora" in name for name in run.state_dict()), "transformers applies it"
    with pytest.raises(HurefError, match="holds a model and an adapter"):
        open_checkpoint(str(folder))
    alone = open_checkpoint(str(folder / "model.safetensors"))
    assert torch.equal(alone.read([UP])[UP], pair.real[UP])


@pytest.mark.parametrize("kind", ["mixtral", "qwen3_moe"])
def test_experts_in_two_forms_are_refused(tmp_path: Path, kind: str) -> None:
    import transformers

    config = transformers.AutoConfig.for_model(
        kind, vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, num_local_experts=2, num_experts=2,
        num_experts_per_tok=2, moe_intermediate_size=24, head_dim=8,
    )  # fmt: skip
    model = transformers.AutoModelForCausalLM.from_config(config)
    model.save_pretrained(tmp_path)
    ModelReader(open_checkpoint(str(tmp_path))).read_block(1)
    from safetensors.torch import load_file

    stored = load_file(tmp_path / "model.safetensors")
    stacks = {n: torch.zeros_like(t) for n, t in model.state_dict().items() if ".experts." in n}
    assert not stacks.keys() & stored.keys(), "transformers writes them one by one"
    save(stored | stacks, tmp_path / "model.safetensors")
    with pytest.raises(HurefError, match="for the same place"):
        ModelReader(open_checkpoint(str(tmp_path)))


@pytest.mark.parametrize("tensors", ["twice", "also in an omitted shard"])
def test_shards_of_the_hub_are_looked_into(
    hub: LoopbackHub, pair: Pair, folder: Path, tensors: str
) -> None:
    """The index names the first shard; what runs is in the last one that it names."""
    if tensors == "twice":
        two_shards(folder, pair.decoy, pair.real, only_in_the_first(pair.real))
    else:
        rest = {n: t for n, t in pair.real.items() if n != UP}
        two_shards(folder, rest, {UP: pair.real[UP]}, dict.fromkeys(rest, ONE))
    hub.add("org/model", folder)
    checkpoint = open_checkpoint("org/model")
    names = [UP, QUERY]
    read = checkpoint.read(names)
    assert all(torch.equal(read[name], pair.real[name]) for name in names)


def test_one_request_more_for_each_shard_of_the_hub(
    hub: LoopbackHub, pair: Pair, folder: Path
) -> None:
    names = list(pair.real)
    shards = [f"model-{i:05}-of-00004.safetensors" for i in (1, 2, 3, 4)]
    for i, shard in enumerate(shards):
        save({name: pair.real[name] for name in names[i::4]}, folder / shard)
    write_index(folder, {name: shards[i % 4] for i, name in enumerate(names)})
    hub.add("org/model", folder)
    checkpoint = open_checkpoint("org/model")
    assert set(checkpoint.names) == set(names)
    ranges = [path for path, sent in hub.requests if path.endswith(".safetensors") and sent]
    assert len(ranges) == len(shards)


def test_a_name_twice_in_a_header_is_refused(pair: Pair, folder: Path) -> None:
    save(pair.real, folder / "model.safetensors")
    data = (folder / "model.safetensors").read_bytes()
    size = int.from_bytes(data[:8], "little")
    header = data[8 : 8 + size].decode().rstrip()
    entry = json.dumps(json.loads(header)[UP])
    header = f'{header[:-1]},"{UP}":{entry}}}'
    (folder / "model.safetensors").write_bytes(
        len(header).to_bytes(8, "little") + header.encode() + data[8 + size :]
    )
    with pytest.raises(HurefError, match="an object has a key twice"):
        _ = open_checkpoint(str(folder)).names


def test_a_tokenizer_of_a_version_is_refused(pair: Pair, folder: Path) -> None:
    save(pair.real, folder / "model.safetensors")
    (folder / "tokenizer.4.0.0.json").write_bytes((folder / "tokenizer.json").read_bytes())
    (folder / "tokenizer_config.json").write_text("{}")
    assert len(open_checkpoint(str(folder)).vocabulary) == 64
    settings = {"fast_tokenizer_files": ["tokenizer.4.0.0.json", "tokenizer.json"]}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    with pytest.raises(HurefError, match=r"names 'tokenizer\.4\.0\.0\.json'"):
        _ = open_checkpoint(str(folder)).vocabulary
