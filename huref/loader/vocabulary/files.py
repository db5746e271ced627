"""Find and read the vocabulary file of a model."""

import fnmatch
import re
from collections.abc import Iterable, Sequence
from typing import Any

from huref.bounded_json import loads_object
from huref.errors import CheckpointError, locating
from huref.loader.repository import Repository, read_json, read_text
from huref.loader.vocabulary.bpe_files import added_tokens, parse_vocab_json, parse_vocab_txt
from huref.loader.vocabulary.encoder import (
    TextEncoder,
    from_pieces,
    from_ranked_bytes,
    from_tokenizer_json,
    place_pieces,
)
from huref.loader.vocabulary.sentencepiece import parse_sentencepiece, sentencepiece_scores
from huref.loader.vocabulary.spelling import Token
from huref.loader.vocabulary.tiktoken import looks_like_tiktoken, parse_tekken, parse_tiktoken
from huref.loader.vocabulary.tokenizer_json import parse_tokenizer_json

# In order of preference.
FILES = (
    "tokenizer.json", "tokenizer.model", "spiece.model", "*.tiktoken", "tiktoken.model",
    "tekken.json", "vocab.json",
    "vocab.txt",
)  # fmt: skip
# Files that say which tokens of a vocab.json are added or special.
SIDE_FILES = ("added_tokens.json", "special_tokens_map.json", "tokenizer_config.json")

# A tokenizer for versions of transformers from the one in its name on.
_OF_A_VERSION = re.compile(r"tokenizer\..+\.json")
_LINE = re.compile(r"[^\r\n]+")


def open_vocabulary(repository: Repository) -> list[Token]:
    """All tokens of a model, in order of their ids.

    Raises:
        CheckpointError: the model has no tokenizer file, or it cannot be read.
    """
    file = _find_file(repository.files)
    if file is None:
        raise CheckpointError(
            f"there is no tokenizer ({', '.join(FILES[:-1])} or {FILES[-1]})",
            model=repository.model,
            advice="add the tokenizer's files of the model",
        )
    _refuse_versions(repository)
    side_files = {}
    if file == "vocab.json":
        found = [name for name in SIDE_FILES if name in repository.files]
        side_files = {name: read_json(repository, name) for name in found}
    data = read_text(repository, file)
    try:
        with locating(model=repository.model, file=file):
            return _parse(file, data, side_files)
    except CheckpointError as error:
        error.advice = "download it again"
        raise


def open_encoder(
    repository: Repository, begins: int | None, tokens: Sequence[Token]
) -> TextEncoder | None:
    """The tokenizer that runs, from the file that `open_vocabulary` reads; None if none can.

    Args:
        repository: the model's files.
        begins: the id with which the model's texts begin, or None.
        tokens: what `open_vocabulary` returned.
    """
    file = _find_file(repository.files)
    if file is None or (file == "vocab.json" and "merges.txt" not in repository.files):
        return None
    data = read_text(repository, file)
    try:
        if file == "tokenizer.json":
            return from_tokenizer_json(data, begins)
        if file == "vocab.json":
            ids = loads_object(data)
            pieces = place_pieces(((number, piece) for piece, number in ids.items()), len(ids))
            lines = read_text(repository, "merges.txt").decode("utf-8")
            merges = (m[0] for m in _LINE.finditer(lines) if not m[0].startswith("#version"))
            return from_pieces(pieces, None, kind="byte-level", merges=merges, begins=begins)
        if file == "vocab.txt":
            pieces = data.decode("utf-8").splitlines()
            unknown = pieces.index("[UNK]") if "[UNK]" in pieces else 0
            return from_pieces(pieces, None, kind="wordpiece", begins=begins, unknown=unknown)
        is_ranked = file == "tekken.json" or file.endswith(".tiktoken")
        if is_ranked or looks_like_tiktoken(data[:1024]):
            return from_ranked_bytes(tokens, begins)
        spellings, scores, is_bpe = sentencepiece_scores(data)
        return from_pieces(spellings, scores, kind="bpe" if is_bpe else "unigram", begins=begins)
    except (CheckpointError, ValueError, IndexError, TypeError, AttributeError):
        return None


def _refuse_versions(repository: Repository) -> None:
    """Raise CheckpointError for a tokenizer that transformers reads from a file of its version."""
    others = [name for name in repository.files if _OF_A_VERSION.fullmatch(name)]
    settings = "tokenizer_config.json"
    if not others or settings not in repository.files:
        return
    named = read_json(repository, settings).get("fast_tokenizer_files")
    found = [name for name in others if isinstance(named, list) and name in named]
    if found:
        raise CheckpointError(
            f"it names '{found[0]}', which newer versions of transformers read in place of "
            "tokenizer.json",
            model=repository.model,
            file=settings,
            advice="save the tokenizer again, as tokenizer.json alone",
        )


def _find_file(files: Iterable[str]) -> str | None:
    """The file to read the vocabulary from: the first match of the first pattern."""
    for pattern in FILES:
        if found := fnmatch.filter(files, pattern):
            return found[0]
    return None


def _parse(file: str, data: bytes, side_files: dict[str, Any]) -> list[Token]:
    match file:
        case "tokenizer.json":
            return parse_tokenizer_json(data)
        case "tekken.json":
            return parse_tekken(data)
        case "vocab.json":
            return parse_vocab_json(data, added_tokens(side_files))
        case "vocab.txt":
            return parse_vocab_txt(data)
    # Llama 3 keeps a tiktoken vocabulary in a file named tokenizer.model.
    if file.endswith(".tiktoken") or looks_like_tiktoken(data[:1024]):
        return parse_tiktoken(data)
    return parse_sentencepiece(data)
