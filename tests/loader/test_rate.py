"""The rate limiter with the Hub's headers, on a clock that the tests set."""

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from huref.errors import NetworkError
from huref.loader.checkpoint import open_checkpoint
from huref.loader.hub import rate
from huref.loader.hub.rate import RateLimiter, retry_after
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


def test_requests_wait_for_the_next_window_and_are_counted_in_it(
    limiter: RateLimiter, clock: Clock
) -> None:
    assert limiter.reserve("api") == 0  # nothing is known yet
    limiter.learn("api", 200, stated(left=4, seconds=30))
    assert [limiter.reserve("api") for _ in range(3)] == [0, 0, 30]
    assert limiter.reserve("resolvers") == 0  # counted separately
    clock.now += 29
    assert limiter.reserve("api") == pytest.approx(1)
    clock.now += 1
    assert [limiter.reserve("api") for _ in range(9)] == [0] * 8 + [60]


def test_late_answers_do_not_reset_the_count(limiter: RateLimiter, clock: Clock) -> None:
    limiter.learn("api", 200, stated(left=5, seconds=30))
    limiter.reserve("api")
    limiter.learn("api", 200, stated(left=9, seconds=30))  # an older answer that arrives late
    assert [limiter.reserve("api") for _ in range(3)] == [0, 0, 30]
    clock.now += 31
    assert limiter.reserve("api") == 0
    limiter.learn("api", 200, stated(left=0, seconds=1))  # about the previous window
    assert limiter.reserve("api") == 0


def test_a_refusal_delays_all_requests_by_retry_after(limiter: RateLimiter, clock: Clock) -> None:
    limiter.learn("api", 429, {"Retry-After": "7"})
    assert limiter.reserve("api") == 7
    limiter.learn("api", 503, {"Retry-After": "100"})  # an error of one server, not a rate limit
    assert limiter.reserve("api") == 7
    clock.now += 7
    assert limiter.reserve("api") == 0
    assert limiter.refusals == 1


def test_retry_after_may_be_a_date_or_invalid() -> None:
    dated = "Wed, 21 Oct 2020 07:28:00 GMT"
    date = "Wed, 21 Oct 2026 07:28:00 GMT"
    assert [
        retry_after({"Retry-After": text, "Date": date}) for text in ("1.5", "-3", "inf", dated)
    ] == [
        1.5,
        0,
        None,
        0,
    ]
    assert retry_after({}) is None
    assert retry_after({"Retry-After": "tomorrow"}) is None
    later = "Wed, 21 Oct 2099 07:28:00 GMT"
    assert (retry_after({"Retry-After": later, "Date": date}) or 0) > 1e9


def test_closing_wakes_waiting_threads() -> None:
    limiter = RateLimiter()
    limiter.learn("api", 429, {"Retry-After": "60"})
    failures: list[str] = []

    def acquire() -> None:
        with pytest.raises(NetworkError, match="stopped") as caught:
            limiter.acquire("api")
        failures.append(str(caught.value))

    thread = threading.Thread(target=acquire)
    thread.start()
    limiter.close()
    thread.join(timeout=5)
    assert len(failures) == 1


@pytest.fixture
def shared() -> Iterator[RateLimiter]:
    limiter = RateLimiter()
    previous = rate.share(limiter)
    yield limiter
    rate.share(previous)


def test_only_requests_to_the_hub_are_counted(
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


def test_a_refused_api_call_is_retried_after_the_stated_delay(
    hub: LoopbackHub, make_llama: Callable[..., Path], shared: RateLimiter
) -> None:
    hub.add("org/tiny", make_llama("model"))
    hub.refuse_api_with, hub.retry_after = [429, 503], "0.4"
    began = time.perf_counter()
    assert open_checkpoint("org/tiny").revision
    assert time.perf_counter() - began >= 0.8
    assert shared.refusals == 1
