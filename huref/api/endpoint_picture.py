"""The picture of an endpoint: its signature through encoder and decoder, in a blue frame."""

import base64
import binascii
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from huref.api.open import ENDPOINT, KIND, cached_encoder
from huref.api.picture import GREY_LEVELS, cached_decoder, find_decoder
from huref.api.public import public_path
from huref.blackbox.signature import Signature
from huref.bounded_json import loads
from huref.decoder.picture import read_png, write_png
from huref.errors import EditedError, RecordError, locating
from huref.evidence.keys import Signer
from huref.evidence.seal import check_seal, seal_text
from huref.evidence.timestamp import public_address
from huref.invariants.record import Seal
from huref.recipe import LATENT_SIZE, Recipe, load_recipe, parse_recipe

FRAME = (58, 110, 165)  # RGB; the blue frame says that no weights were read
RECIPE = "huref:endpoint.recipe"


def draw_signature(
    signature: Signature, path: Path, signer: Signer | None = None
) -> NDArray[np.float32]:
    """Write the PNG, sealed like a fingerprint, and return its latent (512,).

    The text chunks have `huref:kind` = endpoint and no `huref:recipe.json`: the picture is not
    comparable with a fingerprint of weights and is not read as one.
    """
    recipe, encoder_path, decoder_path = load_recipe()
    latent = cached_encoder(encoder_path).encode(signature.terms(recipe.m)).numpy()
    image = _draw(latent, decoder_path)
    text = {
        KIND: ENDPOINT,
        "huref:model": _public(signature.source),
        "huref:endpoint.signature": signature.digest,
        RECIPE: recipe.to_json(),
        "huref:latent": base64.b64encode(latent.astype("<f4").tobytes()).decode("ascii"),
    }
    write_png(path, image, seal_text(text, image, signer))
    result: NDArray[np.float32] = latent
    return result


def check_endpoint_picture(path: Path) -> Seal:
    """Check the seal of an endpoint's picture, and that its latent draws it.

    Raises:
        EditedError: it was edited.
        RecordError: it is no picture of an endpoint.
    """
    text, pixels = read_png(path)
    with locating(file=path):
        seal = check_seal(text, pixels)
        try:
            recipe = parse_recipe(loads(text[RECIPE]), str(path))
            raw = base64.b64decode(text["huref:latent"], validate=True)
            latent = np.frombuffer(raw, dtype="<f4").astype(np.float32)
        except (KeyError, ValueError, binascii.Error) as error:
            raise RecordError("not a picture of an endpoint (its text is damaged)") from error
        if latent.shape != (LATENT_SIZE,) or not np.isfinite(latent).all():
            raise RecordError("the picture's latent is damaged", advice="make it again")
        return replace(seal, file=str(path), pixels_checked=_check_pixels(pixels, latent, recipe))


def _check_pixels(image: NDArray[np.uint8], latent: NDArray[np.float32], recipe: Recipe) -> bool:
    """Whether the picture could be held against its latent; False without its decoder."""
    decoder = find_decoder(recipe)
    if decoder is None:
        return False
    expected = _draw(latent, decoder)
    fits = image.shape == expected.shape
    if fits and np.abs(image.astype(np.int16) - expected.astype(np.int16)).max() <= GREY_LEVELS:
        return True
    raise EditedError("the picture was edited: it is not what its latent draws")


def _draw(latent: NDArray[np.float32], decoder: Path) -> NDArray[np.uint8]:
    return frame(cached_decoder(decoder).render(torch.from_numpy(latent)[None])[0])


def _public(source: str) -> str:
    """An endpoint's address without user name, password and query; of a path the last part."""
    is_address = source.startswith(("http://", "https://"))
    return public_address(source) if is_address else public_path(source)


def frame(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A picture (h, w, 3) with the frame of endpoints drawn inside its edges."""
    framed = image.copy()
    width = max(2, image.shape[0] // 32)
    for side in (framed[:width], framed[-width:], framed[:, :width], framed[:, -width:]):
        side[:] = FRAME
    return framed
