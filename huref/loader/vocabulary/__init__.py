"""A tokenizer's vocabulary as bytes, from whichever file holds it."""

from huref.loader.vocabulary.spelling import Kind, Token
from huref.loader.vocabulary.tokenizer_json import parse_tokenizer_json

__all__ = ["Kind", "Token", "parse_tokenizer_json"]
