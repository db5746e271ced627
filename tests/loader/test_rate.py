"""The limiter against the Hub's headers, on a clock that tests move."""

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from huref.errors import NetworkError
from huref.loader.checkpoint import open_checkpoint
from huref.loader.hub import rate
from huref.loader.hub.rate import RateLimiter, seconds_asked
from tests.support.hub_server import LoopbackHub


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def stated(left: int, seconds: int) -> dict[str, str]:
    return {
        "RateLimit": f'"api";r={left};t={seconds}',
        "RateLimit-Policy": '"fixed window";"api";q=10;w=60',
    }


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def limiter(clock: Clock) -> RateLimiter:
    return RateLimiter(margin=2, clock=clock)


def test_a_used_up_window_is_waited_for_and_the_next_one_counted_down(
    limiter: RateLimiter, clock: Clock
) -> None:
    assert limiter.reserve("api") == 0  # nothing is known yet
    limiter.learn("api", 200, stated(left=4, seconds=30))
    assert [limiter.reserve("api") for _ in range(3)] == [0, 0, 30]
    assert limiter.reserve("resolvers") == 0  # counted apart
    clock.now += 29
    assert limiter.reserve("api") == pytest.approx(1)
    clock.now += 1
    assert [limiter.reserve("api") for _ in range(9)] == [0] * 8 + [60]


def test_answers_arriving_late_do_not_undo_what_is_known(
    limiter: RateLimiter, clock: Clock
) -> None:
    limiter.learn("api", 200, stated(left=5, seconds=30))
    limiter.reserve("api")
    limiter.learn("api", 200, stated(left=9, seconds=30))  # older, overtaken on the way
    assert [limiter.reserve("api") for _ in range(3)] == [0, 0, 30]
    clock.now += 31
    assert limiter.reserve("api") == 0
    limiter.learn("api", 200, stated(left=0, seconds=1))  # about the window before
    assert limiter.reserve("api") == 0


def test_a_refusal_stops_everybody_for_as_long_as_it_says(
    limiter: RateLimiter, clock: Clock
) -> None:
    limiter.learn("api", 429, {"Retry-After": "7"})
    assert limiter.reserve("api") == 7
    limiter.learn("api", 503, {"Retry-After": "100"})  # one server's trouble, not the token's
    assert limiter.reserve("api") == 7
    clock.now += 7
    assert limiter.reserve("api") == 0
    assert limiter.refusals == 1


def test_retry_after_may_be_a_date_or_nonsense() -> None:
    dated = "Wed, 21 Oct 2026 07:28:00 GMT"
    assert [seconds_asked({"Retry-After": text}) for text in ("1.5", "-3", "inf", dated)] == [
        1.5,
        0,
        None,
        None,
    ]
    assert seconds_asked({}) is None


def test_closing_wakes_those_who_wait() -> None:
    limiter = RateLimiter()
    limiter.learn("api", 429, {"Retry-After": "60"})
    failures: list[str] = []

    def ask() -> None:
        with pytest.raises(NetworkError, match="stopped") as caught:
            limiter.acquire("api")
        failures.append(str(caught.value))

    thread = threading.Thread(target=ask)
    thread.start()
    limiter.close()
    thread.join(timeout=5)
    assert len(failures) == 1


@pytest.fixture
def shared() -> Iterator[RateLimiter]:
    limiter = RateLimiter()
    before = rate.share(limiter)
    yield limiter
    rate.share(before)


def test_requests_to_the_hub_are_counted_and_those_elsewhere_are_not(
    hub: LoopbackHub, make_llama: Callable[..., Path], shared: RateLimiter
) -> None:
    folder = make_llama("model")
    hub.add("org/tiny", folder)
    with LoopbackHub() as elsewhere:
        elsewhere.add("org/tiny", folder)
        hub.redirect_to = elsewhere.url
        open_checkpoint("org/tiny").read(["model.layers.1.mlp.up_proj.weight"])
        assert shared.requests == len(hub.requests)
        assert len(elsewhere.requests) > 0


def test_a_refused_api_call_is_repeated_when_the_hub_says_so(
    hub: LoopbackHub, make_llama: Callable[..., Path], shared: RateLimiter
) -> None:
    hub.add("org/tiny", make_llama("model"))
    hub.refuse_api_with, hub.retry_after = [429, 503], "0.4"
    began = time.perf_counter()
    assert open_checkpoint("org/tiny").revision
    assert time.perf_counter() - began >= 0.8
    assert shared.refusals == 1
