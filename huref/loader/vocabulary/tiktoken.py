"""Vocabularies that list the bytes of each token in base64: tiktoken's and Mistral's Tekken."""

import base64
import binascii
import json
from typing import Any

from huref.errors import CheckpointError
from huref.loader.vocabulary.spelling import Token


def looks_like_tiktoken(head: bytes) -> bool:
    """Whether the first line of a file has the form "BASE64 RANK"."""
    parts = head.partition(b"\n")[0].split(b" ")
    return len(parts) == 2 and parts[1].strip().isdigit() and bool(parts[0])


def parse_tiktoken(data: bytes) -> list[Token]:
    """The vocabulary of a tiktoken file, which has a token in base64 and its id on each line.

    A tiktoken file does not list the special tokens.

    Raises:
        CheckpointError: the file is not a tiktoken file, or it is empty.
    """
    tokens = []
    try:
        for line in data.splitlines():
            if line:
                text, number = line.split()
                tokens.append(Token(int(number), base64.b64decode(text, validate=True), "normal"))
    except (ValueError, binascii.Error) as error:
        raise CheckpointError("it is not a tiktoken file") from error
    if not tokens:
        raise CheckpointError("the tiktoken file has no tokens")
    return sorted(tokens, key=lambda token: token.id)


def parse_tekken(data: bytes) -> list[Token]:
    """The vocabulary of a tekken.json, without its special tokens, which have the first ids.

    Raises:
        CheckpointError: the file is not a Tekken vocabulary.
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
        raise CheckpointError(f"it is not a Tekken vocabulary ({type(error).__name__})") from error
