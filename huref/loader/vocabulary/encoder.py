"""Tokenizers that run: whether a string is encoded to one id, and the ids of a text.

A vocabulary file lists strings that its tokenizer may never emit. Here the tokenizer itself is run
with the `tokenizers` library: a tokenizer.json as it is; SentencePiece, tiktoken and GGUF
vocabularies as the library's model with the same pieces, merges and scores, without the rules that
split a text into words, which those files do not hold in a form that can be read.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from huref.loader.vocabulary.spelling import Token, byte_alphabet

# Before a piece that cannot begin a word; the first that gives the piece's id shows that it is
# emitted. Letters come first for WordPiece, whose continuations follow letters only.
CONTEXTS = ("", ".", "q", "\n", "0", "z", "(", "j", "xx")


class TextEncoder:
    """A tokenizer of one model.

    Args:
        tokenizer: of the `tokenizers` library.
        whole: whether it has the rules that split a text, so that a string's ids are the model's.
        begins: the id with which the model's texts begin, or None.
    """

    def __init__(self, tokenizer: Tokenizer, whole: bool, begins: int | None = None):
        self._tokenizer, self._whole, self._begins = tokenizer, whole, begins

    def emits(self, token: Token) -> bool:
        """Whether the tokenizer encodes the token's own string to its id and nothing else."""
        try:
            text = token.text.decode("utf-8")
        except UnicodeDecodeError:
            return False
        if not self._whole:
            piece = self._tokenizer.id_to_token(token.id)
            if piece is None:
                return False
            found = self._tokenizer.model.tokenize(piece)
            return len(found) == 1 and found[0].id == token.id
        return any(self._emits_after(context, text, token.id) for context in CONTEXTS)

    def _emits_after(self, context: str, text: str, number: int) -> bool:
        """Whether the id comes last after a context, and covers exactly the text."""
        candidates = [text, text[1:]] if text.startswith(" ") and not context else [text]
        for candidate in candidates:
            before = self._ids(context)
            after = self._ids(context + candidate)
            if len(after) == len(before) + 1 and after[-1] == number and after[:-1] == before:
                return True
        return False

    def _ids(self, text: str) -> list[int]:
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        return ids

    def encode(self, text: str) -> list[int]:
        """The ids of a text, as the model's texts begin."""
        ids: list[int] = self._tokenizer.encode(text).ids
        if self._begins is not None and ids[:1] != [self._begins]:
            ids = [self._begins, *ids]
        return ids


def _let_pass(error: BaseException) -> None:
    """Raise again what does not come from a file."""
    if isinstance(error, KeyboardInterrupt | SystemExit | MemoryError):
        raise error


def from_tokenizer_json(data: bytes, begins: int | None = None) -> TextEncoder | None:
    """The encoder of a tokenizer.json; None where the library cannot read it.

    Listed added tokens that contradict the vocabulary (an id that has another string there) are
    left out: the library would give them other ids.
    """
    try:
        content = json.loads(data)
        vocabulary = content["model"]["vocab"]
        pairs = vocabulary.items() if isinstance(vocabulary, dict) else ()
        pieces = {int(number): piece for piece, number in pairs}
        content["added_tokens"] = [
            entry
            for entry in content.get("added_tokens") or []
            if pieces.get(int(entry["id"]), entry["content"]) == entry["content"]
        ]
        return TextEncoder(Tokenizer.from_str(json.dumps(content)), True, begins)
    except BaseException as error:  # plain Exception of the library, and its panics
        _let_pass(error)
        return None


def from_pieces(
    pieces: Sequence[str],
    scores: Sequence[float] | None,
    *,
    kind: str,
    merges: Sequence[str] | None = None,
    begins: int | None = None,
    unknown: int = 0,
    spaced: bool = True,
) -> TextEncoder | None:
    """An encoder from pieces in order of their ids.

    Args:
        pieces: as the model spells them (▁ for a space, or the byte-level alphabet).
        scores: of the pieces; higher is merged first. For "byte-level" without merges, the ranks
            are the ids.
        kind: "byte-level", "bpe" (SentencePiece), "unigram" or "wordpiece".
        merges: "a b" in order.
        begins: the id with which the model's texts begin.
        unknown: id of the unknown piece.
        spaced: whether SentencePiece puts a space before a text.
    """
    ids = {piece: number for number, piece in enumerate(pieces)}
    try:
        if kind == "unigram":
            values = list(zip(pieces, scores or [0.0] * len(pieces), strict=True))
            tokenizer = Tokenizer(models.Unigram(values, unknown, byte_fallback=False))
        elif kind == "wordpiece":
            tokenizer = Tokenizer(models.WordPiece(ids, unk_token=pieces[unknown]))
        else:
            rules = (
                [tuple(m.split(" ", 1)) for m in merges]
                if merges is not None
                else derived_merges(ids, scores)
            )
            usable = [(a, b) for a, b in rules if a in ids and b in ids and a + b in ids]
            tokenizer = Tokenizer(models.BPE(ids, usable))
        if kind == "byte-level":
            tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
            tokenizer.decoder = decoders.ByteLevel()
        elif kind == "wordpiece":
            tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        else:
            tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(
                prepend_scheme="always" if spaced else "never"
            )
    except BaseException as error:  # see above
        _let_pass(error)
        return None
    return TextEncoder(tokenizer, False, begins)


def derived_merges(ids: Mapping[str, int], scores: Sequence[float] | None) -> list[tuple[str, str]]:
    """All merges of two pieces to a third, best score (or smallest id) of the result first.

    SentencePiece and tiktoken merge the pair whose result ranks best, whatever its parts.
    """
    found = []
    for piece, number in ids.items():
        rank = number if scores is None else -scores[number]
        for cut in range(1, len(piece)):
            a, b = piece[:cut], piece[cut:]
            if a in ids and b in ids:
                found.append((rank, ids[a], ids[b], a, b))
    found.sort(key=lambda merge: merge[:3])
    return [(a, b) for *_, a, b in found]


_TO_CHARACTER = {byte: character for character, byte in byte_alphabet().items()}


def spelt_byte_level(text: bytes) -> str:
    """Bytes in the byte-level alphabet."""
    return "".join(_TO_CHARACTER[byte] for byte in text)


def from_ranked_bytes(tokens: Sequence[Token], begins: int | None = None) -> TextEncoder | None:
    """An encoder of a tiktoken vocabulary: the smallest id is merged first."""
    if not tokens:
        return None
    size = max(token.id for token in tokens) + 1
    pieces = [f"<unused {number}>" for number in range(size)]
    for token in tokens:
        pieces[token.id] = spelt_byte_level(token.text)
    return from_pieces(pieces, None, kind="byte-level", begins=begins)


def begins_with(config: Mapping[str, Any]) -> int | None:
    """The id with which a model's texts begin, by its config."""
    number = config.get("bos_token_id")
    if isinstance(number, list):
        number = number[0] if number else None
    return number if isinstance(number, int) and number >= 0 else None
