"""Files that appear whole or not at all, in folders that exist."""

import errno
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from huref.errors import DiskError, HurefError

FULL = (errno.ENOSPC, errno.EFBIG, errno.EDQUOT)  # the disk, a file's largest size, a quota
DISK = (*FULL, errno.EIO)  # or the disk broke


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Raise a DiskError that names `path` where the disk is full or fails in the block."""
    try:
        yield
    except SafetensorError as error:  # in writing there is no other
        raise DiskError(f"{path}: cannot be written ({error})") from error
    except OSError as error:
        if error.errno not in DISK:
            raise
        raise DiskError(f"{path}: cannot be written ({error.strerror})") from error


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary file beside `path`, which takes its place when the block ends without an error.

    It is removed when the block raises. Two processes writing one path do not meet.

    Raises:
        HurefError: the folder takes no files.
        DiskError: the disk is full.
    """
    try:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    except OSError as error:  # which names the temporary file
        raise HurefError(f"{path}: cannot be written ({error.strerror})") from error
    os.close(handle)
    temporary = Path(name)
    try:
        with writing(path):
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
