"""Where `huref identify` looks for known bases, and how a user gets some."""

from pathlib import Path

from huref.errors import RegistryError
from huref.registry.store import default_uri


def find_known(uri: str | None) -> str:
    """The registry that a user names, or the default one.

    Raises:
        RegistryError: none is named, and there is no default one yet.
    """
    if uri is not None:
        return uri
    default = default_uri()
    if not Path(default).is_dir():
        raise RegistryError(
            f"there are no known bases at {default}; give --registry URI, or fetch a published "
            "list: huref registry pull URL, or measure bases that you have: huref registry init "
            f"{default}, then huref registry add {default} MODEL"
        )
    return default
