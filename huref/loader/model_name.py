"""From what a user calls a model to the repository of its files."""

import re
from pathlib import Path

from huref.errors import ModelNotFoundError
from huref.loader.ranges import Meter
from huref.loader.repository import LocalFolder, Repository

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*){0,9}(@[\w./-]+)?")


def open_repository(model: str, meter: Meter | None = None) -> Repository:
    """The repository behind a folder's or file's path, or a Hub id.

    A Hub id is `org/name`, with `@revision` where one is meant, and `org/name/file` for one file
    of a repository that holds several, as those with GGUF files do.

    Raises:
        ModelNotFoundError: neither a path nor a name that the Hub could know.
    """
    meter = meter or Meter()
    path = Path(model).expanduser()
    if path.is_dir() and model:  # no name at all is no name for the current folder
        return LocalFolder(path, model, meter)
    if path.is_file():
        return LocalFolder(path.parent, model, meter, chosen=path.name)
    if path.exists() or not _HUB_ID.fullmatch(model):
        raise ModelNotFoundError(
            "it is neither a file or folder here nor a Hub id",
            model=model,
            advice="give a model's folder or file, or org/name, or org/name@revision",
        )
    # The Hub's client takes half a second to import; a local model does not need it.
    from huref.loader.hub.repository import open_hub_repository

    return open_hub_repository(model, meter)
