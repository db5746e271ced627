"""Files that browsers send: fingerprint PNGs and records, in a private folder while a page runs."""

import contextlib
import os
import secrets
import shutil
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from filelock import FileLock, Timeout

from huref.assets import user_cache
from huref.errors import HurefError, ModelNotFoundError, RecordError
from huref.escape import printable
from huref.files import create_new
from huref.serve.settings import LARGEST_UPLOAD, MOST_UPLOADED

PREFIX = "upload:"
LONGEST_NAME = 120  # characters
LOCK = "lock"
PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
RECORD_HEAD = 1024 * 1024  # bytes; longer than the metadata of a record
FREE = 64 * 1024 * 1024  # bytes that an upload leaves on the disk
PATIENCE = 10.0  # seconds to wait for another page that starts


@dataclass(frozen=True)
class Upload:
    """A file that a browser sent, and what it was called there."""

    path: Path
    name: str


class Uploads:
    """The uploaded files of one running page.

    Records leak weights, so that only their owner can read the folder. It is removed when the page
    ends; that of a page that was killed is removed when the next one starts.

    Raises:
        HurefError: the folder cannot be made.
    """

    def __init__(self) -> None:
        above = user_cache() / "serve"
        self.folder = above / secrets.token_hex(8)
        self._lock = FileLock(self.folder / LOCK, timeout=0)
        try:
            self._make_folder(above)
        except OSError as error:
            raise HurefError(
                f"no folder for uploads can be made in it ({error.strerror})",
                file=user_cache(),
                advice="set HUREF_HOME to a folder that you may write",
            ) from error
        self._files: dict[str, Upload] = {}
        self._bytes = 0

    def _make_folder(self, above: Path) -> None:
        above.mkdir(parents=True, exist_ok=True, mode=0o700)
        # No page removes a folder that another one has made and not locked yet.
        with _starting(above):
            _remove_abandoned(above)
            self.folder.mkdir(mode=0o700)
            self._lock.acquire()

    async def save(self, name: str, chunks: AsyncIterator[bytes]) -> str:
        """Store a file and return the name by which it is asked for.

        Raises:
            RecordError: it is neither a fingerprint PNG nor a record.
            HurefError: it is too large, or the disk is full.
        """
        shown = printable(PurePosixPath(name.replace("\\", "/")).name)[:LONGEST_NAME] or "file"
        path = self.folder / f"{secrets.token_hex(16)}.part"
        size = 0
        try:
            with os.fdopen(create_new(path, 0o600), "wb") as file:
                async for chunk in chunks:
                    size += len(chunk)
                    self._require_room(shown, size)
                    file.write(chunk)
            kept = path.with_suffix(_suffix_of(path, shown))
            path.rename(kept)
        except OSError as error:
            raise HurefError(f"it cannot be stored ({error.strerror})", file=shown) from error
        finally:
            path.unlink(missing_ok=True)
        self._bytes += size
        key = PREFIX + kept.stem
        self._files[key] = Upload(kept, shown)
        return key

    def _require_room(self, name: str, size: int) -> None:
        if size > LARGEST_UPLOAD:
            limit = f"{LARGEST_UPLOAD >> 20} MB"
            raise HurefError(f"it is larger than {limit}", file=name, advice="give its folder")
        if self._bytes + size > MOST_UPLOADED:
            raise HurefError("this page holds too many files", file=name, advice="start it again")
        if shutil.disk_usage(self.folder).free < FREE:
            raise HurefError("the disk is full", file=name, advice="free some space")

    def find(self, key: str) -> Upload:
        """The file of a name that `save` returned.

        Raises:
            ModelNotFoundError: there is none, as after the page was started again.
        """
        if key not in self._files:
            raise ModelNotFoundError("this page has no such file", model=key, advice="add it again")
        return self._files[key]

    def close(self) -> None:
        """Remove all files."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self._lock.release()


def _suffix_of(path: Path, name: str) -> str:
    with path.open("rb") as file:
        head = file.read(RECORD_HEAD)
    if head.startswith(PNG_MAGIC):
        return ".png"
    if b'"recipe"' in head:
        return ".safetensors"
    raise RecordError(
        "it is neither a fingerprint picture nor a record",
        file=name,
        advice="name a model by its Hub id or its folder",
    )


@contextlib.contextmanager
def _starting(above: Path) -> Iterator[None]:
    """A block that one page at a time runs."""
    try:
        with FileLock(above / LOCK, timeout=PATIENCE):
            yield
    except Timeout as error:
        raise HurefError("another page has been starting for long", file=above) from error


def _remove_abandoned(above: Path) -> None:
    """Remove the folders of pages that no longer run: nobody holds their locks."""
    for folder in above.iterdir():
        with contextlib.suppress(OSError, Timeout):
            if folder.is_dir() and not folder.is_symlink():
                with FileLock(folder / LOCK, timeout=0):
                    shutil.rmtree(folder, ignore_errors=True)
