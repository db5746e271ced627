"""SentencePiece's tokenizer.model, a protocol buffer; only its pieces are read.

Wire format: a field is a varint key (number << 3 | wire type) followed by a value. Field 1 of a
ModelProto is a piece, in which field 1 is the text and field 3 the type.
"""

import struct
from collections.abc import Iterator

from huref.budget import TOKEN, Budget
from huref.errors import CheckpointError
from huref.loader.vocabulary.spelling import (
    Kind,
    Token,
    decode_byte_fallback,
    decode_metaspace,
)

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
PIECE, TEXT, TYPE = 1, 1, 3  # field numbers
SCORE, TRAINER, MODEL_TYPE, BPE = 2, 2, 3, 2  # a piece's score; trainer_spec.model_type is BPE
# SentencePiece's types NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE.
KINDS: dict[int, Kind] = {
    1: "normal", 2: "special", 3: "special", 4: "added", 5: "special", 6: "byte",
}  # fmt: skip


def _varint(data: memoryview, position: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
    raise ValueError("a varint of more than ten bytes")


def _fields(data: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """The fields of a message as (field number, value)."""
    position, end = 0, len(data)
    while position < end:
        # Most varints have one byte; a vocabulary has a million of them.
        key = data[position]
        position += 1
        if key > 127:
            key, position = _varint(data, position - 1)
        wire_type = key & 7
        if wire_type in (VARINT, BYTES):
            number = data[position]
            position += 1
            if number > 127:
                number, position = _varint(data, position - 1)
            if wire_type == VARINT:
                yield key >> 3, number
                continue
        elif wire_type in (FIXED32, FIXED64):
            number = 4 if wire_type == FIXED32 else 8
        else:
            raise ValueError(f"wire type {wire_type}")
        stop = position + number
        if stop > end:
            raise ValueError("a field longer than the file")
        yield key >> 3, data[position:stop]
        position = stop


def parse_sentencepiece(data: bytes) -> list[Token]:
    """The vocabulary of a SentencePiece model; the id of a piece is its position.

    Raises:
        CheckpointError: the file is not a SentencePiece model.
    """
    tokens: list[Token] = []
    budget = Budget(len(data))
    try:
        for number, value in _fields(memoryview(data)):
            if number == PIECE and isinstance(value, memoryview):
                budget.spend(TOKEN)
                tokens.append(_token(len(tokens), value))
    except (ValueError, IndexError) as error:
        raise CheckpointError(f"it is not a SentencePiece model ({error})") from error
    if not tokens:
        raise CheckpointError("the SentencePiece model has no pieces")
    return tokens


def sentencepiece_scores(data: bytes) -> tuple[list[str], list[float], bool]:
    """Pieces, their scores, and whether the model is BPE (otherwise unigram).

    Raises:
        ValueError, IndexError: the file is not a SentencePiece model.
    """
    pieces, scores, is_bpe = [], [], False
    for number, value in _fields(memoryview(data)):
        if number == PIECE and isinstance(value, memoryview):
            text, score = "", 0.0
            for field, content in _fields(value):
                if field == TEXT and isinstance(content, memoryview):
                    text = bytes(content).decode("utf-8")
                elif field == SCORE and isinstance(content, memoryview):
                    score = struct.unpack("<f", content)[0]
            pieces.append(text)
            scores.append(score)
        elif number == TRAINER and isinstance(value, memoryview):
            is_bpe |= any(f == MODEL_TYPE and v == BPE for f, v in _fields(value))
    return pieces, scores, is_bpe


def _token(number: int, message: memoryview) -> Token:
    piece, type_number = "", 1
    for field, value in _fields(message):
        if field == TEXT and isinstance(value, memoryview):
            piece = bytes(value).decode("utf-8")
        elif field == TYPE and isinstance(value, int):
            type_number = value
    if not piece:
        raise ValueError("an empty piece")
    kind = KINDS.get(type_number, "special")
    byte = decode_byte_fallback(piece) if kind == "byte" else None
    if kind in ("special", "added"):
        return Token(number, piece.encode(), kind)
    return Token(number, decode_metaspace(piece) if byte is None else byte, kind)
