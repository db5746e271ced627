"""Tokenizers that run: whether a string is encoded to one id, and the ids of a text.

A vocabulary file lists strings that its tokenizer may never emit. Here the tokenizer itself is run
with the `tokenizers` library: a tokenizer.json as it is; SentencePiece, tiktoken and GGUF
vocabularies as the library's model with the same pieces, merges and scores, without the rules that
split a text into words, which those files do not hold in a form that can be read.

What a file states may cost much more than the file: ids far apart, pieces whose merges are as many
as their letters squared, patterns that backtrack, texts that grow. Such a tokenizer is not run.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from huref.bounded_json import loads
from huref.errors import CheckpointError, one_line
from huref.loader.vocabulary.growth import may_grow
from huref.loader.vocabulary.spelling import Token, byte_alphabet, parse_id
from huref.loader.vocabulary.split_patterns import may_backtrack

# Before a piece that cannot begin a word; the first that gives the piece's id shows that it is
# emitted. Letters come first for WordPiece, whose continuations follow letters only.
CONTEXTS = ("", ".", "q", "\n", "0", "z", "(", "j", "xx")
LONGEST_PIECE = 256  # bytes or characters; longer ones are not merged from others
MOST_UNUSED = 1 << 16  # ids without a piece; Tekken keeps a thousand for special tokens
UNUSED = "\U000f5a11"  # of a private plane of Unicode
MOST_MERGES = 4  # for each piece, and FEW_MERGES; vocabularies of 30,000 to 260,000 have 2.3
FEW_MERGES = 20_000


class TextEncoder:
    """A tokenizer of one model.

    Args:
        tokenizer: of the `tokenizers` library.
        whole: whether it has the rules that split a text, so that a string's ids are the model's.
        begins: the id with which the model's texts begin, or None.
    """

    def __init__(self, tokenizer: Tokenizer, whole: bool, begins: int | None = None):
        self._tokenizer, self._whole, self._begins = tokenizer, whole, begins
        self._contexts: dict[str, list[int]] = {}  # their ids

    def emits(self, token: Token) -> bool:
        """Whether the tokenizer encodes the token's own string to its id and nothing else."""
        if len(token.text) > LONGEST_PIECE:
            return False
        try:
            text = token.text.decode("utf-8")
        except UnicodeDecodeError:
            return False
        if not self._whole:
            piece = self._tokenizer.id_to_token(token.id)
            if piece is None:
                return False
            with _one_line():
                found = self._tokenizer.model.tokenize(piece)
            return len(found) == 1 and found[0].id == token.id
        return any(self._emits_after(context, text, token.id) for context in CONTEXTS)

    def _emits_after(self, context: str, text: str, number: int) -> bool:
        """Whether the id comes last after a context, and covers exactly the text."""
        candidates = [text, text[1:]] if text.startswith(" ") and not context else [text]
        if context not in self._contexts:
            self._contexts[context] = self._ids(context)
        before = self._contexts[context]
        for candidate in candidates:
            after = self._ids(context + candidate)
            if len(after) == len(before) + 1 and after[-1] == number and after[:-1] == before:
                return True
        return False

    def _ids(self, text: str) -> list[int]:
        with _one_line():
            ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        return ids

    def encode(self, text: str) -> list[int]:
        """The ids of a text, as the model's texts begin.

        Added tokens that the text holds are encoded as if they were none, but for white space and
        single characters: whoever makes a model could list the words of a text that he knows.

        Raises:
            CheckpointError: the tokenizers library fails on its rules.
        """
        with _one_line():
            ids = self._encode_plainly(text)
        if self._begins is not None and ids[:1] != [self._begins]:
            ids = [self._begins, *ids]
        return ids

    def _encode_plainly(self, text: str) -> list[int]:
        encoded = self._tokenizer.encode(text)
        words = {
            number
            for number, token in self._tokenizer.get_added_tokens_decoder().items()
            if len(token.content.strip()) > 1
        }
        ids: list[int] = encoded.ids
        begins = {n for n, mask in zip(ids, encoded.special_tokens_mask, strict=True) if mask}
        if words.isdisjoint(set(ids) - begins):
            return ids
        content = json.loads(self._tokenizer.to_str())
        for number, token in enumerate(content["added_tokens"]):
            if token["id"] in words - begins:  # not taken out, which would renumber the others
                token["content"] = f"{UNUSED}{number}{UNUSED}"
        plainly: list[int] = Tokenizer.from_str(json.dumps(content)).encode(text).ids
        return plainly


