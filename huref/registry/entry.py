"""One measured model of a registry. Nothing in it needs to be kept private."""

import datetime as dt
import getpass
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from huref.errors import RegistryError
from huref.invariants.record import Record
from huref.registry.sketch import AnchorCodes, Codes, encode_anchors, make_sketch

Key = tuple[str, str, str]


@dataclass(frozen=True)
class Query:
    """What a registry is searched for.

    Attributes:
        latent: (512,) float32.
        sketch: as in `Entry`, or None where only a picture is at hand.
        anchors: likewise.
        terms: (layers, 3, m, m) of a model that was measured; against its own terms the others'
            sketches tell more than against its sketch.
    """

    latent: NDArray[np.float32]
    sketch: Codes | None = None
    anchors: AnchorCodes | None = None
    terms: Tensor | None = None


def make_query(record: Record) -> Query:
    """What a record can be searched by.

    Raises:
        RegistryError: the record has no latent, as one by the published recipe.
    """
    if record.latent is None:
        raise RegistryError(f"{record.model}: without a latent it cannot be looked up")
    if record.terms is None or record.anchors is None:
        return Query(record.latent)
    anchors = encode_anchors(record.anchors)
    return Query(record.latent, make_sketch(record.terms, anchors), anchors, record.terms)


@dataclass(frozen=True)
class Entry:
    """A measured model.

    Attributes:
        model: Hub id, or what the user called it.
        revision: the commit, or None.
        recipe: digest of the recipe; it leaves the decoder out, on which nothing here depends.
        base: the model that its card declares as its base, or None.
        measured_at: UTC date, ISO 8601.
        measured_by: who measured it.
        latent: (512,) float32.
        sketch: (layers * 3, 1024) uint8, see `huref.registry.sketch`.
        anchors: code of each bucket's token, (m,) uint32; 0 for an empty bucket.
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

    @property
    def key(self) -> Key:
        """What no two entries of a registry have in common."""
        return self.model, self.revision or "", self.recipe

    @property
    def query(self) -> Query:
        """The entry as something to look for."""
        return Query(self.latent, self.sketch, self.anchors)


def make_entry(record: Record, base: str | None = None, measured_by: str | None = None) -> Entry:
    """The public part of a record, for a registry.

    Args:
        record: with terms and latent; its model and revision become the entry's.
        base: the base that the model's card declares.
        measured_by: the user's login name when None.

    Raises:
        RegistryError: the record has no terms, as one from a picture.
    """
    if record.terms is None or record.anchors is None or record.latent is None:
        raise RegistryError(
            f"{record.model}: a picture carries only the latent, and a registry needs the sketch "
            "too; add the weights or a record"
        )
    anchors = encode_anchors(record.anchors)
    return Entry(
        model=record.model,
        revision=record.revision,
        recipe=record.recipe.digest,
        base=base,
        measured_at=dt.datetime.now(dt.UTC).date().isoformat(),
        measured_by=getpass.getuser() if measured_by is None else measured_by,
        latent=np.asarray(record.latent, np.float32),
        sketch=make_sketch(record.terms, anchors),
        anchors=anchors,
    )
