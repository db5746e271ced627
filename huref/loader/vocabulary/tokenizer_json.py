"""tokenizer.json of the tokenizers library, with a BPE, Unigram or WordPiece model."""

import json
from typing import Any

from huref.errors import CheckpointError
from huref.loader.vocabulary.spelling import (
    Kind,
    Token,
    decode_byte_fallback,
    decode_byte_level,
    decode_metaspace,
    decode_wordpiece,
)


def _mentions(node: object, kind: str) -> bool:
    """Whether a component of tokenizer.json, or one inside a Sequence, has a given type."""
    if isinstance(node, list):
        return any(_mentions(child, kind) for child in node)
    if not isinstance(node, dict):
        return False
    children = ("pretokenizers", "decoders", "normalizers")
    return node.get("type") == kind or any(_mentions(node.get(key), kind) for key in children)


def _decode(piece: str, model_type: str, byte_level: bool) -> tuple[bytes, Kind]:
    if (byte := decode_byte_fallback(piece)) is not None:
        return byte, "byte"
    if model_type == "WordPiece":
        return decode_wordpiece(piece), "normal"
    if byte_level and (decoded := decode_byte_level(piece)) is not None:
        return decoded, "normal"
    return decode_metaspace(piece), "normal"


def parse_tokenizer_json(text: bytes) -> list[Token]:
    """The vocabulary of a tokenizer.json.

    Raises:
        CheckpointError: the file is not a tokenizer of a known kind.
    """
    try:
        data: Any = json.loads(text)
        model = data["model"]
        vocabulary = model["vocab"]
        if isinstance(vocabulary, dict):
            pieces = {int(number): str(piece) for piece, number in vocabulary.items()}
        else:  # Unigram: a list of [piece, log probability]
            pieces = {number: str(entry[0]) for number, entry in enumerate(vocabulary)}
        added = {int(entry["id"]): entry for entry in data.get("added_tokens") or []}
    except (ValueError, KeyError, TypeError, IndexError, RecursionError) as error:
        raise CheckpointError(
            f"it is not a tokenizer.json that huref can read ({type(error).__name__})"
        ) from error
    byte_level = any(_mentions(data.get(k), "ByteLevel") for k in ("pre_tokenizer", "decoder"))
    # Files from before 2020 do not give the model's type; it is always BPE.
    model_type = str(model.get("type") or "BPE")
    tokens = []
    for number, piece in sorted(pieces.items()):
        if number not in added:
            decoded, kind = _decode(piece, model_type, byte_level)
            tokens.append(Token(number, decoded, kind))
    for number, entry in sorted(added.items()):
        special: Kind = "special" if entry.get("special") else "added"
        tokens.append(Token(number, str(entry.get("content", "")).encode(), special))
    return tokens
