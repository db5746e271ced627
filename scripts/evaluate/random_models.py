"""Random models of several families, and the ICS of their copies, to prove attacks exact."""

import json
from pathlib import Path
from typing import Any

import torch
import transformers

from huref.invariants.extract import extract_terms
from huref.invariants.terms import pearson
from huref.loader.checkpoint import open_checkpoint
from huref.recipe import Recipe

VOCABULARY = 1200
LAYERS = 4
CONFIGS = {"Gemma3": "Gemma3TextConfig"}
FAMILIES = ("Llama", "Qwen3", "Phi3", "Gemma", "Gemma2", "Gemma3", "Olmo2", "GPT2", "GPTNeoX")
ONE_KEY_HEAD_EACH = ("GPT2", "GPTNeoX")  # without grouped queries
NO_HEAD_DIM = ("Phi3", "Olmo2")
OURS = Recipe("ours", "latin", 128, (1, 2), "whitened-1", 0.1, "-", "-")
PAPER = Recipe("paper", "rank", 128, (-2, -1), "published-1", 0.0, "-", "-")


def _write_tokenizer(folder: Path) -> None:
    """Write a tokenizer.json of short distinct words."""
    letters = "abcdefghijklmnopqrstuvwxyz"
    words = [a + b + c for a in letters for b in "aeiou" for c in letters][:VOCABULARY]
    model = {"type": "BPE", "vocab": {word: i for i, word in enumerate(words)}, "merges": []}
    data = {"version": "1.0", "added_tokens": [], "model": model}
    (folder / "tokenizer.json").write_text(json.dumps(data), "utf-8")


def make_model(
    folder: Path, family: str, groups: int = 2, per_group: int = 2, half_dim: int = 4, seed: int = 0
) -> Path:
    """Save a random model of one of `FAMILIES` by transformers; return its folder."""
    heads, head_dim = groups * per_group, 2 * half_dim
    width = heads * head_dim
    sizes: dict[str, Any] = {
        "vocab_size": VOCABULARY, "hidden_size": width, "intermediate_size": 3 * width,
        "num_hidden_layers": LAYERS, "num_attention_heads": heads, "max_position_embeddings": 32,
        "bos_token_id": 1, "eos_token_id": 2,
    }  # fmt: skip
    if family not in ONE_KEY_HEAD_EACH:
        sizes |= {"num_key_value_heads": groups, "pad_token_id": 0}
    if family not in (*ONE_KEY_HEAD_EACH, *NO_HEAD_DIM):
        sizes["head_dim"] = head_dim
    if family == "GPT2":
        sizes |= {"n_embd": width, "n_layer": LAYERS, "n_head": heads, "n_positions": 32}
    if family == "GPTNeoX":
        sizes |= {
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 1e4,
                "partial_rotary_factor": 0.5,
            }
        }
    config = getattr(transformers, CONFIGS.get(family, f"{family}Config"))(**sizes)
    name = "GPT2LMHeadModel" if family == "GPT2" else f"{family}ForCausalLM"
    torch.manual_seed(seed)
    model = getattr(transformers, name)(config)
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        if parameter.dim() == 1:  # gains and biases, initially ones and zeros
            noise = torch.rand(parameter.shape, generator=generator) - 0.5
            parameter.data.add_(0.5 * noise)
        else:
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.data.copy_(noise / parameter.shape[-1] ** 0.5)
    model.save_pretrained(folder)
    _write_tokenizer(folder)
    return folder


def ics(before: Path, after: Path, recipe: Recipe = OURS) -> float:
    """ICS of the models in two folders."""
    one, two = (extract_terms(open_checkpoint(str(f)), recipe).terms for f in (before, after))
    return float(pearson(one, two).mean())
