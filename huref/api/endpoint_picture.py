"""An endpoint's dog: the signature through the same encoder and decoder, marked as an endpoint's.

This module stands on top, with the command line: it is the only one here that draws.
"""

import base64
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from huref.blackbox.signature import Signature
from huref.decoder.picture import write_png
from huref.decoder.render import load_decoder
from huref.encoder.checkpoint import load_encoder
from huref.recipe import load_recipe

FRAME = (58, 110, 165)  # a blue frame: no weights were seen


def draw_signature(signature: Signature, path: Path) -> NDArray[np.float32]:
    """Write the PNG and return the latent (512,) that it shows.

    The text chunks say `huref:kind` endpoint and have no `huref:recipe.json`, so that the picture
    cannot be taken for a fingerprint of weights: the two are not comparable.
    """
    recipe, encoder_path, decoder_path = load_recipe()
    latent = load_encoder(encoder_path).encode(signature.terms(recipe.m)).numpy()
    image = load_decoder(decoder_path).render(torch.from_numpy(latent)[None])[0]
    text = {
        "huref:kind": "endpoint",
        "huref:model": signature.source,
        "huref:signature": signature.digest,
        "huref:latent": base64.b64encode(latent.astype("<f4").tobytes()).decode("ascii"),
    }
    write_png(path, frame(image), text)
    result: NDArray[np.float32] = latent
    return result


def frame(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Draw the frame that marks an endpoint's dog, inside the picture (h, w, 3)."""
    framed = image.copy()
    width = max(2, image.shape[0] // 32)
    for side in (framed[:width], framed[-width:], framed[:, :width], framed[:, -width:]):
        side[:] = FRAME
    return framed