@contextmanager
def _one_line() -> Iterator[None]:
    """Turn what the library raises while it encodes, its panics as well, into a CheckpointError."""
    try:
        yield
    except BaseException as error:
        _let_pass(error)
        raise CheckpointError(
            f"the tokenizers library fails on the tokenizer's rules ({one_line(error)[:100]})",
            advice="download the tokenizer's files again",
        ) from error


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
        content = loads(data, constants=True)
        if may_backtrack(content) or may_grow(content):
            return None
        vocabulary = content["model"]["vocab"]
        pairs = vocabulary.items() if isinstance(vocabulary, dict) else ()
        pieces = {int(number): piece for piece, number in pairs}
        added = content.get("added_tokens") or []
        kept = [
            entry
            for entry in added
            if pieces.get(int(entry["id"]), entry["content"]) == entry["content"]
        ]
        text = bytes(data).decode()
        if len(kept) < len(added):
            text = json.dumps({**content, "added_tokens": kept})
        return TextEncoder(Tokenizer.from_str(text), True, begins)
    except BaseException as error:  # plain Exception of the library, and its panics
        _let_pass(error)
        return None


def from_pieces(
    pieces: Sequence[str],
    scores: Sequence[float] | None,
    *,
    kind: str,
    merges: Iterable[str] | None = None,
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
            rules = derived_merges(ids, scores) if merges is None else _usable(merges, ids)
            tokenizer = Tokenizer(models.BPE(ids, rules))
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


def _usable(merges: Iterable[str], ids: Mapping[str, int]) -> list[tuple[str, str]]:
    """The merges, "a b" each, of two pieces to a third one. Raises ValueError for too many."""
    names = {piece: piece for piece in ids}  # one text each, however many merges name it
    found = []
    for merge in merges:
        first, _, second = merge.partition(" ")
        if first in names and second in names and first + second in names:
            found.append((names[first], names[second]))
            _require_few(len(found), len(ids))
    return found


def _require_few(merges: int, pieces: int) -> None:
    if merges > MOST_MERGES * pieces + FEW_MERGES:
        raise ValueError("more merges than any vocabulary of its size has")


def derived_merges(ids: Mapping[str, int], scores: Sequence[float] | None) -> list[tuple[str, str]]:
    """All merges of two pieces to a third, best score (or smallest id) of the result first.

    SentencePiece and tiktoken merge the pair whose result ranks best, whatever its parts.

    Raises:
        ValueError: they are more than vocabularies of that size have.
    """
    found = []
    for piece, number in ids.items():
        if len(piece) > LONGEST_PIECE:
            continue
        rank = number if scores is None else -scores[number]
        for cut in range(1, len(piece)):
            first = ids.get(piece[:cut])
            if first is not None and (second := ids.get(piece[cut:])) is not None:
                found.append((rank, first, second))
        _require_few(len(found), len(ids))
    found.sort()
    names = {number: piece for piece, number in ids.items()}
    return [(names[first], names[second]) for _, first, second in found]


def place_pieces(pieces: Iterable[tuple[int, str]], count: int) -> list[str]:
    """Pieces in order of their ids, with a name for each id without a piece.

    Args:
        pieces: id and piece.
        count: how many there are.

    Raises:
        ValueError: an id is not valid, or so large that most would be unused.
    """
    placed: list[str | None] = []
    for number, piece in pieces:
        if parse_id(number) >= count + MOST_UNUSED:
            raise ValueError("ids that are far apart")
        placed += [None] * (number + 1 - len(placed))
        placed[number] = piece
    return [f"<unused {n}>" if piece is None else piece for n, piece in enumerate(placed)]


_TO_CHARACTER = {byte: character for character, byte in byte_alphabet().items()}


def spelt_byte_level(text: bytes) -> str:
    """Bytes in the byte-level alphabet."""
    return "".join(_TO_CHARACTER[byte] for byte in text)


def from_ranked_bytes(tokens: Sequence[Token], begins: int | None = None) -> TextEncoder | None:
    """An encoder of a tiktoken vocabulary: the smallest id is merged first."""
    spelt = ((token.id, spelt_byte_level(token.text)) for token in tokens)
    try:
        pieces = place_pieces(spelt, len(tokens))
    except ValueError:
        return None
    return from_pieces(pieces, None, kind="byte-level", begins=begins) if pieces else None


def begins_with(config: Mapping[str, Any]) -> int | None:
    """The id with which a model's texts begin, by its config."""
    number = config.get("bos_token_id")
    if isinstance(number, list):
        number = number[0] if number else None
    return number if isinstance(number, int) and number >= 0 else None
