"""The vocabulary files of GPT-2 and BERT: vocab.json (beside merges.txt) and vocab.txt."""

from typing import Any

from huref.bounded_json import loads_object
from huref.budget import TEXT, TOKEN, Budget
from huref.errors import CheckpointError
from huref.loader.vocabulary.spelling import (
    Kind,
    Token,
    decode_byte_fallback,
    decode_byte_level,
    decode_metaspace,
    decode_wordpiece,
    parse_id,
)


def parse_vocab_json(data: bytes, added: dict[str, Kind]) -> list[Token]:
    """The vocabulary of a vocab.json, whose pieces are byte-level or use ▁ for a space.

    Args:
        data: content of the file.
        added: tokens that the tokenizer's other files mark as added or special.

    Raises:
        CheckpointError: the file is not a mapping of tokens to ids.
    """
    try:
        ids = {piece: parse_id(number) for piece, number in loads_object(data).items()}
    except ValueError as error:
        raise CheckpointError(f"it is not a mapping of tokens to ids ({error})") from error
    Budget(len(data)).spend(TOKEN * len(ids))
    is_metaspace = any(piece.startswith("▁") for piece in ids)
    tokens = []
    for piece, number in sorted(ids.items(), key=lambda item: item[1]):
        kind = added.get(piece, "normal")
        text = None if kind == "normal" else piece.encode("utf-8", "surrogatepass")
        if text is None and (text := decode_byte_fallback(piece)) is not None:
            kind = "byte"
        elif text is None:
            text = None if is_metaspace else decode_byte_level(piece)
        tokens.append(Token(number, decode_metaspace(piece) if text is None else text, kind))
    return tokens


def parse_vocab_txt(data: bytes) -> list[Token]:
    """The vocabulary of BERT's vocab.txt: one piece per line; those in brackets are special.

    Raises:
        CheckpointError: the file is not UTF-8 text.
    """
    Budget(len(data)).spend((TOKEN + TEXT) * data.count(b"\n"))
    try:
        pieces = data.decode("utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise CheckpointError("it is not UTF-8 text") from error
    if pieces and not pieces[-1]:
        pieces.pop()
    tokens = []
    for number, line in enumerate(pieces):
        piece = line.rstrip("\r")
        if piece.startswith("[") and piece.endswith("]") and len(piece) > 2:
            tokens.append(Token(number, piece.encode(), "special"))
        else:
            tokens.append(Token(number, decode_wordpiece(piece), "normal"))
    return tokens


def added_tokens(files: dict[str, Any]) -> dict[str, Kind]:
    """Tokens that the files beside a vocab.json mark as added or special.

    Args:
        files: file name -> parsed JSON, for those of added_tokens.json, special_tokens_map.json
            and tokenizer_config.json that exist.
    """
    found: dict[str, Kind] = {}
    for piece in files.get("added_tokens.json") or {}:
        found[piece] = "added"
    decoder = (files.get("tokenizer_config.json") or {}).get("added_tokens_decoder") or {}
    for entry in decoder.values() if isinstance(decoder, dict) else ():
        if isinstance(entry, dict) and isinstance(entry.get("content"), str):
            found[entry["content"]] = "special" if entry.get("special") else "added"
    for source in ("tokenizer_config.json", "special_tokens_map.json"):
        for key, value in (files.get(source) or {}).items():
            if key.endswith("_token"):
                content = value.get("content") if isinstance(value, dict) else value
                if isinstance(content, str):
                    found[content] = "special"
    return found
