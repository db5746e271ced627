"""The vocabulary in the metadata of a GGUF file."""

from collections.abc import Mapping
from typing import Any, TypeGuard

from huref.budget import TOKEN, Budget
from huref.errors import CheckpointError
from huref.loader.vocabulary.encoder import TextEncoder, from_pieces
from huref.loader.vocabulary.sentencepiece import KINDS
from huref.loader.vocabulary.spelling import (
    Kind,
    Token,
    decode_byte_fallback,
    decode_byte_level,
)

BYTE_LEVEL = "gpt2"  # GGUF's name for every byte-level BPE
NOT_BYTE_LEVEL = ("llama", "bert", "t5", "rwkv", "plamo2")  # llama.cpp's other tokenizer models


def parse_gguf_vocabulary(metadata: Mapping[str, Any]) -> list[Token]:
    """The vocabulary of a GGUF file; its token types are numbered as in SentencePiece.

    Raises:
        CheckpointError: the metadata has no vocabulary.
    """
    pieces = metadata.get("tokenizer.ggml.tokens")
    types = metadata.get("tokenizer.ggml.token_type")
    if not isinstance(pieces, list) or not all(isinstance(piece, str) for piece in pieces):
        raise CheckpointError("there is no vocabulary in the GGUF file")
    Budget(sum(map(len, pieces)) + 8 * len(pieces)).spend(TOKEN * len(pieces))
    if not _are_numbers(types) or len(types) != len(pieces):
        types = [1] * len(pieces)
    tokenizer_model = metadata.get("tokenizer.ggml.model")
    byte_level = tokenizer_model == BYTE_LEVEL
    if not byte_level and tokenizer_model not in NOT_BYTE_LEVEL:
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


def gguf_encoder(metadata: Mapping[str, Any]) -> TextEncoder | None:
    """The tokenizer in the metadata; None for a kind that cannot be run.

    Texts begin with the first token whatever add_bos_token says, as they do where config.json names
    one (`begins_with`): one model in two containers is run on one text.
    """
    pieces = metadata.get("tokenizer.ggml.tokens")
    if not isinstance(pieces, list) or not all(isinstance(piece, str) for piece in pieces):
        return None
    scores, merges = (metadata.get(f"tokenizer.ggml.{key}") for key in ("scores", "merges"))
    begins, unknown = (metadata.get(f"tokenizer.ggml.{key}_token_id") for key in ("bos", "unknown"))
    begins = begins if isinstance(begins, int) else None
    unknown = unknown if isinstance(unknown, int) else 0
    spaced = metadata.get("tokenizer.ggml.add_space_prefix") is not False
    model = metadata.get("tokenizer.ggml.model")
    has_scores = isinstance(scores, list) and len(scores) == len(pieces)
    if model == "gpt2" and isinstance(merges, list):
        return from_pieces(pieces, None, kind="byte-level", merges=merges, begins=begins)
    if model == "llama" and has_scores:
        return from_pieces(pieces, scores, kind="bpe", begins=begins, spaced=spaced)
    if model == "t5" and has_scores:
        return from_pieces(pieces, scores, kind="unigram", begins=begins, unknown=unknown)
    return None


def _are_numbers(values: object) -> TypeGuard[list[int]]:
    return isinstance(values, list) and all(type(value) is int for value in values)


def _looks_byte_level(pieces: list[str]) -> bool:
    """Whether more pieces begin with the byte-level space Ġ than with SentencePiece's ▁."""
    return sum(p.startswith("Ġ") for p in pieces) > sum(p.startswith("▁") for p in pieces)
