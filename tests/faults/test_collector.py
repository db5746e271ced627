"""Python's collector is paused while a parser creates many objects, and goes on afterwards."""

import gc
import threading
from collections.abc import Iterator

import pytest

from huref.bounded_json import JsonError, loads
from huref.budget import collector_paused
from huref.errors import HurefError
from huref.loader.formats.unpickle import unpickle


@pytest.fixture(autouse=True)
def working() -> Iterator[None]:
    assert gc.isenabled()
    yield
    gc.enable()


def test_it_goes_on_after_a_block_and_after_an_error() -> None:
    with collector_paused():
        assert not gc.isenabled()
        with collector_paused():
            pass
        assert not gc.isenabled()
    assert gc.isenabled()
    for data in (b"[" * 200, b"{]"):
        with pytest.raises(JsonError):
            loads(data)
        assert gc.isenabled()
    with pytest.raises(HurefError):
        unpickle(b"\x80\x02cos\nsystem\n.", "a.pkl")
    assert gc.isenabled()


def test_it_stays_off_where_the_user_turned_it_off() -> None:
    gc.disable()
    assert loads(b"[1]") == [1]
    assert not gc.isenabled()


@pytest.mark.parametrize("first_out", [0, 1])
def test_it_goes_on_after_blocks_of_two_threads_that_overlap(first_out: int) -> None:
    entered = [threading.Event(), threading.Event()]
    leave = [threading.Event(), threading.Event()]

    def work(number: int) -> None:
        with collector_paused():
            entered[number].set()
            assert leave[number].wait(10)

    threads = []
    for number in range(2):
        threads.append(threading.Thread(target=work, args=(number,)))
        threads[-1].start()
        assert entered[number].wait(10)
    for number in (first_out, 1 - first_out):
        leave[number].set()
        threads[number].join()
    assert gc.isenabled()
