"""A record: a model's terms and latent with what is needed to compare them, in one file.

Terms leak weights, so a record is private; the picture carries only the latent.
"""

import json
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

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


@dataclass(frozen=True)
class Record:
    """What was measured of one model.

    Attributes:
        model: what the user called it.
        revision: the commit, or None.
        recipe: how it was made.
        layers: indices of the blocks that were read, or None when unknown.
        anchors: the anchor strings in row order, or None (a picture does not carry them).
        terms: (layers, 3, m, m) float32, or None (likewise).
        latent: (512,) float32.
        units: what the hidden units do, or None (a picture, or a record of an older huref).
        barcodes: numbers that identify some of them without tokens, or None (likewise).
        traits: plain facts, or None (likewise).
        relations: how a sample of the units lie to each other, or None (likewise).
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
        """Write the record, first under a temporary name.

        Raises:
            RecordError: the record lacks terms or a latent, so there is nothing to save.
        """
        if self.terms is None or self.anchors is None or self.latent is None:
            raise RecordError(f"{self.model}: only a model's weights give a record to save")
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
        for name, held in parts.items():
            if held is not None:
                tensors |= {f"{name}.{f.name}": getattr(held, f.name) for f in fields(held)}
        tensors = {name: tensor.contiguous() for name, tensor in tensors.items()}
        with replacing(path) as temporary:
            save_file(tensors, temporary, metadata)


def load_record(path: Path) -> Record:
    """Read a record that `Record.save` wrote.

    Raises:
        RecordError: the file is not a record, or its parts do not fit together.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            recipe = parse_recipe(json.loads(metadata["recipe"]), str(path))
            shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
            optional = {*UNITS, *BARCODES, *RELATIONS}
            expected = {
                "terms": (len(recipe.layers), 3, recipe.m, recipe.m),
                "latent": (LATENT_SIZE,),
            }
            held = {n: shape for n, shape in shapes.items() if n not in optional}
            if held != expected:
                raise RecordError(f"{path}: a record holds {expected}, this file {held}")
            terms = file.get_tensor("terms").float()
            latent = file.get_tensor("latent").float().numpy()
            units = barcodes = relations = None
            if set(UNITS) & set(shapes):
                units = UnitFeatures(*map(file.get_tensor, UNITS))
            if set(BARCODES) & set(shapes):
                barcodes = Barcodes(*map(file.get_tensor, BARCODES))
            if set(RELATIONS) & set(shapes):
                relations = Relations(*map(file.get_tensor, RELATIONS))
        rows = [
            (bytes.fromhex(text), int(number)) for text, number in json.loads(metadata["anchors"])
        ]
        layers = tuple(int(layer) for layer in json.loads(metadata["layers"]))
        model, revision = metadata["model"], metadata["revision"] or None
        traits = parse_traits(json.loads(metadata["traits"])) if "traits" in metadata else None
    except (SafetensorError, OSError, KeyError, ValueError, TypeError, RecursionError) as error:
        raise RecordError(
            f"{path}: not a record that 'huref fingerprint --record' wrote ({type(error).__name__})"
        ) from error
    if len(rows) != recipe.m or not (torch.isfinite(terms).all() and np.isfinite(latent).all()):
        raise RecordError(f"{path}: the record's anchors or numbers are damaged; make it again")
    anchors = Anchors(tuple(text for text, _ in rows), tuple(number for _, number in rows))
    if not all(held is None or held.fits() for held in (units, barcodes, relations)):
        raise RecordError(f"{path}: the record's units are damaged; make it again")
    return Record(
        model, revision, recipe, layers, anchors, terms, latent, units, barcodes, traits, relations
    )
