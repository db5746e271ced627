"""Requests to the Hub, and the checks of what a server, a proxy or a captive portal answers.

Redirects are followed here and not by the client: the user's token goes to the Hub's own address
alone, and no redirect leads from a public Hub into a private network (`addresses`). Answers come as
they are stored, without a content encoding, at a least rate, and their headers within a deadline.
"""

import re
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from urllib.parse import urljoin, urlsplit

from huggingface_hub import constants
from huggingface_hub.utils import build_hf_headers, hf_raise_for_status, httpx

from huref.errors import NetworkError
from huref.loader.hub.addresses import NAMED, PORTAL
from huref.loader.hub.rate import RESERVED, limited_session, reserve

STALLED = 30.0  # seconds without a byte after which a connection counts as broken
LEAST_RATE = 4 * 1024  # bytes per second, averaged over STALLED
HEADERS_WITHIN = 90.0  # seconds from a request to the end of the answer's headers
REDIRECTS = (301, 302, 303, 307, 308)
MOST_REDIRECTS = 5
LARGEST_REFUSAL = 64 * 1024  # bytes of the body of an error that are read
LARGEST_DESCRIPTION = 32 * 1024 * 1024  # bytes; a repository of 20,000 files takes six million
_RANGE = re.compile(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18}|\*)")


class ChangedFileError(NetworkError):
    """The server answers with another file than before."""


@contextmanager
def opened(
    url: str, headers: Mapping[str, str], *, named: str | None = None
) -> Iterator["httpx.Response"]:
    """The answer to a GET after redirects, with its body not yet read.

    Args:
        url: http or https.
        headers: of the request; the token is added where it goes to the Hub itself.
        named: the address that the user named, which may be private; None for the Hub's.

    Raises:
        NetworkError: a redirect is refused, or there are too many.
        httpx.TransportError: the connection broke, or the headers took too long.
    """
    try:
        host = httpx.URL(named or constants.ENDPOINT).raw_host.decode("ascii").lower()
        host.encode("idna")
    except (ValueError, httpx.InvalidURL) as error:
        raise NetworkError("its address is not valid", advice="check HF_ENDPOINT") from error
    for _ in range(MOST_REDIRECTS):
        response = _send(url, headers, host)
        try:
            location = response.headers.get("Location")
            if response.status_code not in REDIRECTS or not location:
                yield response
                return
            url = _redirected(url, location)
        finally:
            response.close()
    raise NetworkError("it is redirected in circles", advice="check HF_ENDPOINT")


def _send(url: str, headers: Mapping[str, str], named: str) -> "httpx.Response":
    session = limited_session()
    token = build_hf_headers() if origin(url) == origin(constants.ENDPOINT) else {}
    timeout = httpx.Timeout(max(STALLED, constants.HF_HUB_DOWNLOAD_TIMEOUT))
    every = {"Accept-Encoding": "identity", **headers, **token}
    request = session.build_request("GET", url, headers=every, timeout=timeout)
    reserve(request)  # not inside the deadline: the wait for a window may be long
    request.extensions = {**request.extensions, RESERVED: True, NAMED: named}
    answers: list[httpx.Response | BaseException] = []
    given_up = threading.Event()

    def send() -> None:
        try:
            response = session.send(request, stream=True, follow_redirects=False)
        except BaseException as error:  # passed on to the thread that waits
            answers.append(error)
            return
        answers.append(response)
        if given_up.is_set():
            response.close()

    # A timeout of the client counts from the last byte, and a server may send one a second.
    thread = threading.Thread(target=send, daemon=True)
    thread.start()
    thread.join(HEADERS_WITHIN)
    if not answers:
        given_up.set()
        raise httpx.ReadTimeout(f"no answer within {HEADERS_WITHIN:.0f} s", request=request)
    if isinstance(answers[0], BaseException):
        raise answers[0]
    return answers[0]


def _redirected(url: str, location: str) -> str:
    """The address that a redirect leads to. Raises NetworkError where it is not followed."""
    try:
        target = httpx.URL(urljoin(url, location))
        target.raw_host.decode("ascii").encode("idna")  # as the system does; labels may be too long
    except (ValueError, httpx.InvalidURL) as error:
        raise NetworkError("it is redirected to an invalid address", advice=PORTAL) from error
    if target.scheme not in ("http", "https") or not target.host:
        raise NetworkError("it is redirected to an address that is not HTTP", advice=PORTAL)
    if target.scheme == "http" and urlsplit(url).scheme == "https":
        raise NetworkError(
            f"it is redirected from HTTPS to HTTP at {target.host}, which is not followed",
            advice=PORTAL,
        )
    return str(target)


