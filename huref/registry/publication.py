"""A registry as a published file: what `huref registry export` writes, its digest and a signature.

Beside FILE.jsonl stand FILE.jsonl.sha256, as `sha256sum` writes it, and FILE.jsonl.sig, the base64
of a signature of that digest.
"""

import re
from base64 import b64decode, b64encode
from hashlib import file_digest
from pathlib import Path

from huref.errors import RegistryError
from huref.evidence.keys import PublicKey, Signer
from huref.files import replacing

DIGEST, SIGNATURE = ".sha256", ".sig"
DOMAIN = b"huref registry file 1\n"
_HEX = re.compile(r"[0-9a-f]{64}")


def publish(path: Path, signer: Signer | None = None) -> None:
    """Write the digest of an exported registry beside it and, given a signer, its signature."""
    digest = hash_file(path)
    _write(path, DIGEST, f"{digest}  {path.name}\n")
    if signer is not None:
        signature = signer.sign(DOMAIN + digest.encode())
        _write(path, SIGNATURE, b64encode(signature).decode("ascii") + "\n")


def _write(path: Path, suffix: str, text: str) -> None:
    with replacing(path.with_name(path.name + suffix)) as temporary:
        temporary.write_text(text, "utf-8")


def hash_file(path: Path) -> str:
    """SHA-256 of a file, in hex digits."""
    with path.open("rb") as file:
        return file_digest(file, "sha256").hexdigest()


def parse_digest(text: str, source: str) -> str:
    """The digest in a .sha256 file.

    Raises:
        RegistryError: it holds none.
    """
    first = text.split()[0].lower() if text.split() else ""
    if not _HEX.fullmatch(first):
        raise RegistryError("it holds no SHA-256", file=source)
    return first


def check_digest(path: Path, expected: str, source: str) -> None:
    """Hold a fetched file against its digest.

    Raises:
        RegistryError: it has another one.
    """
    if (found := hash_file(path)) != expected:
        raise RegistryError(
            f"its SHA-256 is {found}, not {expected}: it was changed, or cut off on the way",
            file=source,
            advice="fetch it again; if that does not help, ask who published it",
        )


def check_signature(digest: str, text: str, key: PublicKey, source: str) -> None:
    """Check the signature of a digest.

    Raises:
        RegistryError: the key did not make it.
    """
    try:
        signature = b64decode("".join(text.split()), validate=True)
    except ValueError:
        signature = b""
    if not key.verifies(signature, DOMAIN + digest.encode()):
        raise RegistryError(
            f"the key {key.id[:16]} did not sign it",
            file=source,
            advice="ask who published it for their key",
        )
