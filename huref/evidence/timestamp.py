"""RFC 3161 timestamps: proof that some bytes existed at a time, signed by an authority."""

import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from datetime import datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit, urlunsplit

from huref.errors import EvidenceError, NetworkError
from huref.evidence.keys import EXTRA
from huref.version import __version__

if TYPE_CHECKING:
    from cryptography.x509 import Certificate
    from rfc3161_client import TimeStampResponse

PATIENCE = 30.0  # seconds for the whole answer
CLOCK_SKEW = timedelta(minutes=10)  # by which a signer's clock may run ahead of an authority's
PIECE = 4096  # bytes read at a time
LARGEST = 1 << 20  # bytes of an answer; a token with its certificates has a few thousand
SHA256 = "2.16.840.1.101.3.4.2.1"  # object identifier


@dataclass(frozen=True)
class Timestamp:
    """What a token says.

    Attributes:
        time: UTC.
        authority: subject of the signing certificate, or "" where the token holds none.
        trusted: whether its signature leads to one of the given root certificates.
        why: what is wrong with it, or "".
    """

    time: datetime
    authority: str
    trusted: bool
    why: str = ""


def require_rfc3161() -> None:
    """Say which package is missing before anything is measured.

    Raises:
        EvidenceError: `rfc3161-client` is not installed.
    """
    try:
        import rfc3161_client  # noqa: F401
    except ImportError as error:
        raise EvidenceError("timestamps need one more package", advice=EXTRA) from error


def public_address(url: str) -> str:
    """An http(s) address without user name, password, query and fragment.

    Raises:
        EvidenceError: it is not one.
    """
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise EvidenceError(f"'{url}' is no http address of a timestamp authority")
    host = parts.hostname if parts.port is None else f"{parts.hostname}:{parts.port}"
    return urlunsplit((parts.scheme, host, parts.path, "", ""))


def request_timestamp(url: str, message: bytes) -> bytes:
    """Ask an authority for a token over a message; only its SHA-256 is sent.

    Returns:
        The RFC 3161 response in DER.

    Raises:
        NetworkError: the authority cannot be reached.
        EvidenceError: it answers something else, or a token over other bytes.
    """
    require_rfc3161()
    from rfc3161_client import HashAlgorithm, TimestampRequestBuilder

    public = public_address(url)
    builder = TimestampRequestBuilder().data(message).hash_algorithm(HashAlgorithm.SHA256)
    request = builder.build()
    headers = {
        "Content-Type": "application/timestamp-query",
        "Accept": "application/timestamp-reply",
        "User-Agent": f"huref/{__version__}",
    }
    query = urllib.request.Request(url, request.as_bytes(), headers)  # http(s) alone
    try:
        answer = _fetch(query)
    except urllib.error.HTTPError as error:
        raise EvidenceError(f"{public}: the timestamp authority answers {error.code}") from error
    except OSError as error:
        reason = getattr(error, "reason", error)
        raise NetworkError(f"{public}: no timestamp authority answers ({reason})") from error
    response = _parse(answer, public)
    if response.tst_info.nonce != request.nonce:
        raise EvidenceError(f"{public}: the authority's answer is to another request")
    if not _covers(response, message):
        raise EvidenceError(f"{public}: the authority's token covers other bytes")
    return answer


def _fetch(query: urllib.request.Request) -> bytes:
    """The answer to a request. Raises OSError where it takes longer than PATIENCE."""
    ends = time.monotonic() + PATIENCE
    answer = bytearray()
    with urllib.request.build_opener(_NoRedirects).open(query, timeout=PATIENCE) as reply:
        while len(answer) <= LARGEST and (piece := reply.read1(PIECE)):
            answer += piece
            if time.monotonic() > ends:
                raise TimeoutError(f"no whole answer within {PATIENCE:.0f} s")
    return bytes(answer)


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """Follows no redirect: the user named the authority, and no other server gets the request."""

    def redirect_request(self, *_: object) -> None:
        """None: the redirect is an error of its status."""


def load_certificates(path: Path) -> "list[Certificate]":
    """Certificates from a PEM file.

    Raises:
        EvidenceError: there are none in it.
    """
    require_rfc3161()
    from cryptography import x509

    try:
        return x509.load_pem_x509_certificates(path.read_bytes())
    except OSError as error:
        raise EvidenceError(f"cannot be read ({error.strerror})", file=path) from error
    except (ValueError, x509.InvalidVersion) as error:
        raise EvidenceError("not a certificate in PEM", file=path) from error


def is_before(time: datetime, made_at: datetime) -> bool:
    """Whether a token's time is before the time that a signer states."""
    return made_at > time + CLOCK_SKEW


def read_timestamp(token: bytes, message: bytes, roots: "list[Certificate]") -> Timestamp:
    """What a token says of a message.

    `why` says where it covers other bytes, or its signature or certificates do not hold: with
    roots the certificates must have been valid at the stated time and lead to one of them.

    Raises:
        EvidenceError: it is not a token.
    """
    require_rfc3161()
    from cryptography import x509
    from rfc3161_client import VerificationError, VerifierBuilder

    response = _parse(token, "")
    try:
        time, authority = response.tst_info.gen_time, _authority(response)
    except Exception as error:  # two packages read a token, each with errors of its own
        raise EvidenceError("not an RFC 3161 timestamp: it is damaged") from error
    if not _covers(response, message):
        return Timestamp(time, authority, False, "it covers other bytes than this signature")
    if not roots:
        return Timestamp(time, authority, False)
    builder = VerifierBuilder()
    for certificate in roots:
        if certificate.issuer == certificate.subject:
            builder = builder.add_root_certificate(certificate)
        else:
            builder = builder.add_intermediate_certificate(certificate)
    try:
        builder.build().verify(response, sha256(message).digest())
    except (VerificationError, ValueError, x509.InvalidVersion) as error:
        return Timestamp(time, authority, False, f"its certificates do not hold ({error})")
    return Timestamp(time, authority, True)


def _parse(answer: bytes, place: str) -> "TimeStampResponse":
    from rfc3161_client import decode_timestamp_response

    place = f"{place}: " if place else ""
    try:
        response = decode_timestamp_response(answer)
        if response.status != 0:
            reason = "; ".join(response.status_string) or f"status {response.status}"
            raise EvidenceError(f"{place}the timestamp authority refuses ({reason})")
        _ = response.tst_info
    except ValueError as error:
        raise EvidenceError(f"{place}not an RFC 3161 timestamp") from error
    if response.as_bytes() != answer:
        raise EvidenceError(f"{place}bytes before or after an RFC 3161 timestamp")
    return response


def _covers(response: "TimeStampResponse", message: bytes) -> bool:
    imprint = response.tst_info.message_imprint
    is_sha256 = imprint.hash_algorithm.dotted_string == SHA256
    return is_sha256 and imprint.message == sha256(message).digest()


def _authority(response: "TimeStampResponse") -> str:
    from cryptography import x509

    for der in response.signed_data.certificates:
        certificate = x509.load_der_x509_certificate(der)
        for signer in response.signed_data.signer_infos:
            if (certificate.issuer, certificate.serial_number) == (
                signer.issuer,
                signer.serial_number,
            ):
                return certificate.subject.rfc4514_string()
    return ""
