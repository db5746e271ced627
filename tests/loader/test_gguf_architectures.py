"""GGUF files of architectures with transformers' tiny models, named by the gguf package's tables.

The arithmetic of a block read from the GGUF file must be that of the block read from the published
checkpoint. What the converters do beyond names (norms plus one, experts stacked, fused gates
split) is done here by the test's own writer, after llama.cpp's conversion script.
"""

import re
from pathlib import Path
from typing import Any

import gguf
import pytest
import torch
from torch import Tensor

from huref.architecture.block import Attention, FeedForward, Mixture
from huref.architecture.reader import ModelReader
from huref.loader.checkpoint import open_checkpoint
from tests.support.small_models import some_words, write_tokenizer

KINDS = {name: kind for kind, name in gguf.constants.MODEL_ARCH_NAMES.items()}
COMMON: dict[str, Any] = {
    "vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 4,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "pad_token_id": 0,
}  # fmt: skip
EXPERTS: dict[str, Any] = {"num_experts_per_tok": 2, "moe_intermediate_size": 16}
# GGUF's name -> transformers' class, settings, and settings of the GGUF file.
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "gpt-oss": ("GptOss", {"num_local_experts": 4, "num_experts_per_tok": 2}),
    "qwen3next": ("Qwen3Next", {
        "num_experts": 4, "layer_types": ["full_attention"] * 4, **EXPERTS,
        "shared_expert_intermediate_size": 16}),
    "lfm2": ("Lfm2", {"layer_types": ["conv", "full_attention", "conv", "full_attention"]}),
    "glm4moe": ("Glm4Moe", {
        "n_routed_experts": 4, "first_k_dense_replace": 1, "n_shared_experts": 1,
        "use_qk_norm": True, **EXPERTS}),
    "exaone4": ("Exaone4", {
        "layer_types": ["full_attention"] * 4, "sliding_window": 8, "sliding_window_pattern": 4}),
    "seed_oss": ("SeedOss", {}),
}  # fmt: skip
PLUS_ONE = ("qwen3next", "qwen35", "qwen35moe")


def gguf_name(table: gguf.TensorNameMap, name: str) -> str | None:
    """The gguf package's name of a published tensor."""
    stem, _, suffix = name.rpartition(".")
    if suffix not in ("weight", "bias"):
        stem, suffix = name, ""
    found = table.get_name(stem) or table.get_name(f"{stem}.weight")
    return found and (f"{found}.{suffix}" if suffix else found)


def converted(folder: Path, architecture: str, blocks: int) -> dict[str, Tensor]:
    """The tensors of the GGUF file, as the conversion script names and changes them."""
    from safetensors.torch import load_file

    table = gguf.get_tensor_name_map(KINDS[architecture], blocks)
    published = load_file(folder / "model.safetensors")
    stacks: dict[str, dict[int, Tensor]] = {}
    found: dict[str, Tensor] = {}
    for name, tensor in published.items():
        if match := re.fullmatch(r"(.*experts)\.(\d+)\.(\w+)\.weight", name):
            stacks.setdefault(f"{match[1]}.{match[3]}", {})[int(match[2])] = tensor
        elif name.endswith("experts.gate_up_proj") and architecture == "gpt-oss":
            stem = name.removesuffix("gate_up_proj")  # in, out; gate and up by turns
            found[f"{stem}gate_proj"] = tensor[..., 0::2].mT.contiguous()
            found[f"{stem}up_proj"] = tensor[..., 1::2].mT.contiguous()
        elif name.endswith("gate_up_proj") and tensor.dim() == 3:
            tensor = tensor.mT if architecture == "llama4" else tensor
            stem = name.removesuffix("gate_up_proj")
            found[f"{stem}gate_proj"], found[f"{stem}up_proj"] = tensor.chunk(2, dim=1)
        elif name.endswith("input_linear.weight"):  # Granite
            part = "exps" if "sparse" in name else "shexp"
            index = name.split(".")[2]
            for role, half in zip(("gate", "up"), tensor.chunk(2, dim=-2), strict=True):
                found[f"blk.{index}.ffn_{role}_{part}"] = half
        elif name.endswith("experts.down_proj") and architecture in ("gpt-oss", "llama4"):
            found[name] = tensor.mT.contiguous()
        elif "bias" not in name:
            found[name] = tensor
    for stem, experts in stacks.items():
        found[stem] = torch.stack([experts[e] for e in sorted(experts)])
    written = {}
    for name, tensor in found.items():
        target = name if name.startswith("blk.") else gguf_name(table, name)
        ends = ("experts.gate_proj", "experts.up_proj", "experts.down_proj")
        if target is None and name.endswith(ends):
            role = name.rpartition(".")[2].removesuffix("_proj")
            target = f"blk.{name.split('.')[2]}.ffn_{role}_exps"
        if target is not None:
            is_norm = name.endswith("norm.weight") and "linear_attn" not in name
            plus = 1 if architecture in PLUS_ONE and is_norm else 0
            suffix = "" if target.endswith((".weight", ".bias")) else ".weight"
            written[target + suffix] = tensor.float() + plus
    return written


