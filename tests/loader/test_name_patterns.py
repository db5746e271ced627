"""Patterns of an adapter's modules mean what `re` makes of them, and never take long."""

import re
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from huref.loader.sources import name_patterns
from huref.loader.sources.name_patterns import NamePatterns, PatternError

PARTS = ["a", "b", ".", r"\.", "(", "|", ")", "*", "+", "?", "{1,2}", "{,2}", "[ab]", "[^a]", "^",
         "$", r"\d", "layers", "(?:a|b)", "*?"]  # fmt: skip


def fits(pattern: str, name: str) -> bool:
    return bool(NamePatterns({pattern: 1}).find(name, 0))


@settings(max_examples=400, deadline=None)
@given(st.lists(st.sampled_from(PARTS), max_size=7).map("".join),
       st.lists(st.text("ab.1\n", max_size=8).map(str.rstrip), min_size=1, max_size=6))  # fmt: skip
def test_a_pattern_fits_the_names_that_it_fits_in_peft(pattern: str, names: list[str]) -> None:
    try:
        expected = [bool(re.match(rf"(.*\.)?({pattern})$", name)) for name in names]
    except re.error:
        with pytest.raises(PatternError):
            fits(pattern, "a")
        return
    try:
        assert [fits(pattern, name) for name in names] == expected
    except PatternError:  # such as a repetition of a repetition, which names do not need
        assert re.search(r"[*+?}][*+]|\\d", pattern) or not is_whole(pattern)


def is_whole(pattern: str) -> bool:
    """Whether a pattern is one without the parentheses that PEFT puts around it."""
    try:
        re.compile(pattern)
    except re.error:
        return False
    return True


@pytest.mark.parametrize(
    "pattern", ["a?" * 40 + "a" * 40, "(a|a)" * 60 + "b", ".*" * 9 + "!", "(a+)+b", "(a*)*b"]
)
def test_patterns_on_which_re_never_ends(pattern: str) -> None:
    began = time.process_time()
    assert not fits(pattern, "a" * 5000)
    assert time.process_time() - began < 2


def test_the_first_pattern_counts_and_many_are_refused_in_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    patterns = NamePatterns({"q_proj": 1, ".*proj": 2, "k_proj": 3})
    assert [patterns.find(f"layers.0.{name}", 0) for name in ("q_proj", "k_proj", "up")] == [
        1,
        2,
        0,
    ]
    many = NamePatterns({f"m{i}": i for i in range(9000)})
    monkeypatch.setattr(name_patterns, "MOST_STEPS", 100_000)
    assert many.find("layers.1", 0) == 0
    with pytest.raises(PatternError, match="too many patterns"):
        [many.find(f"layers.{i}", 0) for i in range(9)]
