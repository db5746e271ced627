"""Anchors: which vocabulary strings a fingerprint reads, chosen from one model alone.

Every descendant must choose the same strings although its vocabulary was extended, trimmed or
renumbered. So each eligible token is hashed into one of m buckets, and a bucket keeps its
shortest token, or of several the one with the smallest second hash: a new token can change one
row and shifts no other. Shortest, because what vocabularies gain and lose are long tokens, while
the short ones stand in nearly all of them. (Measured on the zoo: 512 added tokens, half of them
Latin, change 7 of 510 anchors, against 31 when the second hash alone decides; two tokenizers
trained apart share 328 against 243.)
"""

import hashlib
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

from huref.errors import AnchorError
from huref.loader.vocabulary import Token

RULES = ("latin", "all")
MIN_FILLED = 0.5  # of the buckets; below this a vocabulary is too small for its rule
_SALT = b"huref anchors 1\0"


@dataclass(frozen=True)
class Anchors:
    """The token of each bucket, in bucket order; an empty bucket holds b"" and id -1."""

    tokens: tuple[bytes, ...]
    ids: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def filled(self) -> list[int]:
        """Indices of the buckets that hold a token."""
        return [i for i, token in enumerate(self.tokens) if token]

    def shared(self, other: "Anchors") -> list[int]:
        """Indices of the buckets in which both hold the same string."""
        pairs = zip(self.tokens, other.tokens, strict=True)
        return [i for i, (mine, theirs) in enumerate(pairs) if mine and mine == theirs]


@lru_cache(maxsize=4096)
def _is_latin_or_ascii(character: str) -> bool:
    if character.isascii():
        return character.isprintable()
    return character.isalpha() and unicodedata.name(character, "").startswith("LATIN ")


def is_eligible(text: bytes, rule: str) -> bool:
    """Whether a token may become an anchor under a rule.

    "latin" keeps tokens of printable ASCII and Latin letters with at least one letter, so that
    an extension in another script changes nothing; "all" keeps every token that is not empty.
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

    Only normal tokens take part: specials, added tokens and byte fallbacks are left out. Where
    a vocabulary holds one string twice, the smaller id is read.

    Raises:
        AnchorError: fewer than half of the buckets find a token.
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
            f"'{rule}'; a fingerprint needs at least {int(MIN_FILLED * m)}"
        )
    chosen = [best[bucket][2:] if bucket in best else (b"", -1) for bucket in range(m)]
    return Anchors(
        tokens=tuple(text for text, _ in chosen), ids=tuple(number for _, number in chosen)
    )
