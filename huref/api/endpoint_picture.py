"""The picture of an endpoint: its signature through encoder and decoder, in a blue frame."""

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

FRAME = (58, 110, 165)  # RGB; the blue frame says that no weights were read


def draw_signature(signature: Signature, path: Path) -> NDArray[np.float32]:
    """Write the PNG and return its latent (512,).

    The text chunks have `huref:kind` = endpoint and no `huref:recipe.json`: the picture is not
    comparable with a fingerprint of weights and is not read as one.
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
    """A picture (h, w, 3) with the frame of endpoints drawn inside its edges."""
    framed = image.copy()
    width = max(2, image.shape[0] // 32)
    for side in (framed[:width], framed[-width:], framed[:, :width], framed[:, -width:]):
        side[:] = FRAME
    return framed
