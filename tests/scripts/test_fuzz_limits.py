import subprocess
import sys
import time

import pytest

from scripts.fuzz.limits import SlowInputError, watched


def _use_cpu(seconds: float) -> None:
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass


def test_an_input_that_never_ends_is_interrupted() -> None:
    with pytest.raises(SlowInputError), watched(hung=0.2):
        _use_cpu(float("inf"))


def test_an_input_is_slow_even_where_a_parser_catches_the_interruption() -> None:
    def parse() -> None:
        try:
            _use_cpu(60)
        except AssertionError:
            return

    began = time.process_time()
    with pytest.raises(SlowInputError), watched(hung=0.2):
        parse()
    assert time.process_time() - began < 30


def test_code_that_cannot_be_interrupted_is_refused_when_it_returns() -> None:
    began = time.process_time()
    with pytest.raises(SlowInputError), watched(hung=0.05):
        sum(range(30_000_000))
    assert time.process_time() - began > 0.05


def test_a_busy_machine_makes_no_input_slow() -> None:
    with watched(hung=0.2):
        time.sleep(0.5)  # time without CPU time


def test_code_that_neither_returns_nor_can_be_interrupted_ends_the_process() -> None:
    code = (
        "from scripts.fuzz.limits import watched\n"
        "with watched(hung=0.1, stuck=1.0): max(iter(int, 1))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert "Timeout" in done.stderr


def test_limits_end_with_the_block() -> None:
    for _ in range(3):
        with watched(hung=0.2):
            _use_cpu(0.1)
    _use_cpu(0.3)
