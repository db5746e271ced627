"""Deterministic prompts that differ enough for their logits to span the whole logit space."""

import hashlib

import numpy as np
from numpy.typing import NDArray

_CONSONANTS, _VOWELS = "bcdfghjklmnprstvwz", "aeiou"
_WORDS = 6
TOKENS_PER_PROMPT = 24  # estimate for one prompt; most tokenizers need fewer


def make_prompts(count: int, which: str = "a", start: int = 0, words: int = _WORDS) -> list[str]:
    """Prompts `start` to `start + count` of an endless list; each `which` has a list of its own."""
    return [_prompt(f"{which}/{i}", words) for i in range(start, start + count)]


def _prompt(seed: str, count: int) -> str:
    digest = hashlib.sha256(seed.encode()).digest()
    words = []
    for k in range(count):
        a, b, c, length = digest[4 * k : 4 * k + 4]
        syllables = [_CONSONANTS[x % 18] + _VOWELS[x // 18 % 5] for x in (a, b, c)]
        words.append("".join(syllables[: 1 + length % 3]))
    return " ".join(words)


# What `watch` and `match` have scored: plain sentences of several kinds, written for huref.
TEXTS = (
    "The harbour was quiet before sunrise. Two fishermen mended their nets on the pier, and a grey "
    "cat waited for the first boat to come home with something worth stealing.",
    "To boil an egg, put it into cold water, heat the water until it bubbles, and wait seven "
    "minutes. Then cool the egg under the tap, crack the shell on the table, and peel it.",
    "def total(prices, tax=0.2):\n    amount = 0\n    for price in prices:\n"
    "        amount += price\n    return amount * (1 + tax)\n\nprint(total([3, 4, 5]))\n",
    "In 1903 the river rose by nine metres in a single night. The old bridge held, the new one did "
    "not, and for 14 weeks the mail crossed in a rowing boat, letter by letter.",
)


def order_ids(vocabulary: int) -> NDArray[np.int64]:
    """All token ids, (vocabulary,) int64, sorted by a hash of the id.

    A longer vocabulary begins with nearly the same ids as a shorter one, so that two endpoints
    with vocabularies of different size are measured on the same tokens.
    """
    ids = np.arange(vocabulary, dtype=np.uint64)
    mixed = (ids + np.uint64(0x9E3779B97F4A7C15)) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.argsort(mixed ^ (mixed >> np.uint64(31)), kind="stable").astype(np.int64)
