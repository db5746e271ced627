"""Tokenizers and words for models that are made in a test."""

import json
from pathlib import Path

FLAGS = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)  # of added tokens
BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}


def write_tokenizer(folder: Path, words: list[str], first_id: int = 0) -> None:
    """A byte-level BPE tokenizer.json whose vocabulary is a list of words."""
    vocab = {word: first_id + i for i, word in enumerate(words)}
    data = {
        "version": "1.0",
        "added_tokens": [],
        "pre_tokenizer": BYTE_LEVEL,
        "decoder": BYTE_LEVEL,
        "model": {"type": "BPE", "vocab": vocab, "merges": []},
    }
    (folder / "tokenizer.json").write_text(json.dumps(data), "utf-8")


def some_words(count: int) -> list[str]:
    """Distinct pronounceable strings, every other one with a leading space (Ġ)."""
    consonants, vowels = "bcdfghklmnprstvz", "aeiou"
    syllables = [c + v for c in consonants for v in vowels]
    words = [a + b for a in syllables for b in syllables]
    return [("Ġ" if i % 2 else "") + word for i, word in enumerate(words[:count])]
