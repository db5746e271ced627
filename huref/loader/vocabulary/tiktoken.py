"""Vocabularies that list token bytes themselves, in base64: tiktoken's and Mistral's Tekken."""

import base64
import binascii
import json
from typing import Any

from huref.errors import CheckpointError
from huref.loader.vocabulary.spelling import Token


def looks_like_tiktoken(head: bytes) -> bool:
    """Whether a file begins with a line "BASE64 RANK"."""
    parts = head.partition(b"\n")[0].split(b" ")
    return len(parts) == 2 and parts[1].strip().isdigit() and bool(parts[0])


def parse_tiktoken(data: bytes, name: str) -> list[Token]:
    """The vocabulary of a tiktoken file: a line holds a token in base64 and its id.

    Special tokens are not in such files.

    Raises:
        CheckpointError: the file is not of that form, named as `name`.
    """
    tokens = []
    try:
        for line in data.splitlines():
            if line:
                text, number = line.split()
                tokens.append(Token(int(number), base64.b64decode(text, validate=True), "normal"))
    except (ValueError, binascii.Error) as error:
        raise CheckpointError(f"{name}: not a tiktoken file; download it again") from error
    if not tokens:
        raise CheckpointError(f"{name}: a tiktoken file without tokens; download it again")
    return sorted(tokens, key=lambda token: token.id)


def parse_tekken(data: bytes, name: str) -> list[Token]:
    """The vocabulary of a tekken.json: special tokens come first, then the others by rank.

    Raises:
        CheckpointError: the file is not of that form, named as `name`.
    """
    try:
        content: Any = json.loads(data)
        config = content["config"]
        specials = int(config["default_num_special_tokens"])
        size = int(config.get("default_vocab_size") or len(content["vocab"]) + specials)
        return [
            Token(int(entry["rank"]) + specials, base64.b64decode(entry["token_bytes"]), "normal")
            for entry in content["vocab"][: size - specials]
        ]
    except (ValueError, KeyError, TypeError, binascii.Error, RecursionError) as error:
        raise CheckpointError(
            f"{name}: not a tekken.json that huref can read; download it again"
        ) from error
