"""Read a tokenizer's vocabulary, in any of its file formats, as token ids with their bytes."""

from huref.loader.vocabulary.spelling import Kind, Token
from huref.loader.vocabulary.tokenizer_json import parse_tokenizer_json

__all__ = ["Kind", "Token", "parse_tokenizer_json"]
