"""Pictures for a test, of the drawings or of a decoder, by the name of their source."""

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from huref.decoder.render import load_decoder
from scripts.dogs.digest import drawing_digest
from scripts.dogs.draw import draw, latent_basis
from scripts.humans.trials import Draw, Pictures

SIZE = 128  # pixels on a side of a drawing
DRAWINGS = "drawings"


def source_of(pictures: str) -> tuple[str, Draw]:
    """A name with a digest, and the function from latents to pictures.

    Args:
        pictures: "drawings", or the path of a decoder.

    Raises:
        HurefError: the file is no decoder.
    """
    if pictures == DRAWINGS:
        basis = latent_basis()

        def drawn(z: NDArray[np.float64]) -> Pictures:
            return np.stack([draw(one @ basis, SIZE) for one in z])

        return f"{DRAWINGS} {drawing_digest()}", drawn
    decoder = load_decoder(Path(pictures))

    def rendered(z: NDArray[np.float64]) -> Pictures:
        return decoder.render(torch.from_numpy(z))

    return f"decoder {decoder.digest[:12]}", rendered
