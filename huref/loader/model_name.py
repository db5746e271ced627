"""Resolves the name that a user gives a model to the repository of its files."""

import re

from huref.errors import ModelNotFoundError
from huref.files import as_path
from huref.loader.ranges import Meter
from huref.loader.repository import LocalFolder, Repository

ADVICE = "give a model's folder or file, or org/name, or org/name@revision"
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*){0,9}(@[\w./-]+)?")


LONGEST_NAME = 4096  # bytes of a path, and of a part of it on most systems:
LONGEST_PART = 255


def require_name(model: str) -> None:
    """Check that the system can look a model's name up as a path.

    Raises:
        ModelNotFoundError: it is empty, too long, or holds a null character.
    """
    if not model:  # Path("") would be the current folder
        raise ModelNotFoundError("the model's name is empty ('')", advice=ADVICE)
    raw = model.encode("utf-8", "surrogateescape")
    longest = max(map(len, raw.split(b"/")))
    if b"\0" in raw or len(raw) > LONGEST_NAME or longest > LONGEST_PART:
        raise ModelNotFoundError(
            "it is neither a folder, nor a file, nor a Hub id", model=model[:80], advice=ADVICE
        )


def open_repository(model: str, meter: Meter | None = None) -> Repository:
    """The repository behind the path of a folder or file, or behind a Hub id.

    A Hub id is `org/name`, optionally with `@revision`. `org/name/file` names one file of a
    repository that holds several models, such as several GGUF files.

    Raises:
        ModelNotFoundError: the name is neither an existing path nor a valid Hub id.
    """
    require_name(model)
    meter = meter or Meter()
    path = as_path(model)
    if path.is_dir():
        return LocalFolder(path, model, meter)
    if path.is_file():
        return LocalFolder(path.parent, model, meter, chosen=path.name)
    if path.exists() or not _HUB_ID.fullmatch(model):
        raise ModelNotFoundError(
            "it is neither a folder, nor a file, nor a Hub id", model=model, advice=ADVICE
        )
    # Importing the Hub's client takes half a second; local models do not need it.
    from huref.loader.hub.repository import open_hub_repository

    return open_hub_repository(model, meter)
