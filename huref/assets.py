"""Files that ship with huref: configs/ and checkpoints/, in a wheel or in a source checkout."""

from importlib import resources
from pathlib import Path

from safetensors import SafetensorError, safe_open

from huref.errors import CheckpointDigestError


def locate(name: str) -> Path:
    """The path of a shipped file such as "checkpoints/encoder.safetensors"."""
    package = Path(str(resources.files("huref")))
    for root in (package / "_data", package.parent):
        if (root / name).is_file():
            return root / name
    raise CheckpointDigestError(f"'{name}' is missing from this installation; reinstall huref")


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
