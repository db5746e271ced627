"""From the pieces of a vocabulary file to the bytes of its tokens.

Formats encode bytes differently (▁ or Ġ for a space, GPT-2's printable character for each byte);
decoding makes vocabularies comparable. No tokenizer is run.
"""

import re
from dataclasses import dataclass
from typing import Literal

Kind = Literal["normal", "byte", "added", "special"]
_BYTE_FALLBACK = re.compile(r"<0x[0-9A-Fa-f]{2}>")


@dataclass(frozen=True, slots=True)
class Token:
    """One vocabulary entry: token id, text as bytes, and kind of token."""

    id: int
    text: bytes
    kind: Kind


def byte_alphabet() -> dict[str, int]:
    """The characters of byte-level vocabularies (GPT-2), each with the byte it represents.

    Printable bytes are represented by themselves; the 68 others by the code points from 256 on.
    """
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    alphabet = {chr(byte): byte for byte in printable}
    others = [byte for byte in range(256) if byte not in set(printable)]
    return alphabet | {chr(256 + i): byte for i, byte in enumerate(others)}


LARGEST_ID = 2**32 - 1  # of a token; tokenizers stores ids in 32 bits


def parse_id(value: object) -> int:
    """A token id. Raises ValueError for anything but a number that tokenizers could store."""
    if type(value) is not int or not 0 <= value <= LARGEST_ID:
        raise ValueError("a token id that is not a number of 32 bits")
    return value


def parse_piece(value: object) -> str:
    """A piece. Raises ValueError for anything but text."""
    if not isinstance(value, str):
        raise ValueError("a piece that is not text")
    return value


_ALPHABET = byte_alphabet()


def decode_byte_level(piece: str) -> bytes | None:
    """The bytes of a byte-level piece; None if a character is outside the byte alphabet."""
    values = [_ALPHABET.get(character) for character in piece]
    return None if None in values else bytes(v for v in values if v is not None)


def decode_byte_fallback(piece: str) -> bytes | None:
    """The byte that a piece such as <0x0A> represents; None for any other piece."""
    return bytes([int(piece[3:5], 16)]) if _BYTE_FALLBACK.fullmatch(piece) else None


def decode_metaspace(piece: str) -> bytes:
    """The bytes of a SentencePiece piece, in which ▁ represents a space."""
    return piece.replace("▁", " ").encode("utf-8", "surrogatepass")


def decode_wordpiece(piece: str) -> bytes:
    """The bytes of a WordPiece piece: ## continues a word, any other piece begins one."""
    text = piece[2:] if piece.startswith("##") else " " + piece
    return text.encode("utf-8", "surrogatepass")
