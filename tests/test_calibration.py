"""The rate of errors that verdicts cite."""

import json

import pytest

from huref.assets import locate
from huref.lineage.calibration import FILE, Calibration, load_calibration, wilson_interval
from huref.lineage.verdict import DESCENT_RETENTION, TWIN_RETENTION


@pytest.mark.parametrize(
    ("successes", "trials", "low", "high"),
    # Published examples: Newcombe 1998, Statistics in Medicine 17, table I, method 3.
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611)],
)
def test_intervals_are_wilsons(successes: int, trials: int, low: float, high: float) -> None:
    assert wilson_interval(successes, trials) == pytest.approx((low, high), abs=6e-5)


def test_nothing_tried_says_nothing() -> None:
    assert wilson_interval(0, 0) == (0.0, 1.0)


def test_what_ships_is_said_in_a_sentence() -> None:
    calibration = load_calibration()
    assert calibration is not None
    assert str(calibration).startswith(f"false positives: {calibration.called_related} of ")
    assert calibration.interval[1] < 0.05
    assert "of 4 independent pairs" in str(Calibration(4, 1, "a command"))


def test_the_thresholds_are_the_measured_ones() -> None:
    """The quartiles of the gap that scripts/evaluate_lineage.py found, rounded."""
    held = json.loads(locate(FILE).read_text("utf-8"))["retention"]
    assert pytest.approx(held["shared_initialisation"], abs=2e-3) == TWIN_RETENTION
    assert pytest.approx(held["descends"], abs=2e-3) == DESCENT_RETENTION
    assert held["twins"] < TWIN_RETENTION < DESCENT_RETENTION < held["relatives"]
