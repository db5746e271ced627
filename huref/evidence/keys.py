"""Signing keys: Ed25519 and ECDSA P-256 in PEM files.

A key id is the SHA-256 of the public key's SubjectPublicKeyInfo in DER, in hex, as
`openssl pkey -in KEY.pem -pubout -outform DER | sha256sum` prints it.
"""

import hashlib
import os
from base64 import b64decode, b64encode
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from huref.errors import EvidenceError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

EXTRA = "pip install 'huref[evidence]'"
PASSWORD = "HUREF_KEY_PASSWORD"  # the name of an environment variable
LARGEST_KEY = 64 * 1024  # bytes of a PEM file
KINDS = "Ed25519 or ECDSA P-256"
SHOWN = 16  # hex digits of a key id in text


@dataclass(frozen=True)
class Signer:
    """A private key.

    Attributes:
        sign: from a message to its signature; ECDSA signatures are DER with SHA-256.
        public: the public half.
    """

    sign: Callable[[bytes], bytes]
    public: "PublicKey"


@dataclass(frozen=True)
class PublicKey:
    """A public key.

    Attributes:
        der: SubjectPublicKeyInfo.
        key: as `cryptography` has it.
    """

    der: bytes
    key: "Ed25519PublicKey | EllipticCurvePublicKey"

    @property
    def id(self) -> str:
        """The key id, 64 hex digits."""
        return key_id(self.der)

    @property
    def text(self) -> str:
        """The key as base64 of its DER."""
        return b64encode(self.der).decode("ascii")

    def verifies(self, signature: bytes, message: bytes) -> bool:
        """Whether a signature is this key's of a message, in its only valid encoding."""
        from cryptography.exceptions import InvalidSignature
        from cryptography.hazmat.primitives import hashes
        from cryptography.hazmat.primitives.asymmetric import ec, utils

        try:
            if isinstance(self.key, ec.EllipticCurvePublicKey):
                numbers = utils.decode_dss_signature(signature)
                if utils.encode_dss_signature(*numbers) != signature:
                    return False
                self.key.verify(signature, message, ec.ECDSA(hashes.SHA256()))
            else:
                self.key.verify(signature, message)
        except (InvalidSignature, ValueError):
            return False
        return True


def key_id(der: bytes) -> str:
    """The key id of a public key in DER; it needs no other package."""
    return hashlib.sha256(der).hexdigest()


def require_cryptography() -> None:
    """Say which package is missing before anything is measured.

    Raises:
        EvidenceError: `cryptography` is not installed.
    """
    try:
        import cryptography  # noqa: F401
    except ImportError as error:
        raise EvidenceError("signatures need one more package", advice=EXTRA) from error


def load_signer(path: Path) -> Signer:
    """A private key from a PEM file; one with a password takes it from $HUREF_KEY_PASSWORD.

    Raises:
        EvidenceError: it cannot be read, is a public key, or is of another kind.
    """
    require_cryptography()
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    pem = _read_pem(path)
    if b"PUBLIC KEY-----" in pem:
        raise EvidenceError("this is a public key; signing needs the private one", file=path)
    password = os.environ.get(PASSWORD)
    try:
        try:
            key = load_pem_private_key(pem, password.encode() if password else None)
        except TypeError as error:
            if "not encrypted" not in str(error):
                raise EvidenceError(
                    "the key has a password",
                    file=path,
                    advice=f"put it into the environment variable {PASSWORD}",
                ) from error
            key = load_pem_private_key(pem, None)  # the password is another key's
    except ValueError as error:
        wrong = "wrong password, or " if password else ""
        raise EvidenceError(f"{wrong}not a private key in PEM", file=path) from error
    except UnsupportedAlgorithm as error:
        raise EvidenceError(f"give an {KINDS} key, not one of another kind", file=path) from error
    if isinstance(key, ed25519.Ed25519PrivateKey):
        return Signer(key.sign, _public(key.public_key(), path))
    if isinstance(key, ec.EllipticCurvePrivateKey):
        private = key
        public = _public(key.public_key(), path)
        return Signer(lambda message: private.sign(message, ec.ECDSA(hashes.SHA256())), public)
    raise EvidenceError(f"give an {KINDS} key, not one of another kind", file=path)


def load_public_key(path: Path) -> PublicKey:
    """A public key from a PEM file: a public key or a certificate.

    Raises:
        EvidenceError: it cannot be read, is a private key, or is of another kind.
    """
    require_cryptography()
    from cryptography import x509
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    pem = _read_pem(path)
    if b"PRIVATE KEY-----" in pem:
        raise EvidenceError(
            "this is a private key; give the public one",
            file=path,
            advice=f"make it with 'openssl pkey -in {path.name} -pubout'",
        )
    try:
        if b"BEGIN CERTIFICATE-----" in pem:
            return _public(x509.load_pem_x509_certificate(pem).public_key(), path)
        return _public(load_pem_public_key(pem), path)
    except (ValueError, UnsupportedAlgorithm, x509.InvalidVersion) as error:
        raise EvidenceError("not a public key in PEM", file=path) from error


def parse_public_key(text: str) -> PublicKey | None:
    """A public key from base64 of its DER, or None if it is not one."""
    require_cryptography()
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.serialization import load_der_public_key

    with suppress(ValueError, UnsupportedAlgorithm, EvidenceError):
        key = _public(load_der_public_key(b64decode(text, validate=True)), None)
        return key if key.text == text else None
    return None


def _read_pem(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            pem = file.read(LARGEST_KEY + 1)
    except OSError as error:
        raise EvidenceError(f"the key cannot be read ({error.strerror})", file=path) from error
    if len(pem) > LARGEST_KEY or b"-----BEGIN " not in pem:
        raise EvidenceError("not a key in PEM", file=path)
    return pem


def _public(key: object, path: Path | None) -> PublicKey:
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    p256 = isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, ec.SECP256R1)
    if not (p256 or isinstance(key, ed25519.Ed25519PublicKey)):
        raise EvidenceError(f"give an {KINDS} key, not one of another kind", file=path)
    assert isinstance(key, ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey)
    return PublicKey(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo), key)
