"""`huref.fingerprint`: the picture of one model, from its weights."""

import time
from base64 import b64encode
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import escape

from huref.api.open import Costs, measure, picture_text
from huref.api.picture import SHOWN, draw_latent
from huref.api.public import public_name
from huref.decoder.picture import as_png, captioned, write_png
from huref.decoder.spoken import colour_strip, spoken_code
from huref.errors import RecordError
from huref.escape import printable, terminal
from huref.evidence.keys import Signer, load_signer
from huref.evidence.seal import seal_text
from huref.invariants.extracted import Depth
from huref.invariants.record import Record
from huref.recipe import imported_with, load_recipe


@dataclass(frozen=True, repr=False)
class Fingerprint:
    """The picture of a model with its record.

    Attributes:
        record: terms and latent; of a picture only the latent.
        image: (height, width, 3) uint8.
        costs: bytes read and seconds by stage.
        path: where the picture was written, or None.
        caption: whether the PNG has the model's name and code below the dog.
    """

    record: Record
    image: np.ndarray
    costs: Costs = field(repr=False)
    path: Path | None = None
    caption: bool = False

    def __repr__(self) -> str:
        at = f", {self.path}" if self.path else ""
        return f"<Fingerprint of {terminal(self.record.model)}: {' '.join(self.code)}{at}>"

    def _repr_png_(self) -> bytes:
        return as_png(self.image)

    def _repr_html_(self) -> str:
        name = escape(printable(public_name(self.record)))
        uri = b64encode(as_png(self.image)).decode("ascii")
        return (
            f'<img width="{SHOWN}" alt="The dog of {name}" src="data:image/png;base64,{uri}"><br>'
            f"<b>{name}</b><br>{' '.join(self.code)}"
        )

    @property
    def code(self) -> tuple[str, ...]:
        """Four words that stand for the latent; relatives share most (`huref.decoder.spoken`)."""
        return spoken_code(self.latent)

    @property
    def latent(self) -> np.ndarray:
        """The latent of the model, (512,) float32.

        Raises:
            RecordError: the recipe gives no latent, as the `paper` recipe.
        """
        if self.record.latent is None:
            raise RecordError("the record has no latent", model=self.record.model)
        return self.record.latent

    def save(self, path: str | Path, signer: Signer | None = None) -> Path:
        """Write the PNG with the model, revision, recipe, latent and digest in its text chunks.

        Given a `signer`, they hold its public key and a signature, too.
        """
        image = self.image
        if self.caption:
            name = public_name(self.record)
            image = captioned(image, name, self.code, colour_strip(self.latent))
        write_png(Path(path), image, seal_text(picture_text(self.record), image, signer))
        return Path(path)

    def to_json(self) -> dict[str, Any]:
        """The object that `huref fingerprint --json` prints."""
        anchors = self.record.anchors
        return {
            "model": self.record.model,
            "revision": self.record.revision,
            "recipe": self.record.recipe.digest,
            "picture_recipe": self.record.recipe.picture_digest,
            "image": str(self.path) if self.path else None,
            "latent": [float(x) for x in self.latent],
            "code": list(self.code),
            "anchors": len(anchors.filled) if anchors else None,
            "files": self.record.files,
            "bytes_read": self.costs.bytes_read,
            "bytes_total": self.costs.bytes_total,
            "seconds": self.costs.seconds,
        }


def render(
    record: Record,
    decoder: str | None = None,
    recipe: str = "default",
    *,
    redraw: bool = False,
) -> np.ndarray:
    """The picture of a record's latent, (height, width, 3) uint8.

    A record that names an imported decoder is drawn with that one unless `decoder` is given.

    Args:
        record: must have a latent.
        decoder: name or file of a decoder; None for the recipe's.
        recipe: name or file of a recipe.
        redraw: if the record names a decoder that is not installed, draw it with this one. The
            dog differs from the published one, but equal latents still give equal dogs.

    Raises:
        RecordError: the record has no latent, or names another decoder, which would draw another
            dog.
    """
    current, _, decoder_path = load_recipe(recipe, decoder)
    if record.latent is None:
        raise RecordError(
            f"the recipe '{record.recipe.name}' gives terms but no picture",
            model=record.model,
            advice="use 'huref compare', or the default recipe",
        )
    if record.recipe.decoder != current.decoder:
        imported = imported_with(record.recipe.decoder) if decoder is None else None
        if imported is None and not redraw:
            raise RecordError(
                f"made for the decoder {record.recipe.decoder}, but this one is {current.decoder}",
                model=record.model,
                advice="name the right one with --decoder",
            )
        decoder_path = imported or decoder_path
    return draw_latent(record.latent, decoder_path)


def fingerprint(
    model: str | Path,
    out: str | Path | None = None,
    *,
    recipe: str = "default",
    decoder: str | None = None,
    record: str | Path | None = None,
    base: str | Path | None = None,
    caption: bool = False,
    key: str | Path | None = None,
    units: bool = True,
) -> Fingerprint:
    """Fingerprint a model.

    Args:
        model: a folder, a file of weights, a Hub id (`org/name`, optional `@revision`), an address
            of the Hub, `ollama:NAME`, a LoRA adapter, a saved record or a fingerprint PNG.
        out: where to write the PNG; None writes none.
        recipe: name of a recipe, or a YAML file.
        decoder: a decoder to use instead of the recipe's: a file, or the name of an imported one.
        record: where to save the record (private: it leaks weights); None saves none.
        base: for a LoRA adapter, the model to apply it to instead of the one that it names.
        caption: whether the PNG has below the dog the model's name, four words that stand for the
            latent, and a strip of colours.
        key: PEM file of a private key to sign the PNG with (needs huref[evidence]).
        units: whether the record has the measurements of hidden units, by which lineage tables
            decide. The picture does not need them, and without them it takes two thirds of the
            time; a record that is saved has them in any case.

    Returns:
        The picture, the record and the costs.

    Raises:
        HurefError: the subclass and the message say what is wrong and what to do.
    """
    signer = load_signer(Path(key)) if key is not None else None
    depth: Depth = "recipe" if units or record is not None else "terms"
    measured, costs = measure(str(model), recipe, decoder, str(base or ""), depth)
    began = time.perf_counter()
    image = render(measured, decoder, recipe)
    costs.seconds["render"] = time.perf_counter() - began
    result = Fingerprint(measured, image, costs, Path(out) if out else None, caption)
    if record is not None:
        measured.save(Path(record))
    if out is not None:
        result.save(out, signer)
    return result
