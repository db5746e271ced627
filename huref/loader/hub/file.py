"""A file on the Hub, read in ranges, with redirects and retries."""

import re
import sys
import time
from collections.abc import Callable, Iterator, Mapping

from huggingface_hub import hf_hub_url
from huggingface_hub.errors import HfHubHTTPError
from huggingface_hub.utils import httpx
from tqdm.auto import tqdm

from huref.errors import NetworkError, locating
from huref.loader.hub.answers import (
    LEAST_RATE,
    ChangedFileError,
    check_range,
    exactly,
    opened,
    origin,
    refuse_status,
)
from huref.loader.hub.errors import explain
from huref.loader.hub.rate import retry_after
from huref.loader.ranges import ByteSource, Meter

ATTEMPTS = 6  # to read one range
TOO_LONG = 900.0  # seconds of a Retry-After from which on reading ends
ANNOUNCED = 5.0  # seconds; longer pauses are announced on stderr
LONGEST_WAIT = 60.0  # seconds between attempts, also where Retry-After is longer
PATIENCE = 600.0  # seconds for one range, and the time that its bytes take at LEAST_RATE
BUSY = (429, 500, 502, 503, 504)
_COMMIT = re.compile(r"[0-9a-f]{40}")


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
        self._commit = revision
        self._direct: str | None = None  # the URL that the Hub redirected to
        self._tags: dict[str, str] = {}
        self.on_change: Callable[[], None] = lambda: None  # called before ChangedFileError

    def read_into(self, start: int, view: memoryview) -> None:
        """See ByteSource. After a broken connection, reading resumes at the missing byte."""
        with locating(model=self._repo, file=self.name):
            self._read_into(start, view)

    def _read_into(self, start: int, view: memoryview) -> None:
        filled = 0
        deadline = time.monotonic() + PATIENCE + len(view) / LEAST_RATE
        for attempt in range(ATTEMPTS):
            try:
                for chunk in self._stream(start + filled, start + len(view)):
                    view[filled : filled + len(chunk)] = chunk
                    filled += len(chunk)
                    self._meter.count(len(chunk))
                return
            except (httpx.TransportError, _BusyError) as error:
                if attempt == ATTEMPTS - 1 or time.monotonic() > deadline:
                    cause = str(error) or type(error).__name__
                    raise NetworkError(
                        f"reading failed {attempt + 1} times, last with {cause}",
                        advice="try again later",
                    ) from error
                wait(attempt, error.retry_after if isinstance(error, _BusyError) else None)
            except HfHubHTTPError as error:
                raise explain(error, self._repo) from error

    def _stream(self, start: int, stop: int) -> Iterator[bytes]:
        """The bytes [start, stop) in chunks. Raises httpx.TransportError if some are missing."""
        wanted = {"Range": f"bytes={start}-{stop - 1}"}
        for url in filter(None, (self._direct, self._url)):
            with opened(url, wanted) as response:
                status = response.status_code
                if status in BUSY:
                    raise _BusyError(status, retry_after(response.headers))
                if url == self._direct and 400 <= status < 500 and status != 416:
                    self._direct = None  # the redirect has expired
                    continue
                if status != 416:
                    refuse_status(response)
                check_range(response, start, stop, self.size)
                self._check_identity(response)
                if str(response.url) != self._url:
                    self._direct = str(response.url)
                self._meter.count(0, requests=1)
                yield from exactly(stop - start, response)
                return

    def expect(self, identity: Mapping[str, str]) -> None:
        """Require that servers name the file as in an earlier `identity`."""
        for server, tag in identity.items():
            self._expect(server, tag)

    @property
    def identity(self) -> dict[str, str]:
        """The tag (ETag) by which each server named the file's contents."""
        return dict(self._tags)

    def _check_identity(self, response: "httpx.Response") -> None:
        commit = response.headers.get("X-Repo-Commit")
        if commit is not None and _COMMIT.fullmatch(self._commit) and commit != self._commit:
            raise ChangedFileError(
                f"the server sends it at the commit '{commit[:40]}', not at {self._commit}"
            )
        tag = response.headers.get("ETag")
        if tag:
            self._expect("://".join(origin(str(response.url))), tag)

    def _expect(self, server: str, tag: str) -> None:
        if self._tags.setdefault(server, tag) != tag:
            self.on_change()
            raise ChangedFileError(
                "it changed while it was being read", advice="try again when it is complete"
            )


class _BusyError(Exception):
    """The server is busy; `retry_after` is its Retry-After header in seconds."""

    def __init__(self, status: int, retry_after: float | None):
        super().__init__(f"status {status}")
        self.retry_after = retry_after


def wait(attempt: int, seconds: float | None) -> None:
    """Sleep before the next attempt: `seconds`, or exponentially longer if None.

    Raises:
        NetworkError: the server asks for more time than anybody waits.
    """
    if seconds is not None and seconds > TOO_LONG:
        shown = f"{seconds:,.0f} s" if seconds < 1e9 else "more than 30 years"
        raise NetworkError(f"the server asks to wait {shown}", advice="try again later")
    pause = min(2.0**attempt / 2 if seconds is None else seconds, LONGEST_WAIT)
    if pause > ANNOUNCED:
        tqdm.write(f"the server is busy; waiting {pause:.0f} s", sys.stderr)
    time.sleep(pause)
