"""Atomic writes of files, private files, and errors for disks that cannot be written."""

import errno
import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from huref.errors import DiskError, HurefError

FULL = (errno.ENOSPC, errno.EFBIG, errno.EDQUOT)  # full disk, file size limit, quota
DISK = (*FULL, errno.EIO)
PRIVATE = 0o600  # permissions of files that leak weights or answers


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
def replacing(path: Path, *, private: bool = False) -> Iterator[Path]:
    """A temporary file beside `path` that replaces it when the block ends without an error.

    It is removed when the block raises. Each process that writes `path` has its own temporary
    file. A link at `path` is replaced, not followed.

    Args:
        path: the file.
        private: whether only the owner may read it; otherwise the process's umask decides.

    Raises:
        HurefError: no file can be created in the folder.
        DiskError: the disk is full or broken.
    """
    # Some file systems limit a name to 255 bytes.
    temporary = path.with_name(f".{path.name[:60]}.{secrets.token_hex(4)}")
    try:
        os.close(create_new(temporary, PRIVATE if private else 0o666))
    except OSError as error:  # its own message has the temporary file's name
        raise HurefError(f"it cannot be written ({error.strerror})", file=path) from error
    try:
        with writing(path):
            yield temporary
        # A library may have replaced the file by one of its own.
        if private and stat.S_IMODE(temporary.stat().st_mode) != PRIVATE:
            temporary.chmod(PRIVATE)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def create_new(path: Path, mode: int = 0o666) -> int:
    """Create a file that does not exist, and return its descriptor; links are not followed.

    The kernel takes the umask off `mode`, so that it need not be read, which would change it for
    other threads for a moment.
    """
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0)
    return os.open(path, flags, mode)


def make_private(path: Path) -> None:
    """Create a file that only its owner may read, or take others' permissions off an own one."""
    try:
        os.close(create_new(path, PRIVATE))
    except FileExistsError:
        refuse_link(path)
        if stat.S_IMODE(path.stat().st_mode) & 0o077:
            path.chmod(PRIVATE)


def refuse_link(path: Path) -> None:
    """Raise HurefError for a symbolic link: writing through it would change another file."""
    if path.is_symlink():
        raise HurefError(
            "it is a symbolic link, which is not followed",
            file=path,
            advice="remove it if you did not make it",
        )


def as_path(name: str | os.PathLike[str]) -> Path:
    """A path with `~` and `~user` expanded; unchanged where there is no such user."""
    path = Path(name)
    try:
        return path.expanduser()
    except (RuntimeError, ValueError):  # such as "~nobody/x" and "~a\0"
        return path


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
