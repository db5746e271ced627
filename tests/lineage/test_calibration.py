"""The error rate that tables and reports print."""

import json

import pytest
from scipy.stats import binom

from huref.assets import locate
from huref.lineage.calibration import FILE, Calibration, exact_interval, load_calibration
from huref.lineage.verdict import DESCENT_RETENTION, TWIN_RETENTION


@pytest.mark.parametrize(
    ("successes", "trials", "low", "high"),
    # Published examples: Newcombe 1998, Statistics in Medicine 17, table I, method 5.
    [
        (81, 263, 0.2527, 0.3676),
        (15, 148, 0.0578, 0.1617),
        (0, 20, 0.0, 0.1684),
        (20, 20, 0.8316, 1),
    ],
)
def test_intervals_are_exact(successes: int, trials: int, low: float, high: float) -> None:
    assert exact_interval(successes, trials) == pytest.approx((low, high), abs=6e-5)


@pytest.mark.parametrize(("successes", "trials"), [(0, 888), (1, 30), (15, 148), (148, 148)])
def test_each_end_leaves_a_fortieth_outside(successes: int, trials: int) -> None:
    """By the definition of Clopper and Pearson, with the binomial distribution itself."""
    low, high = exact_interval(successes, trials)
    if successes:
        assert binom.sf(successes - 1, trials, low) == pytest.approx(0.025)
    if successes < trials:
        assert binom.cdf(successes, trials, high) == pytest.approx(0.025)


def test_no_trials_give_the_whole_interval() -> None:
    assert exact_interval(0, 0) == (0.0, 1.0)


def test_the_shipped_calibration_as_a_sentence() -> None:
    calibration = load_calibration()
    assert calibration is not None
    assert str(calibration).startswith(f"false positives: {calibration.called_related} of ")
    assert calibration.interval[1] < 0.05
    assert f"to {100 * calibration.interval[1]:.2g} %" in str(calibration)


def test_the_file_holds_the_same_interval() -> None:
    calibration = load_calibration()
    assert calibration is not None
    interval = json.loads(locate(FILE).read_text("utf-8"))["interval"]
    assert interval == pytest.approx(calibration.interval, abs=1e-6)


def test_a_rate_is_named_after_its_pairs() -> None:
    assert "of 4 independent pairs" in str(Calibration(4, 1, "static-1", "a command"))


def test_the_thresholds_lie_in_the_measured_gap() -> None:
    """The quartiles of the gap by `static-1`; descent begins no lower than at today's."""
    measured = json.loads(locate(FILE).read_text("utf-8"))["retention"]
    assert measured["descends"] <= DESCENT_RETENTION
    assert measured["twins"] < TWIN_RETENTION < DESCENT_RETENTION < measured["relatives"]
