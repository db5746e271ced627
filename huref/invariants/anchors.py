"""Anchors: the vocabulary strings whose embeddings a fingerprint uses, chosen from one model.

A descendant has to choose the same strings even if its vocabulary was extended, trimmed or
renumbered. So each eligible token is hashed into one of m buckets, and each bucket keeps its
shortest token; a second hash decides between tokens of equal length. A new token can then change
one row and does not shift the others. The shortest, because extensions add and trimming removes
mostly long tokens, while nearly all vocabularies contain the short ones. (Measured on the zoo: 512
added tokens, half of them Latin, change 7 of 510 anchors, against 31 if the second hash alone
decides; two independently trained tokenizers share 328 anchors, against 243.) See docs/maths.md,
Anchors.
"""

import hashlib
import unicodedata
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache

from huref.errors import AnchorError
from huref.loader.vocabulary import Token

RULES = ("latin", "all")
MIN_FILLED = 0.5  # share of the buckets; with fewer the vocabulary is too small for the rule
MOST_TRIED = 20_000  # strings given to a tokenizer; one that emits none must not cost much
_SALT = b"huref anchors 1\0"


@dataclass(frozen=True)
class Anchors:
    """String and id of each bucket's token, in bucket order; b"" and -1 for an empty bucket."""

    tokens: tuple[bytes, ...]
    ids: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def filled(self) -> list[int]:
        """Indices of the buckets that are not empty."""
        return [i for i, token in enumerate(self.tokens) if token]

    def shared(self, other: "Anchors") -> list[int]:
        """Indices of the buckets that hold the same string in both."""
        pairs = zip(self.tokens, other.tokens, strict=True)
        return [i for i, (a, b) in enumerate(pairs) if a and a == b]


@lru_cache(maxsize=4096)
def _is_latin_or_ascii(character: str) -> bool:
    if character.isascii():
        return character.isprintable()
    return character.isalpha() and unicodedata.name(character, "").startswith("LATIN ")


def is_eligible(text: bytes, rule: str) -> bool:
    """Whether a token can become an anchor under a rule.

    The rule "latin" allows tokens of printable ASCII and Latin letters with at least one letter,
    so that an extension in another script changes no anchor; "all" allows every non-empty token.
    """
    if rule == "all":
        return bool(text)
    try:
        string = text.decode("utf-8")
    except UnicodeDecodeError:  # a fragment of a multi-byte character
        return False
    return any(map(str.isalpha, string)) and all(map(_is_latin_or_ascii, string))


def choose_anchors(vocabulary: Iterable[Token], m: int, rule: str = "latin") -> Anchors:
    """Choose one token for each of m buckets.

    Only normal tokens are considered: no special tokens, added tokens or byte fallbacks. If a
    vocabulary has a string twice, the smaller id is taken.

    Raises:
        AnchorError: more than half of the buckets stay empty.
    """
    best: dict[int, tuple[int, bytes, bytes, int]] = {}
    for token in vocabulary:
        if token.kind != "normal" or not is_eligible(token.text, rule):
            continue
        digest = hashlib.sha256(_SALT + token.text).digest()
        bucket = int.from_bytes(digest[:8], "big") % m
        candidate = (len(token.text), digest[8:], token.text, token.id)
        if bucket not in best or candidate < best[bucket]:
            best[bucket] = candidate
    if len(best) < MIN_FILLED * m:
        raise AnchorError(
            f"the vocabulary fills only {len(best)} of {m} anchor buckets under the rule "
            f"'{rule}', but a fingerprint needs at least {int(MIN_FILLED * m)}"
        )
    chosen = [best[bucket][2:] if bucket in best else (b"", -1) for bucket in range(m)]
    return Anchors(
        tokens=tuple(text for text, _ in chosen), ids=tuple(number for _, number in chosen)
    )


def choose_emitted(
    vocabulary: Iterable[Token], m: int, rule: str, emits: Callable[[Token], bool]
) -> tuple[Anchors | None, float]:
    """Like `choose_anchors`, among the tokens whose string the tokenizer encodes to their id.

    Returns:
        The anchors, or None where more than half of the buckets stay empty; and the share of the
        tried tokens that the tokenizer does not emit.
    """
    buckets: dict[int, list[tuple[int, bytes, int, Token]]] = {}
    for token in vocabulary:
        if token.kind == "normal" and is_eligible(token.text, rule):
            digest = hashlib.sha256(_SALT + token.text).digest()
            bucket = int.from_bytes(digest[:8], "big") % m
            candidate = (len(token.text), digest[8:], token.id, token)
            buckets.setdefault(bucket, []).append(candidate)
    tried = 0
    chosen: dict[int, Token] = {}
    for bucket, candidates in buckets.items():
        if tried > MOST_TRIED:
            break
        for *_, token in sorted(candidates, key=lambda candidate: candidate[:3]):
            tried += 1
            if emits(token):
                chosen[bucket] = token
                break
    share = 1 - len(chosen) / max(tried, 1)
    if len(chosen) < MIN_FILLED * m:
        return None, share
    rows = [(chosen[b].text, chosen[b].id) if b in chosen else (b"", -1) for b in range(m)]
    return Anchors(tuple(text for text, _ in rows), tuple(number for _, number in rows)), share
