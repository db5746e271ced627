"""Everything that can go wrong for a user: what happened, where, and what to do next.

The command line prints one of these as a single line on stderr and exits with code 1.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from os import PathLike, fspath
from typing import Any


class HurefError(Exception):
    """A failure that a user can understand and act on.

    Its message reads `model: file: tensor 'name': what; advice`, of which only `what` is always
    there. Each layer fills in what it knows: the code that reads a tensor its name, the code that
    opens a file the file, the code that opens a model the model (see `locating`). No layer reads
    another's sentence.

    Args:
        what: what happened, as a clause without a full stop.
        model: the model as the user called it.
        file: a file's path, or its name inside the model.
        tensor: a tensor's name.
        advice: what to do next, as a clause.
    """

    def __init__(
        self,
        what: str,
        *,
        model: str | None = None,
        file: str | PathLike[str] | None = None,
        tensor: str | None = None,
        advice: str | None = None,
    ):
        super().__init__(what)
        self.what = what
        self.model = model
        self.file = None if file is None else fspath(file)
        self.tensor = tensor
        self.advice = advice

    def __str__(self) -> str:
        place = []
        # A file that the user named is the model, and a path inside its folder begins with it.
        if self.model and not (self.file or "").startswith(self.model):
            place.append(self.model)
        if self.file:
            place.append(self.file)
        if self.tensor:
            place.append(f"tensor '{self.tensor}'")
        advice = f"; {self.advice}" if self.advice else ""
        return ": ".join([*place, self.what]) + advice

    def __reduce__(self) -> tuple[Any, ...]:
        """As keyword arguments: an error travels from a fleet's workers to the driver."""
        return _restore, (type(self), dict(self.__dict__))


def _restore(kind: type[HurefError], fields: dict[str, Any]) -> HurefError:
    error = kind(fields["what"])
    error.__dict__.update(fields)
    return error


@contextmanager
def locating(
    *,
    model: str | None = None,
    file: str | PathLike[str] | None = None,
    tensor: str | None = None,
) -> Iterator[None]:
    """Fill in where an error of the block happened, as far as it does not say so itself."""
    try:
        yield
    except HurefError as error:
        error.model = error.model or model
        error.file = error.file or (None if file is None else fspath(file))
        error.tensor = error.tensor or tensor
        raise


def one_line(message: object) -> str:
    """A message as one line that no terminal obeys: names in a damaged file may hold anything."""
    words = " ".join(str(message).split())
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in words
    )


class ModelNotFoundError(HurefError):
    """Nothing is there under the name that was given."""


class AccessError(HurefError):
    """The repository is there but this user may not read it."""


class NetworkError(HurefError):
    """The Hub did not answer, or the connection broke beyond retrying."""


class CheckpointError(HurefError):
    """A file of the model is missing, truncated, or contradicts itself."""


class UnsupportedModelError(HurefError):
    """The model is whole, but its architecture is not one that huref can read."""


class AnchorError(HurefError):
    """The vocabulary gives too few anchors, or two models share too few to be compared."""


class WeightsError(HurefError):
    """The weights hold values from which no fingerprint can be made."""


class RecipeError(HurefError):
    """Two fingerprints were made by different recipes, or a recipe is not valid."""


class RecordError(HurefError):
    """A record or a fingerprint picture cannot be read."""


class EditedError(RecordError):
    """A record or a fingerprint picture is not what it was when it was made."""


class CheckpointDigestError(HurefError):
    """An encoder or decoder checkpoint is not what its recipe says."""


class EndpointError(HurefError):
    """An endpoint answers something that cannot be used."""


class BudgetError(HurefError):
    """A measurement needs more requests than its budget allows, or nobody agreed to them."""


class SignatureError(HurefError):
    """A signature or baseline file of an endpoint cannot be read or does not fit."""


class AttackError(HurefError):
    """A function-preserving copy cannot be made of this model in this way."""


class DiskError(HurefError):
    """The disk takes no more of a file, or fails: it is full, a quota is met, it broke."""


class RegistryError(HurefError):
    """A registry is missing, damaged or full, or does not take what it was given."""


class FleetError(HurefError):
    """A list of models cannot be worked through, or not further."""


class EvidenceError(HurefError):
    """An attestation, a key, a signature or a bill of materials cannot be made or read."""
