"""What decides a verdict, and what is inconclusive, on figures made by hand."""

from dataclasses import replace

import pytest

from huref.lineage.correspondence import Correspondence
from huref.lineage.evidence import UnitCount
from huref.lineage.retention import Retention
from huref.lineage.similarity import Similarity
from huref.lineage.verdict import DESCENT_ICS, UNRELATED_ICS, judge


def similar(ics: float | None) -> Similarity:
    why = "" if ics is not None else "too few shared anchors: 10, at least 64 are needed"
    return Similarity(ics, None, 512, None, why)


def retained(
    of_a: float, of_b: float, carried: float, error: float = 0.0, learned: float = 0.3
) -> Retention:
    """Retentions that are the same in the leading directions after the first."""
    return Retention(
        of_a, of_b, carried, error, error, error,
        further_a=of_a, further_b=of_b, error_of_further_a=error, error_of_further_b=error,
        learned_a=learned, learned_b=learned,
    )  # fmt: skip


def matched(larger: float | None, smaller: float = 0.9) -> Correspondence:
    """Units that correspond, with these retentions."""
    retention = None if larger is None else retained(larger, smaller, 0.9)
    return Correspondence(UnitCount(512, 512, 1), -900.0, "order", "keep their index", retention)


UNMATCHED = Correspondence(UnitCount(1, 512, 1), -0.1, "order", "keep their index")


@pytest.mark.parametrize(
    ("larger", "verdict", "reason"),
    [
        (1.0, "descends", "both come from one training run: 512 of 512 hidden units of block 1"),
        (
            0.98,
            "descends",
            "98.0 % (standard error 0.0 %) of what one model learned is retained by the other",
        ),
        (0.965, "inconclusive", "range from 95.5 % (shared initialisation) to 97.5 % (descent)"),
        (0.9, "shared initialisation", "same initialisation, trained independently: "),
    ],
)
@pytest.mark.parametrize("ics", [0.01, 0.99, None])
def test_the_retention_decides_whatever_the_ics(
    larger: float, verdict: str, reason: str, ics: float | None
) -> None:
    evidence = judge(similar(ics), matched(larger))
    assert evidence.verdict == verdict
    assert reason in evidence.why
    assert "keep their index, p < 1e-99" in evidence.why


@pytest.mark.parametrize("ics", [0.01, 0.6, 0.94, None])
def test_units_without_a_retention_are_inconclusive(ics: float | None) -> None:
    evidence = judge(similar(ics), matched(None))
    assert evidence.verdict == "inconclusive"
    assert "the retention needs 48 corresponding units" in evidence.why


@pytest.mark.parametrize("retention", [None, retained(0.7, 0.6, 0.3)])
def test_terms_and_units_outweigh_cosines_that_no_longer_meet(retention: Retention | None) -> None:
    """Permuted units meet in few samples, and unread dimensions swamp their cosines."""
    units = Correspondence(UnitCount(512, 512, 1), -900.0, "agreement", "agree", retention)
    assert judge(similar(0.99), units).verdict == "descends"
    assert judge(similar(0.9), units).verdict != "descends"
    few = Correspondence(UnitCount(40, 512, 1), -900.0, "agreement", "agree", retention)
    assert judge(similar(0.99), few).verdict != "descends"


def test_a_retention_that_noise_raised_is_inconclusive() -> None:
    evidence = judge(similar(0.5), matched(1.4, 0.9))
    assert evidence.verdict == "inconclusive"
    assert "a retention of 1.40 is larger than training gives" in evidence.why
    assert judge(similar(0.5), matched(1.4, 1.2)).verdict == "descends"


@pytest.mark.parametrize(
    ("retention", "verdict", "reason"),
    [
        # A twin beside a long, hot continuation: the ratio is large because carried is near 0.
        (retained(2.32, 1.77, 0.12, 0.2), "inconclusive", "too little is left of the initial"),
        (retained(1.0, 0.32, 0.45, 0.002, 0.0), "inconclusive", "learned too little"),
        (retained(1.04, 0.32, 0.45, 0.03, 0.3), "inconclusive", "not 3 standard errors"),
        (retained(1.14, 0.44, 0.55, 0.03, 0.3), "descends", "one training run"),
        (retained(0.93, 0.32, 0.42, 0.03), "inconclusive", "not clearly on one side"),
        (retained(0.83, 0.84, 0.84, 0.01), "shared initialisation", "independently"),
        (retained(1.0, 1.0, 1.0, 0.0, 0.0), "descends", "one training run"),
        # Twins trained by plain descent: all that they learned is one direction, which both found.
        (
            replace(retained(1.11, 0.28, 0.45, 0.04, 0.05), further_a=0.96),
            "inconclusive",
            "two that share an initialisation only can lack as little",
        ),
    ],
)
def test_a_retention_counts_beyond_its_standard_error(
    retention: Retention, verdict: str, reason: str
) -> None:
    units = Correspondence(UnitCount(9, 512, 1), -20.0, "order", "keep their index", retention)
    evidence = judge(similar(0.02), units)
    assert evidence.verdict == verdict
    assert reason in evidence.why


@pytest.mark.parametrize(
    ("ics", "verdict"),
    [(0.0, "unrelated"), (UNRELATED_ICS, "inconclusive"), (0.99, "inconclusive"), (None, None)],
)
def test_units_that_do_not_correspond_leave_no_descent(
    ics: float | None, verdict: str | None
) -> None:
    evidence = judge(similar(ics), UNMATCHED)
    assert evidence.verdict == verdict
    assert evidence.retention is None
    assert "hidden units do not correspond (1 of 512" in evidence.why


@pytest.mark.parametrize(
    ("ics", "verdict"),
    [
        (0.0, "unrelated"),
        (UNRELATED_ICS, "inconclusive"),
        (0.62, "inconclusive"),  # as similar as the most similar twins that were measured
        (DESCENT_ICS, "descends"),
        (None, None),
    ],
)
def test_terms_alone_decide_beyond_their_measured_thresholds(
    ics: float | None, verdict: str | None
) -> None:
    evidence = judge(similar(ics), None, "by the sketches alone")
    assert evidence.verdict == verdict
    assert evidence.why.endswith("by the sketches alone")
