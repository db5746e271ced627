"""Files of a Hub repository, read in ranges at one resolved commit."""

import time
from collections.abc import Iterator
from pathlib import Path

from huggingface_hub import HfApi, constants, hf_hub_url, snapshot_download, try_to_load_from_cache
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import build_hf_headers, get_session, hf_raise_for_status, httpx

from huref.errors import AccessError, CheckpointError, HurefError, ModelNotFoundError, NetworkError
from huref.loader.ranges import (
    ByteSource,
    LocalFile,
    Meter,
    is_plain_name,
    require_inside,
)
from huref.loader.repository import LocalFolder, Repository

ATTEMPTS = 6  # for one range: a busy server, or a connection that breaks half-way
LONGEST_WAIT = 60.0  # seconds, whatever a Retry-After asks for
BUSY = (429, 500, 502, 503, 504)


class HubFile:
    """One file of a Hub repository, at a commit."""

    merge_gap = 128 * 1024

    def __init__(self, repo: str, revision: str, name: str, size: int, meter: Meter):
        self.name = name
        self.size = size
        self._repo = repo
        self._meter = meter
        self._url = hf_hub_url(repo, name, revision=revision)

    def read(self, start: int, stop: int) -> bytearray:
        """See ByteSource. A connection that breaks half-way is taken up where it broke."""
        require_inside(self, start, stop)
        data = bytearray(stop - start)
        filled = 0
        for attempt in range(ATTEMPTS):
            try:
                for chunk in self._stream(start + filled, stop):
                    data[filled : filled + len(chunk)] = chunk
                    filled += len(chunk)
                    self._meter.count(len(chunk))
                return data
            except (httpx.TransportError, _BusyError) as error:
                if attempt == ATTEMPTS - 1:
                    raise NetworkError(
                        f"{self._repo}: reading '{self.name}' failed {ATTEMPTS} times, last with "
                        f"{error or type(error).__name__}; try again later"
                    ) from error
                asked = error.retry_after if isinstance(error, _BusyError) else None
                time.sleep(min(2.0**attempt / 2 if asked is None else asked, LONGEST_WAIT))
            except HfHubHTTPError as error:
                raise explain(error, self._repo) from error
        raise AssertionError("unreachable: the last attempt returns or raises")

    def _stream(self, start: int, stop: int) -> Iterator[bytes]:
        """Chunks of the bytes [start, stop), exactly, or an error."""
        if start == stop:
            return
        headers = build_hf_headers() | {
            "Range": f"bytes={start}-{stop - 1}",
            "Accept-Encoding": "identity",
        }
        with get_session().stream("GET", self._url, headers=headers) as response:
            if response.status_code in BUSY:
                raise _BusyError(response.status_code, response.headers.get("Retry-After"))
            hf_raise_for_status(response)
            if response.status_code != 206 and (start, stop) != (0, self.size):
                raise NetworkError(
                    f"{self._repo}: the server ignores range requests (status "
                    f"{response.status_code}), so '{self.name}' cannot be read in part"
                )
            self._meter.count(0, requests=1)
            missing = stop - start
            for chunk in response.iter_raw():
                yield chunk[:missing]
                missing -= len(chunk)
            if missing > 0:
                raise httpx.RemoteProtocolError(f"{missing} bytes too few")


class _BusyError(Exception):
    """The server asks to come back later."""

    def __init__(self, status: int, retry_after: str | None):
        super().__init__(f"status {status}")
        try:
            self.retry_after = float(retry_after) if retry_after else None
        except ValueError:  # an HTTP date; our own back-off will do
            self.retry_after = None


class HubRepository:
    """A Hub repository at one commit; files already in the user's cache are read from disk."""

    def __init__(self, repo: str, revision: str, files: dict[str, int]):
        self.model = repo
        self.revision: str | None = revision
        self.files = files
        self.meter = Meter()
        self._commit = revision

    def open(self, name: str) -> ByteSource:
        """See Repository."""
        if not is_plain_name(name) or name not in self.files:
            raise CheckpointError(f"{self.model}: there is no file '{name}' in the repository")
        cached = try_to_load_from_cache(self.model, name, revision=self._commit)
        if isinstance(cached, str):
            return LocalFile(Path(cached), name, self.meter)
        return HubFile(self.model, self._commit, name, self.files[name], self.meter)


def explain(error: Exception, repo: str) -> HurefError:
    """The user's view of what the Hub's client raised. Order matters: subclasses first."""
    page = f"{constants.ENDPOINT}/{repo}"
    if isinstance(error, GatedRepoError):
        return AccessError(
            f"{repo} is gated: ask for access at {page}, then run 'hf auth login' or set HF_TOKEN"
        )
    if isinstance(error, RevisionNotFoundError):
        return ModelNotFoundError(f"{repo} has no such revision; see {page}/tree/main")
    if isinstance(error, RepositoryNotFoundError):
        return ModelNotFoundError(
            f"there is no folder and no Hub repository '{repo}' (or it is private: run "
            "'hf auth login' or set HF_TOKEN)"
        )
    if isinstance(error, HFValidationError):
        return ModelNotFoundError(f"'{repo}' is neither a folder nor a valid Hub id")
    if isinstance(error, HfHubHTTPError):
        status = error.response.status_code
        return NetworkError(f"{repo}: the Hub answered with status {status}; try again later")
    return NetworkError(
        f"{repo}: the Hub at {constants.ENDPOINT} cannot be reached ({type(error).__name__}); "
        "check the connection, or give a local folder"
    )


def open_hub_repository(model: str) -> Repository:
    """Resolve `org/name` or `org/name@revision` to a commit, once, and list its files.

    With HF_HUB_OFFLINE set, a snapshot in the user's cache is opened instead.
    """
    repo, _, revision = model.partition("@")
    try:
        info = HfApi().model_info(repo, revision=revision or None, files_metadata=True)
    except OfflineModeIsEnabled:
        return _open_cached_snapshot(repo, revision or None)
    except (HfHubHTTPError, HFValidationError, httpx.HTTPError, OSError) as error:
        raise explain(error, repo) from error
    files = {s.rfilename: s.size or 0 for s in info.siblings or []}
    return HubRepository(repo, info.sha or revision or "main", files)


def _open_cached_snapshot(repo: str, revision: str | None) -> Repository:
    try:
        folder = Path(snapshot_download(repo, revision=revision, local_files_only=True))
    except (LocalEntryNotFoundError, HFValidationError) as error:
        raise NetworkError(
            f"HF_HUB_OFFLINE is set and '{repo}' is not in the local Hub cache; "
            "unset it, or give a local folder"
        ) from error
    return LocalFolder(folder, repo, revision=folder.name)
