"""Atomic writes of files, and errors for disks and folders that cannot be written."""

import errno
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from huref.errors import DiskError, HurefError

FULL = (errno.ENOSPC, errno.EFBIG, errno.EDQUOT)  # full disk, file size limit, quota
DISK = (*FULL, errno.EIO)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn errors of a full or broken disk in the block into a DiskError for `path`."""
    try:
        yield
    except SafetensorError as error:  # safetensors wraps the OSError of a failed write
        raise DiskError(f"it cannot be written ({error})", file=path) from error
    except OSError as error:
        if error.errno not in DISK:
            raise
        raise DiskError(f"it cannot be written ({error.strerror})", file=path) from error


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary file beside `path` that replaces it when the block ends without an error.

    It is removed when the block raises. Each process that writes `path` has its own temporary
    file.

    Raises:
        HurefError: no file can be created in the folder.
        DiskError: the disk is full or broken.
    """
    try:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    except OSError as error:  # its own message has the temporary file's name
        raise HurefError(f"it cannot be written ({error.strerror})", file=path) from error
    os.close(handle)
    temporary = Path(name)
    try:
        with writing(path):
            yield temporary
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)  # mkstemp makes the file readable by its owner only
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def require_folder(*paths: Path | None) -> None:
    """Check that output files can be written, before minutes of work are spent.

    Raises:
        HurefError: the folder of one of the files does not exist or is not writable.
    """
    for path in paths:
        if path is None:
            continue
        if not path.parent.is_dir():
            raise HurefError(f"there is no folder '{path.parent}'", file=path, advice="create it")
        if not os.access(path.parent, os.W_OK):
            raise HurefError(f"the folder '{path.parent}' is not writable", file=path)
