"""Errors that a user can act on: what happened, where, and what to do next.

The command line prints one as a single line on stderr and exits with code 1.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from os import PathLike, fspath
from typing import Any

from huref.escape import terminal

# Advice where a file may have been damaged in transfer.
DOWNLOAD_AGAIN = "download the file again"
LONGEST_LINE = 2000  # characters of a message


class HurefError(Exception):
    """Base class of all errors that are reported to the user.

    The message reads `model: file: tensor 'name': what; advice`; only `what` is required. Each
    layer sets the fields that it knows: code that reads a tensor sets `tensor`, code that opens a
    file sets `file`, code that opens a model sets `model` (see `locating`). Code that needs these
    values reads the fields and never parses the message.

    Args:
        what: what happened, as a clause without a full stop.
        model: the model's name as the user gave it.
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
        # A model may be a single file, and a file's path may begin with the model's folder:
        # neither part is printed twice.
        if self.model and not _begins_with(self.file, self.model):
            place.append(self.model)
        if self.file and not _ends_with(self.model, self.file):
            place.append(self.file)
        if self.tensor:
            place.append(f"tensor '{self.tensor}'")
        advice = f"; {self.advice}" if self.advice else ""
        return ": ".join([*place, self.what]) + advice

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle all fields: a fleet's workers send errors to the driver."""
        return _restore, (type(self), dict(self.__dict__))


def _restore(kind: type[HurefError], fields: dict[str, Any]) -> HurefError:
    error = kind(fields["what"])
    error.__dict__.update(fields)
    return error


def _begins_with(path: str | None, folder: str) -> bool:
    return path is not None and (path == folder or path.startswith(folder.rstrip("/") + "/"))


def _ends_with(path: str | None, name: str) -> bool:
    return path is not None and path.endswith("/" + name)


@contextmanager
def locating(
    *,
    model: str | None = None,
    file: str | PathLike[str] | None = None,
    tensor: str | None = None,
    advice: str | None = None,
) -> Iterator[None]:
    """Set the fields that a HurefError raised in the block leaves empty."""
    try:
        yield
    except HurefError as error:
        error.model = error.model or model
        error.file = error.file or (None if file is None else fspath(file))
        error.tensor = error.tensor or tensor
        error.advice = error.advice or advice
        raise


def one_line(message: object) -> str:
    """A message as one line of at most LONGEST_LINE characters, without control characters.

    Names in a damaged file may hold terminal escape sequences.
    """
    words = terminal(" ".join(str(message)[: 4 * LONGEST_LINE].split()))
    return words if len(words) <= LONGEST_LINE else words[: LONGEST_LINE - 3] + "..."


class ModelNotFoundError(HurefError):
    """No model exists under the given name."""


class AccessError(HurefError):
    """The repository exists, but this user may not read it."""


class NetworkError(HurefError):
    """The Hub did not answer, or the connection broke more often than it is retried."""


class CheckpointError(HurefError):
    """A file of the model is missing, truncated or inconsistent."""


class BudgetExceededError(CheckpointError):
    """Reading a file would cost more memory or time than its size justifies."""


class UnsupportedModelError(HurefError):
    """The model is complete, but huref does not support its architecture."""


class AnchorError(HurefError):
    """The vocabulary has too few anchors, or two models share too few to be compared."""


class WeightsError(HurefError):
    """No fingerprint can be computed from the weights' values, such as NaN."""


class RecipeError(HurefError):
    """Two fingerprints have different recipes, or a recipe is not valid."""


class RecordError(HurefError):
    """A record or a fingerprint picture cannot be read."""


class EditedError(RecordError):
    """A record or a fingerprint picture is not what it was when it was made."""


class CheckpointDigestError(HurefError):
    """An encoder or decoder checkpoint is not the one that the recipe names."""


class EndpointError(HurefError):
    """An endpoint's answer cannot be used."""


class BudgetError(HurefError):
    """A measurement needs more requests than its budget allows or the user confirmed."""


class SignatureError(HurefError):
    """An endpoint's signature or baseline file cannot be read or belongs to another endpoint."""


class AttackError(HurefError):
    """The attack cannot be applied to this model."""


class DiskError(HurefError):
    """A file cannot be written: the disk is full or broken, or a quota is reached."""


class RegistryError(HurefError):
    """A registry is missing, damaged or full, or refuses an entry."""


class FleetError(HurefError):
    """A list of models cannot be processed, or processing stopped early."""


class EvidenceError(HurefError):
    """An attestation, a key, a signature or a bill of materials cannot be made or read."""
