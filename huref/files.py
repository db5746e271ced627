"""Files that appear whole or not at all, in folders that exist."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from huref.errors import HurefError


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary file beside `path`, which takes its place when the block ends without an error.

    It is removed when the block raises. Two processes writing one path do not meet.

    Raises:
        HurefError: the folder takes no files.
    """
    try:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    except OSError as error:  # which names the temporary file
        raise HurefError(f"{path}: cannot be written ({error.strerror})") from error
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)  # mkstemp's own mode hides the file from others
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def require_folder(*paths: Path | None) -> None:
    """Say now, not after minutes of work, that an output has nowhere to go.

    Raises:
        HurefError: the folder of one of the files does not exist, or is not the user's to write.
    """
    for path in paths:
        if path is None:
            continue
        if not path.parent.is_dir():
            raise HurefError(f"{path}: there is no folder '{path.parent}' to write to; create it")
        if not os.access(path.parent, os.W_OK):
            raise HurefError(f"{path}: you may not write to the folder '{path.parent}'")
