"""Signed entries: who measured a model cannot be changed afterwards."""

import json
from base64 import b64decode, b64encode
from dataclasses import replace
from hashlib import sha256

import numpy as np

from huref.errors import RegistryError
from huref.evidence.keys import Signer, key_id, parse_public_key
from huref.registry.entry import Entry

DOMAIN = b"huref registry entry 1\n"
FIELDS = ("model", "revision", "recipe", "base", "measured_at", "measured_by", "signer")
ARRAYS = {"latent": "<f4", "sketch": "u1", "anchors": "<u4"}
SIGNED = "signed"  # the value of a registry's `require` that refuses unsigned entries


def signed_bytes(entry: Entry) -> bytes:
    """What an entry's signature covers: all its fields, the arrays by their SHA-256."""
    data = {name: getattr(entry, name) for name in FIELDS}
    for name, kind in ARRAYS.items():
        values = np.ascontiguousarray(getattr(entry, name).astype(kind))
        data[name] = [list(values.shape), sha256(values.tobytes()).hexdigest()]
    return DOMAIN + json.dumps(data, sort_keys=True).encode()


def sign_entry(entry: Entry, signer: Signer) -> Entry:
    """The same entry, signed."""
    named = replace(entry, signer=signer.public.text, signature="")
    signature = signer.sign(signed_bytes(named))
    return replace(named, signature=b64encode(signature).decode("ascii"))


def check_entry(entry: Entry, require: str = "") -> None:
    """Check an entry's signature, if it has one.

    Raises:
        RegistryError: the entry was edited, or is unsigned where `require` is SIGNED.
        EvidenceError: the package that checks signatures is missing.
    """
    if not entry.signer and not entry.signature:
        if require == SIGNED:
            raise RegistryError(
                "it is unsigned, and the registry takes signed entries only",
                model=entry.model,
                advice="add it with --key",
            )
        return
    try:
        signature = b64decode(entry.signature, validate=True)
        canonical = b64encode(signature).decode("ascii") == entry.signature
    except ValueError:
        signature, canonical = b"", False
    key = parse_public_key(entry.signer)
    if key is None or not canonical or not key.verifies(signature, signed_bytes(entry)):
        raise RegistryError(
            "its entry was edited: the signature does not hold",
            model=entry.model,
            advice="remove the entry",
        )


def signer_id(entry: Entry) -> str | None:
    """The key id of who signed an entry, or None."""
    return signer_of(entry.signer)


def signer_of(text: str) -> str | None:
    """The key id of a public key as entries have it, or None where there is none."""
    try:
        return key_id(b64decode(text, validate=True)) if text else None
    except ValueError:
        return None
