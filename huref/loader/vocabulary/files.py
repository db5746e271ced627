"""Finds a model's vocabulary among its files."""

from pathlib import PurePosixPath

from huref.errors import CheckpointError
from huref.loader.repository import Repository, read_json, read_text
from huref.loader.vocabulary.bpe_files import added_tokens, parse_vocab_json, parse_vocab_txt
from huref.loader.vocabulary.sentencepiece import parse_sentencepiece
from huref.loader.vocabulary.spelling import Token
from huref.loader.vocabulary.tiktoken import looks_like_tiktoken, parse_tekken, parse_tiktoken
from huref.loader.vocabulary.tokenizer_json import parse_tokenizer_json

SENTENCEPIECE = ("tokenizer.model", "spiece.model")
ASIDES = ("added_tokens.json", "special_tokens_map.json", "tokenizer_config.json")


def open_vocabulary(repository: Repository) -> list[Token]:
    """All tokens of a model, in order of their ids.

    Raises:
        CheckpointError: there is no tokenizer among the files, or it cannot be read.
    """
    files = repository.files
    if "tokenizer.json" in files:
        name = "tokenizer.json"
        return parse_tokenizer_json(read_text(repository, name), f"{repository.model}: {name}")
    for name in SENTENCEPIECE:
        if name in files:
            return _parse_model(read_text(repository, name), f"{repository.model}: {name}")
    tiktokens = [name for name in files if PurePosixPath(name).suffix == ".tiktoken"]
    if tiktokens:
        return parse_tiktoken(read_text(repository, tiktokens[0]), tiktokens[0])
    if "tekken.json" in files:
        return parse_tekken(read_text(repository, "tekken.json"), "tekken.json")
    if "vocab.json" in files:
        asides = {name: read_json(repository, name) for name in ASIDES if name in files}
        data = read_text(repository, "vocab.json")
        return parse_vocab_json(data, added_tokens(asides), f"{repository.model}: vocab.json")
    if "vocab.txt" in files:
        return parse_vocab_txt(read_text(repository, "vocab.txt"), "vocab.txt")
    raise CheckpointError(
        f"{repository.model}: there is no tokenizer (tokenizer.json, tokenizer.model, *.tiktoken, "
        "tekken.json, vocab.json or vocab.txt); add the tokenizer's files of the model"
    )


def _parse_model(data: bytes, name: str) -> list[Token]:
    """tokenizer.model: SentencePiece's for most, tiktoken's for Llama 3."""
    if looks_like_tiktoken(data[:1024]):
        return parse_tiktoken(data, name)
    return parse_sentencepiece(data, name)
