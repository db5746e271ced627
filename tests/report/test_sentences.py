"""Verdicts as sentences that can be printed."""

from dataclasses import replace

import pytest

from huref.lineage.evidence import Direction, Evidence, UnitCount
from huref.lineage.similarity import Similarity
from huref.lineage.table import Pair
from huref.report.sentences import tell_chance, tell_pair, tell_pairs, tell_power, tell_table
from tests.support.lineage_samples import many

NOTHING = Similarity(None, None, None, None, "too few anchors")


def pair_of(evidence: Evidence) -> Pair:
    return Pair("a", "b", NOTHING, evidence)


@pytest.mark.parametrize(
    ("evidence", "words"),
    [
        (Evidence(verdict="descends"), "Which came first, their weights do not show"),
        (Evidence(verdict="descends", direction=Direction("a", "x")), "B was made from A, or both"),
        (Evidence(verdict="descends", direction=Direction("b", "x")), "A was made from B, or both"),
        (Evidence(verdict="descends", same="weights"), "A and B have the same weights. Which"),
        (Evidence(verdict="descends", same="quantised"), "rounded or quantised"),
        (Evidence(verdict="descends", same="function"), "compute the same function"),
        (Evidence(verdict="shared initialisation"), "neither was made from the other"),
        (Evidence(verdict="unrelated"), "no sign that one was made from the other"),
        (Evidence(verdict="inconclusive"), "do not settle whether A and B are related"),
        (Evidence(verdict="contains parts"), "less than half"),
        (Evidence(), "could not be compared: too few anchors"),
    ],
)
def test_a_sentence_for_each_verdict(evidence: Evidence, words: str) -> None:
    said = tell_pair(pair_of(evidence), "A", "B")
    assert words in said
    assert said.endswith(".")
    assert said[0] == "A" or "A" in said


def test_only_exact_and_strong_tests_are_told_as_chances() -> None:
    strong = Evidence(UnitCount(9, 9, 1), -40.7, "order", "descends")
    assert "less than once in 10⁴⁰ cases" in tell_chance(pair_of(strong))
    for other in ({"test": "agreement"}, {"log10_p": -5.0}, {"verdict": "unrelated"}):
        assert tell_chance(pair_of(replace(strong, **other))) == ""


def test_probabilities_are_never_told_smaller_than_they_are() -> None:
    assert tell_power(-0.5) == "with a probability of 0.32"
    assert tell_power(-9.99) == "less than once in 10⁹ cases"


def test_unrelated_models_are_told_in_one_sentence() -> None:
    table = many(5)
    said = list(tell_pairs(table))
    unrelated = sum(pair.evidence.verdict == "unrelated" for pair in table.pairs)
    assert len(said) <= len(table.pairs) - unrelated + 1
    assert tell_table(table)
