"""Files that ship with huref, in a wheel or in a source checkout, and the user's own folder."""

import os
from importlib import resources
from pathlib import Path

from safetensors import SafetensorError, safe_open

from huref.errors import CheckpointDigestError


def locate(name: str) -> Path:
    """The path of a shipped file such as "checkpoints/encoder.safetensors".

    Raises:
        CheckpointDigestError: the installation lacks it.
    """
    package = Path(str(resources.files("huref")))
    for root in (package / "_data", package.parent):
        if (root / name).is_file():
            return root / name
    raise CheckpointDigestError(f"'{name}' is missing from this installation; reinstall huref")


def home() -> Path:
    """Where huref keeps what the user gives it: $HUREF_HOME, or ~/.huref."""
    return Path(os.environ.get("HUREF_HOME") or "~/.huref").expanduser()


def user_cache() -> Path:
    """Where huref keeps what can be had again.

    $HUREF_HOME where it is set, else huref in $XDG_CACHE_HOME, or in ~/.cache.
    """
    if os.environ.get("HUREF_HOME"):
        return home()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "huref"


def imported_decoder(name: str) -> Path:
    """Where an imported decoder of that name is, or would be."""
    return home() / "decoders" / f"{name}.safetensors"


def read_metadata(path: Path) -> dict[str, str]:
    """The metadata strings of a safetensors file; its tensors are not read.

    Raises:
        CheckpointDigestError: the file cannot be read as safetensors.
    """
    try:
        with safe_open(path, framework="np") as file:
            return dict(file.metadata() or {})
    except (SafetensorError, OSError) as error:
        raise CheckpointDigestError(f"{path}: not a safetensors file ({error})") from error
