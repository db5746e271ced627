"""Entries of a registry, one per measured model, and queries. Both may be published."""

import datetime as dt
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from huref.api.public import public_name, public_path
from huref.errors import RegistryError
from huref.invariants.record import Record
from huref.registry.anchor_codes import AnchorCodes, encode_anchors
from huref.registry.places import remember_place
from huref.registry.sketch import Codes, make_sketch

Key = tuple[str, str, str]


@dataclass(frozen=True)
class Query:
    """The numbers of a model by which a registry is searched.

    Attributes:
        latent: (512,) float32.
        sketch: as in `Entry`, or None if only the latent is known, as from a picture.
        anchors: likewise.
        terms: (layers, 3, m, m) of a measured model, or None. Comparing them with sketches is more
            exact than comparing two sketches. Private, unlike the rest.
    """

    latent: NDArray[np.float32]
    sketch: Codes | None = None
    anchors: AnchorCodes | None = None
    terms: Tensor | None = None


def make_query(record: Record) -> Query:
    """The query for a record.

    Raises:
        RegistryError: the record has no latent; records of the published recipe have none.
    """
    if record.latent is None:
        raise RegistryError("its record has no latent, which a search needs", model=record.model)
    if record.terms is None or record.anchors is None:
        return Query(record.latent)
    anchors = encode_anchors(record.anchors)
    return Query(record.latent, make_sketch(record.terms, anchors), anchors, record.terms)


@dataclass(frozen=True)
class Entry:
    """The public part of a measured model.

    Attributes:
        model: Hub id, or the last part of a path.
        revision: the commit, or None.
        recipe: digest of the recipe without the decoder, which changes nothing in an entry.
        base: the base that the model declares, or None.
        measured_at: UTC date, ISO 8601.
        measured_by: name of the person or machine that measured it, or "".
        latent: (512,) float32.
        sketch: (layers * 3, 1024) uint8, see `huref.registry.sketch`.
        anchors: code of each bucket's token, (m,) uint32; 0 for an empty bucket.
        signer: public key of who signed the entry, base64 of its DER, or "".
        signature: see `huref.registry.signing`, base64, or "".
    """

    model: str
    revision: str | None
    recipe: str
    base: str | None
    measured_at: str
    measured_by: str
    latent: NDArray[np.float32]
    sketch: Codes
    anchors: AnchorCodes
    signer: str = ""
    signature: str = ""

    @property
    def key(self) -> Key:
        """Model, revision and recipe, which identify an entry within a registry."""
        return self.model, self.revision or "", self.recipe

    @property
    def query(self) -> Query:
        """The query that searches for models similar to this entry."""
        return Query(self.latent, self.sketch, self.anchors)


def make_entry(record: Record, base: str | None = None, measured_by: str | None = None) -> Entry:
    """The entry of a record. Of local paths only the last part is kept.

    Where a local model is, is remembered on this machine, so that `identify` can read it.

    Args:
        record: with terms and latent.
        base: the base that the model declares.
        measured_by: see `Entry`; empty when None.

    Raises:
        RegistryError: the record has no terms; one from a picture has none.
    """
    if record.terms is None or record.anchors is None or record.latent is None:
        raise RegistryError(
            "a picture carries only the latent, but a registry entry needs the terms",
            model=record.model,
            advice="add the model's weights or its record",
        )
    anchors = encode_anchors(record.anchors)
    if record.revision is None:
        remember_place(record.recipe.digest, record.latent, record.model)
    return Entry(
        model=public_name(record),
        revision=record.revision,
        recipe=record.recipe.digest,
        base=None if base is None else public_path(base),
        measured_at=dt.datetime.now(dt.UTC).date().isoformat(),
        measured_by=measured_by or "",
        latent=np.asarray(record.latent, np.float32),
        sketch=make_sketch(record.terms, anchors),
        anchors=anchors,
    )
