"""One limiter for all requests to the Hub made with one token, kept by what the Hub itself says.

The Hub counts requests in fixed windows, apart for its API, for files and for pages, and states in
every answer what is left (`RateLimit: "api";r=489;t=55`, `RateLimit-Policy: ...;q=500;w=300`; see
draft-ietf-httpapi-ratelimit-headers-09). Nothing is held back until a window is used up; then
everybody waits for the next one instead of collecting refusals.
"""

import hashlib
import math
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

from huggingface_hub import constants
from huggingface_hub.utils import get_session, httpx, parse_ratelimit_headers
from tqdm.auto import tqdm

from huref.errors import NetworkError

MARGIN = 2  # requests of a window left alone, for those of others already on their way
REFUSED = 429
LONG_WAIT = 5.0  # seconds after which the user is told what is waited for
SLACK = 1.5  # seconds by which two answers about one window may differ: they state whole seconds


@dataclass
class Window:
    """What is known of one of the Hub's counts."""

    left: float = math.inf
    ends: float = -math.inf  # on the limiter's clock; past while nothing is known
    limit: float = math.inf
    seconds: float = 300.0


class RateLimiter:
    """Counts down the Hub's windows; may be shared by all threads of a process.

    Args:
        margin: requests of every window to leave unused. Several processes with one token, each
            with a limiter of its own, should leave about as many as they have requests in flight.
        clock: seconds that never go back.
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
        """Take one request of a kind and return 0, or say in how many seconds to ask again."""
        with self._lock:
            now = self._clock()
            window = self._windows.setdefault(kind, Window())
            if now >= window.ends:
                window.left, window.ends = window.limit, now + window.seconds
                if math.isinf(window.limit):
                    window.ends = -math.inf  # still nothing known
            if window.left > min(self.margin, window.limit / 2):
                window.left -= 1
                self.requests += 1
                return 0.0
            return max(window.ends - now, 0.01)

    def learn(self, kind: str, status: int, headers: Mapping[str, str]) -> None:
        """Take in what an answer says of its window."""
        stated = parse_ratelimit_headers(headers)
        asked = seconds_asked(headers)
        with self._lock:
            now = self._clock()
            window = self._windows.setdefault(kind, Window())
            if stated is not None:
                window.limit = stated.limit or window.limit
                window.seconds = stated.window_seconds or window.seconds
                ends = now + stated.reset_in_seconds
                if ends > window.ends + SLACK:
                    window.left, window.ends = stated.remaining, ends
                elif ends > window.ends - SLACK:  # else an answer from the window before
                    window.left = min(window.left, stated.remaining)
            if status == REFUSED:
                self.refusals += 1
                wait = stated.reset_in_seconds if stated else asked
                if wait is not None:
                    window.left, window.ends = 0, max(window.ends, now + max(wait, asked or 0))

    def acquire(self, kind: str) -> None:
        """Wait until a request of a kind may be sent.

        Raises:
            NetworkError: the limiter was closed meanwhile.
        """
        told = False
        while (seconds := self.reserve(kind)) > 0:
            if seconds > LONG_WAIT and not told and sys.stderr.isatty():
                tqdm.write(f"the Hub's limit is reached; going on in {seconds:.0f} s", sys.stderr)
                told = True
            self.seconds_waited += seconds
            if self._closed.wait(seconds):
                break
        if self._closed.is_set():
            raise NetworkError("stopped before the request was sent")

    def close(self) -> None:
        """Let nobody through any more, and wake those who wait."""
        self._closed.set()


_shared: RateLimiter = RateLimiter()


def share(limiter: RateLimiter) -> RateLimiter:
    """Make a limiter that of this process; the one before is returned."""
    global _shared
    before, _shared = _shared, limiter
    return before


def limited_session() -> "httpx.Client":
    """The Hub client's session, whose requests to the Hub pass through this process's limiter."""
    session = get_session()
    if _before not in session.event_hooks["request"]:
        hooks = session.event_hooks
        session.event_hooks = {
            "request": [*hooks["request"], _before],
            "response": [*hooks["response"], _after],
        }
    return session


def seconds_asked(headers: Mapping[str, str]) -> float | None:
    """The seconds of a Retry-After header; None when there is none, or it is a date."""
    try:
        seconds = float(headers.get("Retry-After", ""))
    except ValueError:
        return None
    return max(seconds, 0.0) if math.isfinite(seconds) else None


def _kind(request: "httpx.Request") -> str | None:
    """Which of the Hub's counts a request falls under, by token; None when it goes elsewhere."""
    hub = urlsplit(constants.ENDPOINT)
    if (request.url.scheme, request.url.netloc.decode()) != (hub.scheme, hub.netloc):
        return None  # the servers that the Hub redirects to count by themselves
    token = hashlib.sha256(request.headers.get("Authorization", "").encode()).hexdigest()[:8]
    path = request.url.path.removeprefix(hub.path)
    kind = "api" if path.startswith("/api/") else "resolvers" if "/resolve/" in path else "pages"
    return f"{kind} {token}"


def _before(request: "httpx.Request") -> None:
    kind = _kind(request)
    if kind is not None:
        _shared.acquire(kind)


def _after(response: "httpx.Response") -> None:
    kind = _kind(response.request)
    if kind is not None:
        _shared.learn(kind, response.status_code, response.headers)
