"""Everything that can go wrong for a user: what happened, where, and what to do next.

The command line prints one of these as a single line on stderr and exits with code 1.
"""


class HurefError(Exception):
    """A failure that a user can understand and act on."""


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
