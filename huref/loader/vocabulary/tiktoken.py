"""Vocabularies that list the bytes of each token in base64: tiktoken's and Mistral's Tekken."""

import base64
import binascii
import re
from typing import Any

from huref.bounded_json import loads_object
from huref.budget import TOKEN, Budget
from huref.errors import CheckpointError
from huref.loader.vocabulary.spelling import LARGEST_ID, Token, parse_id

_LINE = re.compile(rb"[^\n]+")


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
    budget = Budget(len(data))
    try:
        # One line at a time: all of them as a list could take many times the file's size.
        for match in _LINE.finditer(data):
            if not (parts := match[0].split()):
                continue
            text, number = parts
            budget.spend(TOKEN)
            if not number.isdigit() or int(number[:11]) > LARGEST_ID:
                raise ValueError("a rank that is no token id")
            decoded = binascii.a2b_base64(text, strict_mode=True)
            tokens.append(Token(int(number), decoded, "normal"))
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
        content: Any = loads_object(data)
        config = content["config"]
        specials = parse_id(config["default_num_special_tokens"])
        size = parse_id(config.get("default_vocab_size") or len(content["vocab"]) + specials)
        entries = content["vocab"][: max(size - specials, 0)]
        Budget(len(data)).spend(TOKEN * len(entries))
        return [
            Token(
                parse_id(entry["rank"]) + specials,
                base64.b64decode(entry["token_bytes"], validate=True),
                "normal",
            )
            for entry in entries
        ]
    except (ValueError, KeyError, TypeError, AttributeError, binascii.Error) as error:
        raise CheckpointError(f"it is not a Tekken vocabulary ({type(error).__name__})") from error
