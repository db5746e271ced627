"""Patterns of tokenizers: those that need exponential time are told from published ones."""

import time

import pytest
from tokenizers import Regex, pre_tokenizers

from huref.loader.vocabulary.split_patterns import is_exponential, may_backtrack

PUBLISHED = [
    r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+",
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    r"[\p{Han}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{M}&&[^\p{Han}]]*[\p{Ll}\p{M}&&[^\p{Han}]]+(?i:'s|'t)?",
    r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+",
    r"\p{N}{1,3}", r"[一-龥぀-ゟ゠-ヿ]+", r" ?[^(\s|.,!?…。,、।۔،)]+", r"\s+", r"\d",
    r"[0-9][0-9][0-9]", r" {2,}", r"(?<=\d)(?=\d)", r"[()+*]+",
]  # fmt: skip
EXPONENTIAL = [
    r"(a+)+$", r"(a|a)*b", r"(a|aa)+$", r"((a*)b?)*c", r"(?:x?){40}", r"(a{1,9}){1,9}b",
    r"a*a*a*a*a*b", r"a?a?a?a?a?a?a?a?a?aaaa", r"(\w+\s?)*$", r"(.*)*x", r"(?>a+)*(?:b|b)+",
    r"(a)\1+", r"(?<n>a)\k<n>", r"((((a+))))+", r"(?:(?:a|b)c)+", r"([a]+)*[\]+]", r"(\p{L}+)+!",
    r"(a*b*)(a*b*)c",
]  # fmt: skip


@pytest.mark.parametrize("pattern", PUBLISHED)
def test_published_patterns_are_run(pattern: str) -> None:
    Regex(pattern)  # the library reads it
    assert not is_exponential(pattern)


@pytest.mark.parametrize("pattern", EXPONENTIAL)
def test_patterns_that_repeat_repetitions_are_not(pattern: str) -> None:
    assert is_exponential(pattern)
    split = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated"}
    inside = {"type": "Sequence", "pretokenizers": [{"type": "Digits"}, split]}
    assert may_backtrack({"pre_tokenizer": inside})
    assert may_backtrack({"normalizer": {"type": "Replace", "pattern": {"Regex": pattern}}})
    assert not may_backtrack({"decoder": split, "pre_tokenizer": None})


def test_what_is_run_ends_soon_on_what_it_likes_least() -> None:
    for pattern in PUBLISHED:
        split = pre_tokenizers.Split(Regex(pattern), "isolated")
        began = time.process_time()
        for text in ("a" * 256 + "!", " " * 255 + "x", "A" * 256, "1" * 256 + "a", "\r\n" * 128):
            split.pre_tokenize_str(text)
        assert time.process_time() - began < 1
