"""Small random models under the names, in the classes and in the file layouts of public models.

Relatives hold nearly the same weights; models that only share an initialisation differ by more.
Trained models cannot be had here, so nothing follows from a verdict between the two.
"""

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import save_file
from torch import Tensor

from huref.api.pairs_file import ListedPair
from tests.support.containers import config_of, load, write_vocabulary
from tests.support.small_models import some_words, write_tokenizer

WORDS = 1024
NEAR = 1e-3  # noise between relatives, in standard deviations of each tensor
APART = 0.3  # likewise between models of one initialisation
GROUP = 32  # weights that share a scale, in four bits
SMALL: dict[str, Any] = {
    "vocab_size": WORDS, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 4,
    "num_attention_heads": 4, "max_position_embeddings": 64,
    "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0,
}  # fmt: skip
# Pattern of a name -> (class of transformers, changes to SMALL); the first that fits counts.
CLASSES: dict[str, tuple[str, dict[str, Any]]] = {
    "gemma-3": ("Gemma3ForCausalLM", {"num_key_value_heads": 1, "head_dim": 16}),
    "distilgpt2": ("GPT2LMHeadModel", {"n_inner": 96, "num_hidden_layers": 3}),
    "gpt2|DialoGPT": ("GPT2LMHeadModel", {"n_inner": 96, "num_hidden_layers": 6}),
    "opt-350m": (
        "OPTForCausalLM",
        {"ffn_dim": 96, "do_layer_norm_before": False, "word_embed_proj_dim": 32},
    ),
    "opt": ("OPTForCausalLM", {"ffn_dim": 96, "word_embed_proj_dim": 64}),
    "bloom": ("BloomForCausalLM", {"n_layer": 4, "n_head": 4}),
    "gpt-neo": (
        "GPTNeoForCausalLM",
        {"num_layers": 4, "num_heads": 4, "attention_types": [[["global", "local"], 2]]},
    ),
    "pythia": ("GPTNeoXForCausalLM", {"rotary_pct": 0.25}),
    "Qwen": ("Qwen2ForCausalLM", {"num_key_value_heads": 2}),
    "SmolLM2": ("LlamaForCausalLM", {"num_key_value_heads": 2, "tie_word_embeddings": True}),
}
# How weights are stored there; others are safetensors under transformers' names.
AS_PICKLE = re.compile(r"opt|DialoGPT")
WITHOUT_PREFIX = re.compile(r"^(openai-community/gpt2|distilbert|bigscience/)")
ADAPTERS = {
    "monsterapi/gpt2_alpaca-lora": ("openai-community/gpt2", "transformer.h.{}.attn.c_attn"),
    "monsterapi/opt125M_alpaca": (
        "facebook/opt-125m",
        "model.decoder.layers.{}.self_attn.q_proj",
    ),
}


def write_base(name: str, folder: Path, seed: int) -> None:
    """A random model of the class that the public model of this name has."""
    class_name, changes = next(v for pattern, v in CLASSES.items() if re.search(pattern, name))
    model_class = getattr(transformers, class_name)
    torch.manual_seed(seed)
    model = model_class(model_class.config_class(**(SMALL | changes)))
    for key, parameter in model.named_parameters():
        if parameter.dim() == 1 and key.endswith("weight"):
            parameter.data.uniform_(0.5, 1.5)
    tensors = {key: tensor.contiguous() for key, tensor in model.state_dict().items()}
    if model.config.tie_word_embeddings:
        tensors.pop("lm_head.weight", None)
    model.config.architectures = [class_name]
    model.config.save_pretrained(folder)
    store(name, tensors, folder)


def write_relative(name: str, parent: Path, folder: Path, noise: float, seed: int) -> None:
    """The parent's weights with noise; distilgpt2 has every other block of gpt2."""
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for key, tensor in load_any(parent).items():
        draw = torch.randn(tensor.shape, generator=generator)
        tensors[key] = tensor + noise * draw * (tensor.std() if tensor.numel() > 1 else 0)
    config = config_of(parent)
    if "distilgpt2" in name and config["n_layer"] == 6:
        config["n_layer"] = 3
        tensors = every_other_block(tensors)
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config))
    store(name, tensors, folder)


