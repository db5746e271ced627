"""Paths of the files that ship with huref, and of the user's folders."""

import os
from functools import lru_cache
from importlib import resources
from pathlib import Path

from safetensors import SafetensorError, safe_open

from huref.errors import CheckpointDigestError

PASSAGES = "configs/passages.txt"  # separated by lines of "---"


def locate(name: str) -> Path:
    """The path of a shipped file such as "checkpoints/encoder.safetensors".

    It lies in the package of an installed wheel, or in the root of a source checkout.

    Raises:
        CheckpointDigestError: the installation lacks it.
    """
    package = Path(str(resources.files("huref")))
    for root in (package / "_data", package.parent):
        if (root / name).is_file():
            return root / name
    raise CheckpointDigestError(
        f"'{name}' is missing from this installation", advice="reinstall huref"
    )


@lru_cache(maxsize=1)
def passages() -> tuple[str, ...]:
    """The text on which models are run: English prose, code, other languages, figures."""
    text = locate(PASSAGES).read_text("utf-8")
    return tuple(part.strip("\n") for part in text.split("\n---\n"))


def home() -> Path:
    """The folder of files that the user gave to huref: $HUREF_HOME, or ~/.huref."""
    return Path(os.environ.get("HUREF_HOME") or "~/.huref").expanduser()


def user_cache() -> Path:
    """The folder of files that huref can recreate.

    $HUREF_HOME if it is set, otherwise $XDG_CACHE_HOME/huref or ~/.cache/huref.
    """
    if os.environ.get("HUREF_HOME"):
        return home()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "huref"


def imported_decoder(name: str) -> Path:
    """The path of an imported decoder; the file need not exist."""
    return home() / "decoders" / f"{name}.safetensors"


def read_metadata(path: Path) -> dict[str, str]:
    """The metadata of a safetensors file; its tensors are not read.

    Raises:
        CheckpointDigestError: the file cannot be read as safetensors.
    """
    try:
        with safe_open(path, framework="np") as file:
            return dict(file.metadata() or {})
    except (SafetensorError, OSError) as error:
        raise CheckpointDigestError(f"it is not a safetensors file ({error})", file=path) from error
