"""Write a checkpoint in other container formats, with each format's own library."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import safetensors.torch
import torch
from torch import Tensor

if TYPE_CHECKING:
    import gguf

Quantise = Callable[[str, Tensor], "tuple[np.ndarray, object]"]


def load(folder: Path) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    for file in sorted(folder.glob("*.safetensors")):
        tensors |= safetensors.torch.load_file(file)
    return tensors


def config_of(folder: Path) -> dict[str, Any]:
    config: dict[str, Any] = json.loads((folder / "config.json").read_text())
    return config


def copy_side_files(folder: Path, target: Path, *names: str) -> None:
    """Copy the named files, by default config.json and tokenizer.json."""
    target.mkdir(parents=True, exist_ok=True)
    for name in names or ("config.json", "tokenizer.json"):
        (target / name).write_bytes((folder / name).read_bytes())


def interleave(weight: Tensor, heads: int) -> Tensor:
    """Reorder rows from rotary halves to interleaved pairs, as llama.cpp's converter does."""
    rows = weight.shape[0]
    split = weight.reshape(heads, 2, rows // heads // 2, *weight.shape[1:])
    return split.swapaxes(1, 2).reshape(weight.shape)


META = {
    "embed_tokens": "tok_embeddings", "lm_head": "output", "norm": "norm",
    "input_layernorm": "attention_norm", "post_attention_layernorm": "ffn_norm",
    "q_proj": "attention.wq", "k_proj": "attention.wk", "v_proj": "attention.wv",
    "o_proj": "attention.wo", "gate_proj": "feed_forward.w1", "down_proj": "feed_forward.w2",
    "up_proj": "feed_forward.w3",
}  # fmt: skip


def write_meta(folder: Path, target: Path, parts: int = 1, embedding_axis: int = 1) -> None:
    """Write consolidated.NN.pth as Llama's reference code shards it over `parts` ranks."""
    target.mkdir(parents=True)
    config = config_of(folder)
    heads, kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
    shards: list[dict[str, Tensor]] = [{} for _ in range(parts)]
    for name, tensor in load(folder).items():
        words = name.split(".")
        role, block = words[-2], words[2] if "layers" in words else None
        meta = META[role] + ".weight"
        if block is not None:
            meta = f"layers.{block}.{meta}"
        if role in ("q_proj", "k_proj"):
            tensor = interleave(tensor, heads if role == "q_proj" else kv_heads)
        axis = 1 if role in ("o_proj", "down_proj") else 0
        axis = embedding_axis if role == "embed_tokens" else axis
        if role in ("k_proj", "v_proj") and parts > kv_heads:
            copies = parts // kv_heads
            pieces = [piece for piece in tensor.chunk(kv_heads) for _ in range(copies)]
        else:
            pieces = list(tensor.chunk(parts, dim=axis))
        for rank, shard in enumerate(shards):
            shard[meta] = tensor.clone() if tensor.dim() == 1 else pieces[rank].clone()
    for rank, shard in enumerate(shards):
        shard["rope.freqs"] = torch.ones(4)
        torch.save(shard, target / f"consolidated.{rank:02d}.pth")
    params = {
        "dim": config["hidden_size"],
        "multiple_of": 32,
        "n_heads": heads,
        "n_layers": config["num_hidden_layers"],
        "norm_eps": 1e-5,
        "vocab_size": -1,
    }
    if config.get("head_dim"):
        params["head_dim"] = config["head_dim"]
    if kv_heads != heads:
        params["n_kv_heads"] = kv_heads
    (target / "params.json").write_text(json.dumps(params))


def write_gguf(
    folder: Path,
    file: Path,
    architecture: str,
    quantise: str = "F32",
    split: int = 0,
    embedding: str = "",
) -> None:
    """Write with gguf's writer, names and quantisers. Norms and vectors stay F32."""
    import gguf

    file.parent.mkdir(parents=True, exist_ok=True)
    config = config_of(folder)
    kinds = {name: kind for kind, name in gguf.constants.MODEL_ARCH_NAMES.items()}
    names = gguf.get_tensor_name_map(kinds[architecture], config["num_hidden_layers"])
    writer = gguf.GGUFWriter(file, architecture, split_max_tensors=split)
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    if config.get("head_dim"):
        writer.add_key_length(config["head_dim"])
    if config.get("num_local_experts"):
        writer.add_expert_count(config["num_local_experts"])
    write_vocabulary(writer, json.loads((folder / "tokenizer.json").read_text()))
    for name, tensor in load(folder).items():
        stem, _, suffix = name.rpartition(".")
        if architecture == "llama" and stem.endswith(("q_proj", "k_proj")):
            key = "num_attention_heads" if stem.endswith("q_proj") else "num_key_value_heads"
            tensor = interleave(tensor, config[key])
        if "gemma" in architecture and stem.endswith("norm"):
            tensor = tensor + 1
        gguf_name = names.get_name(stem)
        assert gguf_name is not None, stem
        values = tensor.float().numpy()
        if tensor.dim() == 2 and quantise != "F32":
            chosen = (embedding if stem.endswith("embed_tokens") else "") or quantise
            kind = gguf.GGMLQuantizationType[chosen]
            packed = gguf.quants.quantize(values, kind)
            writer.add_tensor(f"{gguf_name}.{suffix}", packed, raw_dtype=kind)
        else:
            writer.add_tensor(f"{gguf_name}.{suffix}", values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def write_vocabulary(writer: "gguf.GGUFWriter", tokenizer: dict[str, Any]) -> None:
    pieces = sorted(tokenizer["model"]["vocab"].items(), key=lambda item: item[1])
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list([piece for piece, _ in pieces])
    writer.add_token_types([1] * len(pieces))


def write_header_only(
    file: Path, model: str, pieces: list[str] | None, kinds: list[int] | None
) -> dict[str, Any]:
    """Write a GGUF file with a vocabulary and no tensors; return its metadata as huref reads it."""
    import gguf

    from huref.loader.formats.gguf import read_header
    from huref.loader.ranges import LocalFile, Meter

    writer = gguf.GGUFWriter(file, "llama")
    writer.add_tokenizer_model(model)
    if pieces is not None:
        writer.add_token_list(pieces)
        writer.add_token_types(kinds or [])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return read_header(LocalFile(file, file.name, Meter())).metadata
