"""The vocabulary inside a GGUF file's metadata."""

from collections.abc import Mapping
from typing import Any

from huref.errors import CheckpointError
from huref.loader.vocabulary.sentencepiece import KINDS
from huref.loader.vocabulary.spelling import (
    Kind,
    Token,
    decode_byte_fallback,
    decode_byte_level,
)

BYTE_LEVEL = "gpt2"  # what GGUF calls every byte-level BPE
OTHERS = ("llama", "bert", "t5", "rwkv", "plamo2")  # llama.cpp's other kinds, spelled as text


def parse_gguf_vocabulary(metadata: Mapping[str, Any], name: str) -> list[Token]:
    """The vocabulary of a GGUF file; kinds are SentencePiece's numbers.

    Raises:
        CheckpointError: there is none.
    """
    pieces = metadata.get("tokenizer.ggml.tokens")
    types = metadata.get("tokenizer.ggml.token_type")
    if not isinstance(pieces, list) or not all(isinstance(piece, str) for piece in pieces):
        raise CheckpointError(f"{name}: there is no vocabulary in the GGUF file")
    if not isinstance(types, list) or len(types) != len(pieces):
        types = [1] * len(pieces)
    kind_of_model = metadata.get("tokenizer.ggml.model")
    byte_level = kind_of_model == BYTE_LEVEL
    if not byte_level and kind_of_model not in OTHERS:
        byte_level = _looks_byte_level(pieces)
    tokens = []
    for number, (piece, type_number) in enumerate(zip(pieces, types, strict=True)):
        kind: Kind = KINDS.get(type_number, "special")
        text = None
        if kind in ("special", "added"):
            text = piece.encode("utf-8", "surrogateescape")
        elif (byte := decode_byte_fallback(piece)) is not None:
            text, kind = byte, "byte"
        elif byte_level:
            text = decode_byte_level(piece)
        if text is None:
            text = piece.replace("▁", " ").encode("utf-8", "surrogateescape")
        tokens.append(Token(number, text, kind))
    return tokens


def _looks_byte_level(pieces: list[str]) -> bool:
    """Whether words begin with the byte-level alphabet's space rather than SentencePiece's."""
    return sum(p.startswith("Ġ") for p in pieces) > sum(p.startswith("▁") for p in pieces)
