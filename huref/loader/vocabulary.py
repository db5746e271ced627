"""A tokenizer's vocabulary as bytes: what text each token id stands for.

No tokenizer is run. Spellings differ between formats (▁ or Ġ for a space, GPT-2's alphabet of
printable stand-ins for bytes), the bytes they stand for do not.
"""

import json
import re
from dataclasses import dataclass
from typing import Any, Literal

from huref.errors import CheckpointError

Kind = Literal["normal", "byte", "added", "special"]
_BYTE_FALLBACK = re.compile(r"<0x[0-9A-Fa-f]{2}>")


@dataclass(frozen=True)
class Token:
    """One vocabulary entry: its id, its text as bytes, and what kind of token it is."""

    id: int
    text: bytes
    kind: Kind


def byte_alphabet() -> dict[str, int]:
    """The stand-in characters of byte-level vocabularies (GPT-2), each with its byte.

    Printable bytes stand for themselves; the 68 others are given the code points from 256 on.
    """
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    alphabet = {chr(byte): byte for byte in printable}
    others = [byte for byte in range(256) if byte not in set(printable)]
    return alphabet | {chr(256 + i): byte for i, byte in enumerate(others)}


_ALPHABET = byte_alphabet()


def decode_byte_level(piece: str) -> bytes | None:
    """The bytes of a byte-level piece, or None when it holds a character outside the alphabet."""
    values = [_ALPHABET.get(character) for character in piece]
    return None if None in values else bytes(v for v in values if v is not None)


def decode_metaspace(piece: str) -> bytes:
    """The bytes of a SentencePiece piece, in which ▁ stands for a space."""
    return piece.replace("▁", " ").encode("utf-8", "surrogatepass")


def decode_wordpiece(piece: str) -> bytes:
    """The bytes of a WordPiece piece: ## continues a word, anything else begins one."""
    text = piece[2:] if piece.startswith("##") else " " + piece
    return text.encode("utf-8", "surrogatepass")


def _mentions(node: object, kind: str) -> bool:
    """Whether a tokenizer.json component, or one inside a Sequence, has a type."""
    if isinstance(node, list):
        return any(_mentions(child, kind) for child in node)
    if not isinstance(node, dict):
        return False
    children = ("pretokenizers", "decoders", "normalizers")
    return node.get("type") == kind or any(_mentions(node.get(key), kind) for key in children)


def _decode(piece: str, model_type: str, byte_level: bool) -> tuple[bytes, Kind]:
    if _BYTE_FALLBACK.fullmatch(piece):
        return bytes([int(piece[3:5], 16)]), "byte"
    if model_type == "WordPiece":
        return decode_wordpiece(piece), "normal"
    if byte_level and (decoded := decode_byte_level(piece)) is not None:
        return decoded, "normal"
    return decode_metaspace(piece), "normal"


def parse_tokenizer_json(text: bytes, name: str) -> list[Token]:
    """The vocabulary of a Hugging Face tokenizer.json (BPE, Unigram or WordPiece).

    Raises:
        CheckpointError: the file is not such a tokenizer, named as `name`.
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
            f"{name}: not a tokenizer.json that huref can read ({type(error).__name__})"
        ) from error
    byte_level = any(_mentions(data.get(k), "ByteLevel") for k in ("pre_tokenizer", "decoder"))
    # Files from before 2020 leave the model's type out; all of those are BPE.
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
