"""The rate of errors that verdicts cite."""

import pytest

from huref.lineage.calibration import Calibration, load_calibration, wilson_interval


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