def every_other_block(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Blocks 0, 2, 4 under the numbers 0, 1, 2, as DistilGPT-2 was initialised."""
    kept = {}
    for key, tensor in tensors.items():
        found = re.search(r"\bh\.(\d+)\.", key)
        if found is None:
            kept[key] = tensor
        elif int(found[1]) % 2 == 0:
            kept[key.replace(found[0], f"h.{int(found[1]) // 2}.")] = tensor
    return kept


def store(name: str, tensors: dict[str, Tensor], folder: Path) -> None:
    """Write the weights as the public model's repository has them, and a tokenizer."""
    write_tokenizer(folder, some_words(WORDS))
    if name.endswith("GGUF"):
        write_gpt2_gguf(folder, tensors)
    elif "awq" in name:
        write_awq(folder, tensors)
    elif AS_PICKLE.search(name):
        torch.save(tensors, folder / "pytorch_model.bin")
    else:
        if WITHOUT_PREFIX.search(name):
            tensors = {key.removeprefix("transformer."): t for key, t in tensors.items()}
        save_file(tensors, folder / "model.safetensors", {"format": "pt"})


def load_any(folder: Path) -> dict[str, Tensor]:
    """The weights of a stand-in under transformers' names."""
    path = folder / "pytorch_model.bin"
    tensors = torch.load(path, weights_only=True) if path.exists() else load(folder)
    prefixed = {"wte", "wpe", "h", "ln_f", "word_embeddings", "word_embeddings_layernorm"}
    return {
        f"transformer.{key}" if key.partition(".")[0] in prefixed else key: tensor
        for key, tensor in tensors.items()
    }


def write_adapter(base: str, target: str, folder: Path) -> None:
    """A LoRA adapter on one matrix of each block, by hand: peft takes seconds to import."""
    folder.mkdir(parents=True)
    module = target.rpartition(".")[2]
    settings = {
        "peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": [module],
        "fan_in_fan_out": module == "c_attn", "base_model_name_or_path": base,
    }  # fmt: skip
    (folder / "adapter_config.json").write_text(json.dumps(settings))
    tensors = {}
    for block in range(4):
        start = f"base_model.model.{target.format(block)}"
        tensors[f"{start}.lora_A.weight"] = 1e-3 * torch.randn(4, 64)
        outputs = 192 if module == "c_attn" else 64
        tensors[f"{start}.lora_B.weight"] = 1e-3 * torch.randn(outputs, 4)
    save_file(tensors, folder / "adapter_model.safetensors", {"format": "pt"})


def write_gpt2_gguf(folder: Path, tensors: Mapping[str, Tensor]) -> None:
    """One Q8_0 file as llama.cpp's converter writes a GPT-2; no config.json beside it."""
    import gguf

    config = config_of(folder)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.GPT2, config["n_layer"])
    writer = gguf.GGUFWriter(folder / "model-q8_0.gguf", "gpt2")
    writer.add_block_count(config["n_layer"])
    writer.add_embedding_length(config["n_embd"])
    writer.add_feed_forward_length(config["n_inner"])
    writer.add_head_count(config["n_head"])
    write_vocabulary(writer, json.loads((folder / "tokenizer.json").read_text()))
    for key, tensor in tensors.items():
        stem, _, suffix = key.rpartition(".")
        if re.search(r"c_(attn|proj|fc)$", stem) and tensor.dim() == 2:
            tensor = tensor.T
        kind = gguf.GGMLQuantizationType.Q8_0
        values = tensor.float().contiguous().numpy()
        name = f"{names.get_name(stem)}.{suffix}"
        if tensor.dim() == 2:
            writer.add_tensor(name, gguf.quants.quantize(values, kind), raw_dtype=kind)
        else:
            writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    for name in ("config.json", "tokenizer.json"):
        (folder / name).unlink()


def write_awq(folder: Path, tensors: Mapping[str, Tensor]) -> None:
    """The matrices of the blocks in four bits, in AWQ's layout."""
    stored: dict[str, Tensor] = {}
    for key, tensor in tensors.items():
        if ".layers." not in key or tensor.dim() != 2:
            stored[key] = tensor
            continue
        groups = tensor.float().T.reshape(-1, GROUP, len(tensor))  # (groups, inputs, outputs)
        scales = (groups.abs().amax(1) / 7).half()
        integers = (groups / scales.float()[:, None] + 8).round().clamp(0, 15).long()
        stem = key.removesuffix(".weight")
        stored[f"{stem}.qweight"] = awq_pack(integers.flatten(0, 1))
        stored[f"{stem}.qzeros"] = awq_pack(torch.full_like(scales, 8).long())
        stored[f"{stem}.scales"] = scales
    settings = {"quant_method": "awq", "bits": 4, "group_size": GROUP, "version": "gemm"}
    config = config_of(folder) | {"quantization_config": settings}
    (folder / "config.json").write_text(json.dumps(config))
    save_file(stored, folder / "model.safetensors", {"format": "pt"})


def awq_pack(integers: Tensor) -> Tensor:
    """Eight outputs in an int32, in the order of AWQ's kernels."""
    parts = integers.reshape(len(integers), -1, 8)[..., [0, 2, 4, 6, 1, 3, 5, 7]]
    words = (parts << (4 * torch.arange(8))).sum(2)
    return torch.where(words >= 2**31, words - 2**32, words).to(torch.int32)


def relatives_of(pairs: Iterable[ListedPair]) -> dict[str, tuple[str, float]]:
    """Name -> (the model that its stand-in is made from, the noise), as the list has it."""
    noise = {"descends": NEAR, "shared initialisation": APART}
    relatives: dict[str, tuple[str, float]] = {}
    for pair in pairs:
        if pair.expected not in noise:
            continue
        if pair.id_b not in relatives:
            relatives[pair.id_b] = (pair.id_a, noise[pair.expected])
        elif pair.id_a not in relatives:  # several ancestors of one model
            relatives[pair.id_a] = (pair.id_b, noise[pair.expected])
    return relatives


def write_stand_ins(pairs: Iterable[ListedPair], root: Path) -> dict[str, Path]:
    """Write a stand-in for each model of a list; return their folders by name."""
    pairs = list(pairs)
    relatives, folders = relatives_of(pairs), dict[str, Path]()

    def write(name: str) -> None:
        folder = root / re.sub(r"\W", "-", name)
        if name in folders:
            return
        if name in ADAPTERS:
            write_adapter(*ADAPTERS[name], folder)
        elif name in relatives:
            parent, noise = relatives[name]
            write(parent)
            write_relative(name, folders[parent], folder, noise, len(folders))
        else:
            write_base(name, folder, len(folders))
        folders[name] = folder

    for name in dict.fromkeys(name for pair in pairs for name in (pair.id_a, pair.id_b)):
        write(name)
    return folders
