"""A file on the Hub, read in ranges, with redirects and retries."""

import time
from collections.abc import Iterator
from urllib.parse import urljoin, urlsplit

from huggingface_hub import constants, hf_hub_url
from huggingface_hub.errors import HfHubHTTPError
from huggingface_hub.utils import build_hf_headers, hf_raise_for_status, httpx

from huref.errors import NetworkError, locating
from huref.loader.hub.errors import explain
from huref.loader.hub.rate import limited_session, retry_after
from huref.loader.ranges import ByteSource, Meter

ATTEMPTS = 6  # to read one range
LONGEST_WAIT = 60.0  # seconds between attempts, also where Retry-After is longer
STALLED = 30.0  # seconds without a byte after which a connection counts as broken
BUSY = (429, 500, 502, 503, 504)
REDIRECTS = (301, 302, 303, 307, 308)
MOST_REDIRECTS = 5


class HubFile(ByteSource):
    """A file of a Hub repository at a commit.

    The Hub redirects to the server that holds the bytes. The redirect is followed once and reused
    for later ranges. The user's token is sent to the Hub only.
    """

    merge_gap = 128 * 1024

    def __init__(self, repo: str, revision: str, name: str, size: int, meter: Meter):
        self.name = name
        self.size = size
        self._repo = repo
        self._meter = meter
        self._url = hf_hub_url(repo, name, revision=revision)
        self._direct: str | None = None  # the URL that the Hub redirected to

    def read_into(self, start: int, view: memoryview) -> None:
        """See ByteSource. After a broken connection, reading resumes at the missing byte."""
        with locating(model=self._repo, file=self.name):
            self._read_into(start, view)

    def _read_into(self, start: int, view: memoryview) -> None:
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
                    cause = str(error) or type(error).__name__
                    raise NetworkError(
                        f"reading failed {ATTEMPTS} times, last with {cause}",
                        advice="try again later",
                    ) from error
                wait(attempt, error.retry_after if isinstance(error, _BusyError) else None)
            except HfHubHTTPError as error:
                raise explain(error, self._repo) from error

    def _stream(self, start: int, stop: int) -> Iterator[bytes]:
        """The bytes [start, stop) in chunks. Raises httpx.TransportError if some are missing."""
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
                    raise _BusyError(status, retry_after(response.headers))
                if direct and url == direct and 400 <= status < 500:
                    self._direct, direct = None, None  # the redirect has expired
                    url = self._url
                    continue
                hf_raise_for_status(response)
                if status != 206 and (start, stop) != (0, self.size):
                    raise NetworkError(
                        f"the server ignores range requests (status {status}), so it cannot be "
                        "read in part",
                        advice="download the model and give its folder",
                    )
                if url != self._url:
                    self._direct = url
                self._meter.count(0, requests=1)
                yield from _exactly(stop - start, response)
                return
        raise NetworkError("it is redirected in circles", advice="check HF_ENDPOINT")


def _exactly(missing: int, response: "httpx.Response") -> Iterator[bytes]:
    """The first `missing` bytes of a response in chunks."""
    for chunk in response.iter_raw():
        yield chunk[:missing]
        missing -= len(chunk)
        if missing <= 0:
            return
    raise httpx.RemoteProtocolError(f"{missing} bytes missing")


def _origin(url: str) -> tuple[str, str]:
    parts = urlsplit(url)
    return parts.scheme, parts.netloc


class _BusyError(Exception):
    """The server is busy; `retry_after` is its Retry-After header in seconds."""

    def __init__(self, status: int, retry_after: float | None):
        super().__init__(f"status {status}")
        self.retry_after = retry_after


def wait(attempt: int, seconds: float | None) -> None:
    """Sleep before the next attempt: `seconds`, or exponentially longer if None."""
    time.sleep(min(2.0**attempt / 2 if seconds is None else seconds, LONGEST_WAIT))
