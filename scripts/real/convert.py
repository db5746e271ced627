"""Converts a GGUF file to a folder as transformers reads it: safetensors, config and tokenizer."""

import json
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
)

from huref.loader.checkpoint import open_checkpoint
from huref.loader.formats.gguf import read_header
from huref.loader.ranges import LocalFile, Meter
from huref.loader.vocabulary.encoder import derived_merges

CLASSES = {
    "llama": "LlamaForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "gemma3": "Gemma3ForCausalLM",
}
# Keys of config.json that differ from the metadata's, or that the metadata does not have.
GEMMA3 = {
    "model_type": "gemma3_text", "query_pre_attn_scalar": 256, "rope_local_base_freq": 1e4,
    "hidden_activation": "gelu_pytorch_tanh",
}  # fmt: skip
CONTROL, USER_DEFINED = 3, 4  # token types
# Contractions; letters with at most one other character in front; single digits; signs; spaces.
QWEN2 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def convert(file: Path, folder: Path) -> None:
    """Write the folder; it appears when it is complete."""
    checkpoint = open_checkpoint(str(file))
    metadata = read_header(LocalFile(file, file.name, Meter())).metadata
    architecture = str(metadata["general.architecture"])
    tensors = {
        name: tensor.half().contiguous()
        for name, tensor in checkpoint.read(checkpoint.names).items()
    }
    partial = folder.with_name(f".{folder.name}")
    partial.mkdir(parents=True, exist_ok=True)
    save_file(tensors, partial / "model.safetensors", {"format": "pt"})
    config = make_config(metadata, architecture, dict(checkpoint.config))
    config["tie_word_embeddings"] = "lm_head.weight" not in tensors
    (partial / "config.json").write_text(json.dumps(config, indent=2), "utf-8")
    make_tokenizer(metadata).save(str(partial / "tokenizer.json"))
    end = metadata["tokenizer.ggml.tokens"][metadata["tokenizer.ggml.eos_token_id"]]
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": end}
    (partial / "tokenizer_config.json").write_text(json.dumps(settings), "utf-8")
    partial.rename(folder)


def make_config(
    metadata: dict[str, Any], architecture: str, read: dict[str, Any]
) -> dict[str, Any]:
    """config.json from a file's metadata and from what huref reads of it."""

    def setting(key: str) -> Any:
        return metadata.get(f"{architecture}.{key}")

    config: dict[str, Any] = {
        **read,
        "architectures": [CLASSES[architecture]],
        "max_position_embeddings": setting("context_length"),
        "rms_norm_eps": setting("attention.layer_norm_rms_epsilon"),
        "rope_theta": setting("rope.freq_base") or 1e4,
        "eos_token_id": metadata.get("tokenizer.ggml.eos_token_id"),
        "bos_token_id": metadata.get("tokenizer.ggml.bos_token_id"),
        "dtype": "float16",
    }
    if architecture == "gemma3":
        config |= GEMMA3 | {"sliding_window": setting("attention.sliding_window")}
    return {key: value for key, value in config.items() if value is not None}


def make_tokenizer(metadata: dict[str, Any]) -> Tokenizer:
    """The tokenizer of a file: byte-level BPE with its merges, or SentencePiece's BPE."""
    pieces: list[str] = metadata["tokenizer.ggml.tokens"]
    types: list[int] = metadata["tokenizer.ggml.token_type"]
    vocabulary = {piece: number for number, piece in enumerate(pieces)}
    if merges := metadata.get("tokenizer.ggml.merges"):
        pairs = [tuple(merge.split(" ")) for merge in merges]
        tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=pairs))
        tokenizer.pre_tokenizer = split_text(metadata.get("tokenizer.ggml.pre"))
        tokenizer.decoder = decoders.ByteLevel()
    else:
        scores = list(map(float, metadata["tokenizer.ggml.scores"]))
        # The merges that SentencePiece makes follow from the scores.
        pairs = derived_merges(vocabulary, scores)
        tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=pairs, byte_fallback=True))
        tokenizer.normalizer = normalizers.Replace(" ", "▁")
        tokenizer.decoder = decoders.Sequence(
            [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
        )
    for kind in (CONTROL, USER_DEFINED):
        added = [piece for piece, other in zip(pieces, types, strict=True) if other == kind]
        special = kind == CONTROL
        add = tokenizer.add_special_tokens if special else tokenizer.add_tokens
        add([AddedToken(piece, special=special, normalized=False) for piece in added])
    return tokenizer


def split_text(rule: str | None) -> pre_tokenizers.PreTokenizer:
    """How a text is split into words, by the rule's name in GGUF."""
    bytes_only = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    gpt2 = pre_tokenizers.ByteLevel(add_prefix_space=False)
    if rule == "smollm":
        return pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), gpt2])
    if rule == "qwen2":
        words = pre_tokenizers.Split(Regex(QWEN2), "isolated")
        return pre_tokenizers.Sequence([words, bytes_only])
    return gpt2
