"""Seals of pictures: a digest over a PNG's texts and pixels, and a signature of it.

The digest shows an accidental or careless edit; who edits on purpose can make a new one. Only the
signature cannot be made by anybody else, and only for readers who know the signer's key id.
"""

import json
from base64 import b64decode, b64encode
from hashlib import sha256

import numpy as np
from numpy.typing import NDArray

from huref.errors import EditedError, EvidenceError
from huref.evidence.keys import Signer, key_id, parse_public_key
from huref.invariants.record import Seal

PREFIX = "huref:"
DIGEST, SIGNER, SIGNATURE = "huref:digest", "huref:signer", "huref:signature"
DOMAIN = b"huref picture 1\n"
SIGNED = b"huref picture signature 1\n"


def picture_digest(text: dict[str, str], image: NDArray[np.uint8]) -> str:
    """SHA-256 (hex) over pixels (h, w, 3) and all texts of huref but digest and signature."""
    fields = {
        k: v for k, v in text.items() if k.startswith(PREFIX) and k not in (DIGEST, SIGNATURE)
    }
    total = sha256(DOMAIN + json.dumps(fields, sort_keys=True).encode())
    total.update(f"\n{list(image.shape)} {image.dtype}\n".encode())
    total.update(np.ascontiguousarray(image).tobytes())
    return total.hexdigest()


def seal_text(
    text: dict[str, str], image: NDArray[np.uint8], signer: Signer | None = None
) -> dict[str, str]:
    """The texts of a picture with its digest and, given a key, signer and signature."""
    if signer is not None:
        text = text | {SIGNER: signer.public.text}
    digest = picture_digest(text, image)
    text = text | {DIGEST: digest}
    if signer is not None:
        signature = signer.sign(SIGNED + bytes.fromhex(digest))
        text[SIGNATURE] = b64encode(signature).decode("ascii")
    return text


def check_seal(text: dict[str, str], image: NDArray[np.uint8]) -> Seal:
    """Who signed a picture, if anybody.

    Raises:
        EditedError: the picture was edited: its digest or its signature does not hold.
    """
    stated = text.get(DIGEST)
    if stated is None:
        raise EditedError(
            "the picture has no digest: it was edited, or made before pictures had one",
            advice="make it again",
        )
    if stated != picture_digest(text, image):
        raise EditedError("the picture was edited: its digest does not fit its texts and pixels")
    signer, signature = text.get(SIGNER), text.get(SIGNATURE)
    if signer is None and signature is None:
        return Seal()
    if signer is None or signature is None:
        raise EditedError("the picture was edited: its signature is incomplete")
    try:
        name = key_id(b64decode(signer, validate=True))
        value = b64decode(signature, validate=True)
        if b64encode(value).decode("ascii") != signature:
            raise ValueError(signature)
    except ValueError as error:
        raise EditedError("the picture was edited: its signature is damaged") from error
    try:
        key = parse_public_key(signer)
    except EvidenceError:
        return Seal(signer=name, signature_checked=False)
    if key is None or not key.verifies(value, SIGNED + bytes.fromhex(stated)):
        raise EditedError(f"the picture was edited: {name[:16]} did not sign it as it is")
    return Seal(signer=name)