def write(folder: Path, file: Path, architecture: str) -> None:
    config = open_checkpoint(str(folder)).config
    writer = gguf.GGUFWriter(file, architecture)
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    groups = config["num_key_value_heads"]
    if architecture.startswith("lfm2"):
        groups = [groups if kind == "full_attention" else 0 for kind in config["layer_types"]]
    writer.add_head_count_kv(groups)
    writer.add_key_length(config.get("head_dim", 8))
    for key in ("num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts"):
        if config.get(key):
            writer.add_expert_count(config[key])
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(some_words(64))
    writer.add_token_types([1] * 64)
    for name, tensor in converted(folder, architecture, config["num_hidden_layers"]).items():
        writer.add_tensor(name, tensor.contiguous().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.mark.parametrize("architecture", CASES)
def test_a_block_is_that_of_the_published_checkpoint(tmp_path: Path, architecture: str) -> None:
    import transformers

    kind, settings = CASES[architecture]
    of_text = getattr(transformers, f"{kind}TextConfig", None)
    config = (of_text or getattr(transformers, f"{kind}Config"))(**{**COMMON, **settings})
    torch.manual_seed(0)
    model = getattr(transformers, f"{kind}ForCausalLM")(config).float()
    for parameter in model.parameters():
        parameter.data = torch.rand_like(parameter) - 0.5
    folder = tmp_path / "published"
    model.save_pretrained(folder)
    write_tokenizer(folder, some_words(64))
    write(folder, tmp_path / "model.gguf", architecture)
    published = ModelReader(open_checkpoint(str(folder)))
    converted_ = ModelReader(open_checkpoint(str(tmp_path / "model.gguf")))
    assert converted_.attention_blocks == published.attention_blocks
    torch.testing.assert_close(converted_.embeddings([3, 9]), published.embeddings([3, 9]))
    for index in published.attention_blocks[-2:]:
        a, b = published.read_attention(index), converted_.read_attention(index)
        assert isinstance(a, Attention)
        assert isinstance(b, Attention)
        for role in ("q", "k", "v", "o"):
            torch.testing.assert_close(getattr(b, role), getattr(a, role), msg=role)
        assert (a.q_norm is None) == (b.q_norm is None)
        assert_same_network(published.read_ffn(index), converted_.read_ffn(index))


def assert_same_network(a: FeedForward | Mixture, b: FeedForward | Mixture) -> None:
    if isinstance(a, Mixture):
        assert isinstance(b, Mixture)
        assert a.count == b.count
        for index in range(a.count):
            assert_same_network(a.read(index), b.read(index))
        assert (a.shared is None) == (b.shared is None)
        if a.shared is not None and b.shared is not None:
            assert_same_network(a.shared, b.shared)
        return
    assert isinstance(b, FeedForward)
    torch.testing.assert_close(b.up, a.up)
    torch.testing.assert_close(b.down, a.down)
    if a.gate is not None and b.gate is not None:
        torch.testing.assert_close(b.gate, a.gate)