def origin(url: str) -> tuple[str, str]:
    """Scheme and network location of a URL."""
    parts = urlsplit(url)
    return parts.scheme, parts.netloc


def refuse_status(response: "httpx.Response") -> None:
    """Raise HfHubHTTPError for a status of an error; of its body little is read."""
    if response.status_code >= 400:
        body = bytearray()
        for chunk in paced(response.iter_raw()):
            body += chunk[:LARGEST_REFUSAL]
            if len(body) >= LARGEST_REFUSAL:
                break
        response._content = bytes(body)  # or the client would read all of it
        try:
            hf_raise_for_status(response)
        except (ValueError, RecursionError):  # it reads the body as JSON, in any encoding
            response._content = b""
            hf_raise_for_status(response)


def refuse_encoding(response: "httpx.Response") -> None:
    """Raise NetworkError for a compressed answer, which was not asked for."""
    encoding = response.headers.get("Content-Encoding", "identity").strip().lower()
    if encoding not in ("", "identity"):
        raise NetworkError(
            f"the server sends it with the encoding '{encoding[:40]}', although none was asked for",
            advice=PORTAL,
        )


def check_range(response: "httpx.Response", start: int, stop: int, size: int) -> None:
    """Hold an answer's headers against the range [start, stop) of a file of a known size.

    Raises:
        NetworkError: the server ignores ranges, or sends another one.
        ChangedFileError: the file has another size than the Hub listed.
    """
    refuse_encoding(response)
    status, length = response.status_code, response.headers.get("Content-Length")
    if status == 416:
        raise ChangedFileError(f"it has fewer than the {size:,} bytes that the Hub lists")
    if status == 200 and (start, stop) == (0, size):
        if length is not None and length.strip() != str(size):
            raise ChangedFileError(f"it has {length[:20]} bytes, but the Hub lists {size:,}")
        return
    if status != 206:
        raise NetworkError(
            f"the server ignores range requests (status {status}), so it cannot be read in part",
            advice="download the model and give its folder",
        )
    sent = _RANGE.fullmatch(response.headers.get("Content-Range", "").strip())
    if sent is None or (int(sent[1]), int(sent[2])) != (start, stop - 1):
        shown = response.headers.get("Content-Range", "no range")[:60]
        raise NetworkError(
            f"bytes {start}-{stop - 1} were asked for, and the server sends {shown}",
            advice="download the model and give its folder",
        )
    if sent[3] != "*" and int(sent[3]) != size:
        raise ChangedFileError(f"it has {sent[3]} bytes, but the Hub lists {size:,}")
    if length is not None and length.strip() != str(stop - start):
        raise NetworkError(
            f"{stop - start} bytes were asked for, and the server sends {length[:20]}",
            advice="try again later",
        )


def paced(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """Chunks of an answer. Raises httpx.ReadTimeout where they come at less than LEAST_RATE."""
    began, received = time.monotonic(), 0
    for chunk in chunks:
        received += len(chunk)
        passed = time.monotonic() - began
        if passed >= STALLED:
            if received < LEAST_RATE * passed:
                raise httpx.ReadTimeout(f"{received / passed:,.0f} bytes per second")
            began, received = time.monotonic(), 0
        yield chunk


def exactly(missing: int, response: "httpx.Response") -> Iterator[bytes]:
    """The first `missing` bytes of a body. Raises httpx.TransportError where there are fewer."""
    for chunk in paced(response.iter_raw()):
        yield chunk[:missing]
        missing -= len(chunk)
        if missing <= 0:
            return
    raise httpx.RemoteProtocolError(f"{missing} bytes missing")


def body_of(response: "httpx.Response", largest: int = LARGEST_DESCRIPTION) -> bytes:
    """A whole body of bounded size. Raises NetworkError for a larger one."""
    refuse_encoding(response)
    data = bytearray()
    for chunk in paced(response.iter_raw()):
        data += chunk
        if len(data) > largest:
            raise NetworkError(f"the Hub's answer has more than {largest:,} bytes", advice=PORTAL)
    return bytes(data)
