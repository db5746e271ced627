"""DSSE envelopes: a payload, its type, and signatures over both (DSSE v1.0).

A signature's RFC 3161 tokens are kept beside it as `timestamps`, as witness does; other readers
of DSSE ignore the key.
"""

import binascii
import json
from base64 import b64decode, b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from huref.bounded_json import JsonError, loads
from huref.errors import EvidenceError
from huref.evidence.keys import PublicKey, Signer

LARGEST = 64 << 20  # bytes of an envelope
MOST_SIGNATURES = 16
TOKEN = "rfc3161"


@dataclass(frozen=True)
class Signature:
    """A signature with its timestamps.

    Attributes:
        key_id: the signer's key id, or "" where the envelope has none.
        value: the signature.
        tokens: RFC 3161 responses in DER over `value`.
    """

    key_id: str
    value: bytes
    tokens: tuple[bytes, ...] = ()


@dataclass(frozen=True)
class Envelope:
    """A signed payload."""

    payload_type: str
    payload: bytes
    signatures: tuple[Signature, ...]

    @property
    def signed_bytes(self) -> bytes:
        """What is signed: the pre-authentication encoding of type and payload."""
        kind = self.payload_type.encode()
        return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(self.payload), self.payload)

    def signed_by(self, key: PublicKey) -> Signature | None:
        """The signature that a key verifies, or None."""
        for signature in self.signatures:
            if signature.key_id in ("", key.id) and key.verifies(
                signature.value, self.signed_bytes
            ):
                return signature
        return None

    def with_token(self, token: bytes) -> "Envelope":
        """The same with a timestamp on its first signature."""
        first, *others = self.signatures
        first = replace(first, tokens=(*first.tokens, token))
        return replace(self, signatures=(first, *others))

    def to_json(self) -> str:
        """The envelope's file."""
        signatures = []
        for one in self.signatures:
            entry: dict[str, Any] = {"keyid": one.key_id, "sig": _encode(one.value)}
            if one.tokens:
                entry["timestamps"] = [{"type": TOKEN, "data": _encode(t)} for t in one.tokens]
            signatures.append(entry)
        data = {
            "payloadType": self.payload_type,
            "payload": _encode(self.payload),
            "signatures": signatures,
        }
        return json.dumps(data, indent=2) + "\n"


def sign_payload(payload_type: str, payload: bytes, signer: Signer) -> Envelope:
    """A payload in an envelope with one signature."""
    unsigned = Envelope(payload_type, payload, ())
    signature = Signature(signer.public.id, signer.sign(unsigned.signed_bytes))
    return replace(unsigned, signatures=(signature,))


def parse_envelope(data: bytes | str) -> Envelope:
    """An envelope from its file.

    Raises:
        EvidenceError: it is not an envelope, or is truncated or damaged.
    """
    value = parse_json(data)
    if not isinstance(value, dict) or "payloadType" not in value or "payload" not in value:
        raise EvidenceError("not a DSSE envelope, as 'huref attest' writes it")
    kind, signatures = value["payloadType"], value.get("signatures")
    if not isinstance(kind, str) or not isinstance(signatures, list) or not signatures:
        raise EvidenceError("a DSSE envelope without payload type or signatures")
    if len(signatures) > MOST_SIGNATURES:
        raise EvidenceError(f"more than {MOST_SIGNATURES} signatures")
    return Envelope(kind, _decode(value["payload"]), tuple(map(_parse_signature, signatures)))


def _parse_signature(entry: object) -> Signature:
    if not isinstance(entry, Mapping):
        raise EvidenceError("a signature of the envelope is damaged")
    name, tokens = entry.get("keyid") or "", entry.get("timestamps", [])
    if not isinstance(name, str) or not isinstance(tokens, Sequence):
        raise EvidenceError("a signature of the envelope is damaged")
    known = []
    for token in tokens:
        if not isinstance(token, Mapping) or token.get("type") != TOKEN:
            raise EvidenceError("a timestamp of another kind than RFC 3161")
        known.append(_decode(token.get("data")))
    return Signature(name, _decode(entry.get("sig")), tuple(known))


def parse_json(data: bytes | str) -> Any:
    """A JSON value in which no object has a key twice.

    Raises:
        EvidenceError: it is not JSON, too large, or has a key twice.
    """
    if len(data) > LARGEST:
        raise EvidenceError(f"more than {LARGEST:,} bytes; not an attestation")

    try:
        return loads(data, unique=True)
    except JsonError as error:
        raise EvidenceError(f"not JSON, or truncated ({error})") from error


def _encode(data: bytes) -> str:
    return b64encode(data).decode("ascii")


def _decode(text: object) -> bytes:
    """Bytes from standard base64; a second spelling of the same bytes is refused."""
    try:
        data = b64decode(text, validate=True) if isinstance(text, str) else b""
    except (ValueError, binascii.Error):
        data = b""
    if not data or _encode(data) != text:
        raise EvidenceError("its base64 is damaged")
    return data
