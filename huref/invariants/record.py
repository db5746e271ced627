"""Records: a model's terms, latent and unit measurements, in one safetensors file.

Terms leak weights, so a record is private. A picture carries the latent only.
"""

import json
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from huref.bounded_json import loads
from huref.errors import RecordError
from huref.files import replacing
from huref.invariants.anchors import Anchors
from huref.invariants.barcodes import Barcodes
from huref.invariants.relations import Relations
from huref.invariants.traits import Traits, parse_traits
from huref.invariants.unit_features import UnitFeatures
from huref.recipe import LATENT_SIZE, Recipe, parse_recipe

UNITS = tuple(f"units.{field.name}" for field in fields(UnitFeatures))
BARCODES = tuple(f"barcodes.{field.name}" for field in fields(Barcodes))
RELATIONS = tuple(f"relations.{field.name}" for field in fields(Relations))
AGAIN = "make the record again"


@dataclass(frozen=True)
class Record:
    """All measurements of one model.

    A record that was read from a picture has model, recipe and latent only. One with the published
    terms has no latent.

    Attributes:
        model: the model as the user called it.
        revision: the commit, or None.
        recipe: the recipe that was used.
        layers: indices of the blocks whose terms these are.
        anchors: the anchors in row order.
        terms: (layers, 3, m, m) float32.
        latent: (512,) float32.
        units: features of the hidden units.
        barcodes: numbers that identify hidden units without tokens.
        traits: properties by which the direction of descent is judged.
        relations: cosines between the vectors of sampled hidden units.
    """

    model: str
    revision: str | None
    recipe: Recipe
    layers: tuple[int, ...] | None
    anchors: Anchors | None
    terms: Tensor | None
    latent: np.ndarray | None
    units: UnitFeatures | None = None
    barcodes: Barcodes | None = None
    traits: Traits | None = None
    relations: Relations | None = None

    def save(self, path: Path) -> None:
        """Write the record completely or not at all.

        Raises:
            RecordError: the record lacks anchors, terms or a latent.
        """
        if self.terms is None or self.anchors is None or self.latent is None:
            raise RecordError("only a model's weights give a record to save", model=self.model)
        metadata = {
            "recipe": self.recipe.to_json(),
            "model": self.model,
            "revision": self.revision or "",
            "layers": json.dumps(self.layers),
            "anchors": json.dumps(
                [[t.hex(), i] for t, i in zip(self.anchors.tokens, self.anchors.ids, strict=True)]
            ),
        }
        if self.traits is not None:
            metadata["traits"] = json.dumps(self.traits.to_json())
        tensors = {"terms": self.terms.contiguous(), "latent": torch.from_numpy(self.latent)}
        parts = {"units": self.units, "barcodes": self.barcodes, "relations": self.relations}
        for name, part in parts.items():
            if part is not None:
                tensors |= {f"{name}.{f.name}": getattr(part, f.name) for f in fields(part)}
        tensors = {name: tensor.contiguous() for name, tensor in tensors.items()}
        with replacing(path, private=True) as temporary:
            save_file(tensors, temporary, metadata)


def load_record(path: Path) -> Record:
    """Read a record that `Record.save` wrote.

    Raises:
        RecordError: the file is not a record, or is damaged.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            recipe = parse_recipe(loads(metadata["recipe"]), str(path))
            shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
            optional = {*UNITS, *BARCODES, *RELATIONS}
            expected = {
                "terms": (len(recipe.layers), 3, recipe.m, recipe.m),
                "latent": (LATENT_SIZE,),
            }
            found = {n: shape for n, shape in shapes.items() if n not in optional}
            if found != expected:
                raise RecordError(
                    f"a record of its recipe has the tensors {expected}, this file {found}",
                    file=path,
                )
            terms = file.get_tensor("terms").float()
            latent = file.get_tensor("latent").float().numpy()
            units = barcodes = relations = None
            if set(UNITS) & set(shapes):
                units = UnitFeatures(*map(file.get_tensor, UNITS))
            if set(BARCODES) & set(shapes):
                barcodes = Barcodes(*map(file.get_tensor, BARCODES))
            if set(RELATIONS) & set(shapes):
                relations = Relations(*map(file.get_tensor, RELATIONS))
        rows = [(bytes.fromhex(text), int(number)) for text, number in loads(metadata["anchors"])]
        layers = tuple(int(layer) for layer in loads(metadata["layers"]))
        model, revision = metadata["model"], metadata["revision"] or None
        traits = parse_traits(loads(metadata["traits"])) if "traits" in metadata else None
    except (SafetensorError, OSError, KeyError, ValueError, TypeError, OverflowError) as error:
        raise RecordError(
            f"not a record that 'huref fingerprint --record' wrote ({type(error).__name__})",
            file=path,
        ) from error
    if len(rows) != recipe.m or not (torch.isfinite(terms).all() and np.isfinite(latent).all()):
        raise RecordError("its anchors, terms or latent are damaged", file=path, advice=AGAIN)
    anchors = Anchors(tuple(text for text, _ in rows), tuple(number for _, number in rows))
    if not all(part is None or part.fits() for part in (units, barcodes, relations)):
        raise RecordError("its unit measurements are damaged", file=path, advice=AGAIN)
    return Record(
        model, revision, recipe, layers, anchors, terms, latent, units, barcodes, traits, relations
    )
