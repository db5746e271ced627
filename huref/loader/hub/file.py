"""One file on the Hub, read in ranges: redirects, retries, and where the token goes."""

import time
from collections.abc import Iterator
from urllib.parse import urljoin, urlsplit

from huggingface_hub import constants, hf_hub_url
from huggingface_hub.errors import HfHubHTTPError
from huggingface_hub.utils import build_hf_headers, hf_raise_for_status, httpx

from huref.errors import NetworkError
from huref.loader.hub.errors import explain
from huref.loader.hub.rate import limited_session, seconds_asked
from huref.loader.ranges import ByteSource, Meter

ATTEMPTS = 6  # for one range: a busy server, or a connection that breaks half-way
LONGEST_WAIT = 60.0  # seconds, whatever a Retry-After asks for
STALLED = 30.0  # seconds without a byte after which a connection counts as broken
BUSY = (429, 500, 502, 503, 504)
REDIRECTS = (301, 302, 303, 307, 308)
MOST_REDIRECTS = 5


class HubFile(ByteSource):
    """One file of a Hub repository, at a commit.

    The Hub redirects to where the bytes lie. The redirect is followed once and kept for the
    ranges that follow, and the user's token goes to the Hub alone.
    """

    merge_gap = 128 * 1024

    def __init__(self, repo: str, revision: str, name: str, size: int, meter: Meter):
        self.name = name
        self.size = size
        self._repo = repo
        self._meter = meter
        self._url = hf_hub_url(repo, name, revision=revision)
        self._direct: str | None = None  # where the Hub redirected to, once known

    def read_into(self, start: int, view: memoryview) -> None:
        """See ByteSource. A connection that breaks half-way is taken up where it broke."""
        filled = 0
        for attempt in range(ATTEMPTS):
            try:
                for chunk in self._stream(start + filled, start + len(view)):
                    view[filled : filled + len(chunk)] = chunk
                    filled += len(chunk)
                    self._meter.count(len(chunk))
                return
            except (httpx.TransportError, _BusyError) as error:
                if attempt == ATTEMPTS - 1:
                    raise NetworkError(
                        f"{self._repo}: reading '{self.name}' failed {ATTEMPTS} times, last with "
                        f"{error or type(error).__name__}; try again later"
                    ) from error
                wait(attempt, error.retry_after if isinstance(error, _BusyError) else None)
            except HfHubHTTPError as error:
                raise explain(error, self._repo) from error

    def _stream(self, start: int, stop: int) -> Iterator[bytes]:
        """Chunks of the bytes [start, stop), exactly, or an error."""
        wanted = {"Range": f"bytes={start}-{stop - 1}", "Accept-Encoding": "identity"}
        timeout = httpx.Timeout(max(STALLED, constants.HF_HUB_DOWNLOAD_TIMEOUT))
        url, direct = self._direct or self._url, self._direct
        for _ in range(MOST_REDIRECTS):
            token = build_hf_headers() if _origin(url) == _origin(self._url) else {}
            with limited_session().stream(
                "GET", url, headers=wanted | token, follow_redirects=False, timeout=timeout
            ) as response:
                status, location = response.status_code, response.headers.get("Location")
                if status in REDIRECTS and location:
                    url = urljoin(url, location)
                    continue
                if status in BUSY:
                    raise _BusyError(status, seconds_asked(response.headers))
                if direct and url == direct and 400 <= status < 500:
                    self._direct, direct = None, None  # such addresses expire after a while
                    url = self._url
                    continue
                hf_raise_for_status(response)
                if status != 206 and (start, stop) != (0, self.size):
                    raise NetworkError(
                        f"{self._repo}: the server ignores range requests (status {status}), so "
                        f"'{self.name}' cannot be read in part; download it and give its folder"
                    )
                if url != self._url:
                    self._direct = url
                self._meter.count(0, requests=1)
                yield from _exactly(stop - start, response)
                return
        raise NetworkError(
            f"{self._repo}: '{self.name}' is redirected in circles; is HF_ENDPOINT right?"
        )


def _exactly(missing: int, response: "httpx.Response") -> Iterator[bytes]:
    for chunk in response.iter_raw():
        yield chunk[:missing]
        missing -= len(chunk)
        if missing <= 0:
            return
    raise httpx.RemoteProtocolError(f"{missing} bytes too few")


def _origin(url: str) -> tuple[str, str]:
    parts = urlsplit(url)
    return parts.scheme, parts.netloc


class _BusyError(Exception):
    """The server asks to come back later."""

    def __init__(self, status: int, retry_after: float | None):
        super().__init__(f"status {status}")
        self.retry_after = retry_after


def wait(attempt: int, asked: float | None) -> None:
    """Sleep before the next attempt: the seconds that the server asks for, or ever longer."""
    time.sleep(min(2.0**attempt / 2 if asked is None else asked, LONGEST_WAIT))
