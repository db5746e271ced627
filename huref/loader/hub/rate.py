"""A limiter for all of a process's requests to the Hub, driven by the Hub's rate-limit headers.

The Hub counts requests per token in fixed windows, separately for its API, files and pages. Every
answer states the requests left in the window (`RateLimit: "api";r=489;t=55`, `RateLimit-Policy:
...;q=500;w=300`; see draft-ietf-httpapi-ratelimit-headers-09). Requests are not delayed until a
window is used up; then all threads wait for the next window instead of being refused.
"""

import hashlib
import math
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlsplit

from huggingface_hub import constants
from huggingface_hub.utils import get_session, httpx, parse_ratelimit_headers
from tqdm.auto import tqdm

from huref.errors import NetworkError
from huref.loader.hub.addresses import check_answer, check_request

MARGIN = 2  # requests of a window left unused, for those of other processes in flight
REFUSED = 429
LONG_WAIT = 5.0  # seconds; longer waits are announced on stderr
LONGEST_WAIT = 900.0  # seconds that a window is waited for; the Hub's own have 300
RESERVED = "huref.reserved"  # extension of a request that has waited for its window already
SLACK = 1.5  # seconds by which answers about one window may differ, as they give whole seconds


@dataclass
class Window:
    """The current window of one of the Hub's counts.

    Attributes:
        left: requests left in the window.
        ends: the window's end on the limiter's clock; -inf before the first answer.
        limit: requests allowed in each window; inf if unknown.
        seconds: the length of each window.
    """

    left: float = math.inf
    ends: float = -math.inf
    limit: float = math.inf
    seconds: float = 300.0


class RateLimiter:
    """Counts the requests left in the Hub's windows; safe to share between threads.

    Args:
        margin: requests of every window to leave unused. Several processes that use one token,
            each with its own limiter, should leave about as many as they have in flight.
        clock: a monotonic clock in seconds.
    """

    def __init__(self, margin: int = MARGIN, clock: Callable[[], float] = time.monotonic):
        self.margin = margin
        self.requests = 0
        self.refusals = 0
        self.seconds_waited = 0.0
        self._clock = clock
        self._windows: dict[str, Window] = {}
        self._lock = threading.Lock()
        self._closed = threading.Event()

    def reserve(self, kind: str) -> float:
        """Count a request of a kind and return 0, or return the seconds to wait before retrying."""
        with self._lock:
            now = self._clock()
            window = self._windows.setdefault(kind, Window())
            if now >= window.ends:
                window.left, window.ends = window.limit, now + window.seconds
                if math.isinf(window.limit):
                    window.ends = -math.inf  # no answer has stated the limit yet
            if window.left > min(self.margin, window.limit / 2):
                window.left -= 1
                self.requests += 1
                return 0.0
            return max(window.ends - now, 0.01)

    def learn(self, kind: str, status: int, headers: Mapping[str, str]) -> None:
        """Update a window from the headers of an answer."""
        stated = _parse_limits(headers)
        delay = retry_after(headers)
        with self._lock:
            now = self._clock()
            window = self._windows.setdefault(kind, Window())
            if stated is not None:
                window.limit = stated.limit or window.limit
                window.seconds = min(stated.window_seconds or window.seconds, LONGEST_WAIT)
                ends = now + min(stated.reset_in_seconds, LONGEST_WAIT)
                if ends > window.ends + SLACK:
                    window.left, window.ends = stated.remaining, ends
                elif ends > window.ends - SLACK:  # else the answer is about the previous window
                    window.left = min(window.left, stated.remaining)
            if status == REFUSED:
                self.refusals += 1
                wait = stated.reset_in_seconds if stated else delay
                if wait is not None:
                    wait = min(max(wait, delay or 0), LONGEST_WAIT)
                    window.left, window.ends = 0, max(window.ends, now + wait)

    def acquire(self, kind: str) -> None:
        """Wait until a request of a kind may be sent.

        Raises:
            NetworkError: the limiter was closed.
        """
        announced = False
        while (seconds := self.reserve(kind)) > 0:
            if seconds > LONG_WAIT and not announced:
                tqdm.write(f"the Hub's rate limit is reached; waiting {seconds:.0f} s", sys.stderr)
                announced = True
            self.seconds_waited += seconds
            if self._closed.wait(seconds):
                break
        if self._closed.is_set():
            raise NetworkError("the run was stopped before the request was sent")

    def close(self) -> None:
        """Refuse all further requests, and wake the threads that wait."""
        self._closed.set()


_shared: RateLimiter = RateLimiter()


def share(limiter: RateLimiter) -> RateLimiter:
    """Set the limiter that all threads of this process share; returns the previous one."""
    global _shared
    previous, _shared = _shared, limiter
    return previous


def limited_session() -> "httpx.Client":
    """The Hub client's session, with this process's limiter and the check of redirects."""
    session = get_session()
    if _before_request not in session.event_hooks["request"]:
        hooks = session.event_hooks
        session.event_hooks = {
            "request": [*hooks["request"], _before_request],
            "response": [*hooks["response"], _after_response],
        }
    return session


def retry_after(headers: Mapping[str, str]) -> float | None:
    """The seconds of a Retry-After header; None if it is missing or odd.

    A date counts from the answer's own Date: the clock of this machine may be wrong.
    """
    text = headers.get("Retry-After", "").strip()
    try:
        seconds = float(text) if text else math.nan
    except ValueError:
        try:
            moment = parsedate_to_datetime(text)
            seconds = (moment - parsedate_to_datetime(headers.get("Date", ""))).total_seconds()
        except (ValueError, TypeError, OverflowError):
            return None
    return max(seconds, 0.0) if math.isfinite(seconds) else None


def _parse_limits(headers: Mapping[str, str]) -> Any:  # huggingface_hub's RateLimitInfo, or None
    try:
        return parse_ratelimit_headers({k: v[:200] for k, v in headers.items()})
    except (ValueError, TypeError):
        return None


def _kind(request: "httpx.Request") -> str | None:
    """The name of the Hub's count for a request, with a digest of its token.

    None for requests to other servers.
    """
    hub = urlsplit(constants.ENDPOINT)
    if (request.url.scheme, request.url.netloc.decode()) != (hub.scheme, hub.netloc):
        return None  # the servers that the Hub redirects to have their own limits
    token = hashlib.sha256(request.headers.get("Authorization", "").encode()).hexdigest()[:8]
    path = request.url.path.removeprefix(hub.path)
    kind = "api" if path.startswith("/api/") else "resolvers" if "/resolve/" in path else "pages"
    return f"{kind} {token}"


def reserve(request: "httpx.Request") -> None:
    """Wait until a request may be sent; of no effect on servers other than the Hub."""
    kind = _kind(request)
    if kind is not None:
        _shared.acquire(kind)


def _before_request(request: "httpx.Request") -> None:
    check_request(request)
    if not request.extensions.get(RESERVED):
        reserve(request)


def _after_response(response: "httpx.Response") -> None:
    check_answer(response)
    kind = _kind(response.request)
    if kind is not None:
        _shared.learn(kind, response.status_code, response.headers)
