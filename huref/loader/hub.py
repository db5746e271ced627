"""Files of a Hub repository, read in ranges at one resolved commit."""

import re
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urljoin, urlsplit

from huggingface_hub import (
    HfApi,
    ModelInfo,
    cached_assets_path,
    constants,
    hf_hub_url,
    snapshot_download,
    try_to_load_from_cache,
)
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import build_hf_headers, hf_raise_for_status, httpx

from huref.errors import AccessError, CheckpointError, HurefError, ModelNotFoundError, NetworkError
from huref.loader.ranges import ByteSource, LocalFile, Meter, is_plain_name
from huref.loader.rate import limited_session, seconds_asked
from huref.loader.remembered import RememberedFile
from huref.loader.repository import LocalFolder, Repository

ATTEMPTS = 6  # for one range: a busy server, or a connection that breaks half-way
LONGEST_WAIT = 60.0  # seconds, whatever a Retry-After asks for
STALLED = 30.0  # seconds without a byte after which a connection counts as broken
BUSY = (429, 500, 502, 503, 504)
REDIRECTS = (301, 302, 303, 307, 308)
MOST_REDIRECTS = 5


class HubFile(ByteSource):
    """One file of a Hub repository, at a commit.

    The Hub redirects to where the bytes lie. The redirect is followed once and kept for the
    ranges that follow, and the user's token goes to the Hub alone.
    """

    merge_gap = 128 * 1024

    def __init__(self, repo: str, revision: str, name: str, size: int, meter: Meter):
        self.name = name
        self.size = size
        self._repo = repo
        self._meter = meter
        self._url = hf_hub_url(repo, name, revision=revision)
        self._direct: str | None = None  # where the Hub redirected to, once known

    def read_into(self, start: int, view: memoryview) -> None:
        """See ByteSource. A connection that breaks half-way is taken up where it broke."""
        filled = 0
        for attempt in range(ATTEMPTS):
            try:
                for chunk in self._stream(start + filled, start + len(view)):
                    view[filled : filled + len(chunk)] = chunk
                    filled += len(chunk)
                    self._meter.count(len(chunk))
                return
            except (httpx.TransportError, _BusyError) as error:
                if attempt == ATTEMPTS - 1:
                    raise NetworkError(
                        f"{self._repo}: reading '{self.name}' failed {ATTEMPTS} times, last with "
                        f"{error or type(error).__name__}; try again later"
                    ) from error
                _wait(attempt, error.retry_after if isinstance(error, _BusyError) else None)
            except HfHubHTTPError as error:
                raise explain(error, self._repo) from error

    def _stream(self, start: int, stop: int) -> Iterator[bytes]:
        """Chunks of the bytes [start, stop), exactly, or an error."""
        wanted = {"Range": f"bytes={start}-{stop - 1}", "Accept-Encoding": "identity"}
        timeout = httpx.Timeout(max(STALLED, constants.HF_HUB_DOWNLOAD_TIMEOUT))
        url, direct = self._direct or self._url, self._direct
        for _ in range(MOST_REDIRECTS):
            token = build_hf_headers() if _origin(url) == _origin(self._url) else {}
            with limited_session().stream(
                "GET", url, headers=wanted | token, follow_redirects=False, timeout=timeout
            ) as response:
                status, location = response.status_code, response.headers.get("Location")
                if status in REDIRECTS and location:
                    url = urljoin(url, location)
                    continue
                if status in BUSY:
                    raise _BusyError(status, seconds_asked(response.headers))
                if direct and url == direct and 400 <= status < 500:
                    self._direct, direct = None, None  # such addresses expire after a while
                    url = self._url
                    continue
                hf_raise_for_status(response)
                if status != 206 and (start, stop) != (0, self.size):
                    raise NetworkError(
                        f"{self._repo}: the server ignores range requests (status {status}), so "
                        f"'{self.name}' cannot be read in part"
                    )
                if url != self._url:
                    self._direct = url
                self._meter.count(0, requests=1)
                yield from _exactly(stop - start, response)
                return
        raise NetworkError(f"{self._repo}: '{self.name}' is redirected in circles")


def _exactly(missing: int, response: "httpx.Response") -> Iterator[bytes]:
    for chunk in response.iter_raw():
        yield chunk[:missing]
        missing -= len(chunk)
        if missing <= 0:
            return
    raise httpx.RemoteProtocolError(f"{missing} bytes too few")


def _origin(url: str) -> tuple[str, str]:
    parts = urlsplit(url)
    return parts.scheme, parts.netloc


class _BusyError(Exception):
    """The server asks to come back later."""

    def __init__(self, status: int, retry_after: float | None):
        super().__init__(f"status {status}")
        self.retry_after = retry_after


def _wait(attempt: int, asked: float | None) -> None:
    """Sleep before the next attempt: as long as the server asks, or ever longer."""
    time.sleep(min(2.0**attempt / 2 if asked is None else asked, LONGEST_WAIT))


class HubRepository:
    """A Hub repository at one commit; files already in the user's cache are read from disk.

    Attributes:
        canonical: the name that the Hub gives it, whatever its case or former name was.
        declared_base: the first base model that its card names, or None.
        remembers: whether headers and small files are kept for the next time.
    """

    def __init__(
        self,
        repo: str,
        revision: str,
        files: dict[str, int],
        meter: Meter,
        chosen: str | None = None,
        canonical: str | None = None,
        declared_base: str | None = None,
    ):
        self.model = repo
        self.canonical = canonical or repo
        self.declared_base = declared_base
        self.remembers = True
        self.revision: str | None = revision
        self.files = files
        self.meter = meter
        self.chosen = chosen
        self._commit = revision
        self._opened: dict[str, ByteSource] = {}

    def open(self, name: str, remember: bool = False) -> ByteSource:
        """See Repository. What is remembered lies in the Hub's assets cache, by commit."""
        if not is_plain_name(name) or name not in self.files:
            raise CheckpointError(f"{self.model}: there is no file '{name}' in the repository")
        if name not in self._opened:
            self._opened[name] = self._open(name)
        source = self._opened[name]
        if not (remember and self.remembers) or isinstance(source, LocalFile):
            return source
        if not re.fullmatch(r"[0-9a-f]{40}", self._commit):
            return source
        try:
            folder = cached_assets_path(
                "huref", self.model, self._commit, assets_dir=constants.HF_ASSETS_CACHE
            )
        except (OSError, ValueError):  # a read-only home: everything is fetched each time
            return source
        return RememberedFile(source, folder)

    def _open(self, name: str) -> ByteSource:
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


def open_hub_repository(model: str, meter: Meter) -> Repository:
    """Resolve `org/name[/file][@revision]` to a commit, once, and list its files.

    With HF_HUB_OFFLINE set, a snapshot in the user's cache is opened instead.
    """
    name, _, revision = model.partition("@")
    parts = name.split("/")
    repo, chosen = "/".join(parts[:2]), "/".join(parts[2:]) or None
    try:
        info = _ask(repo, revision or None)
    except OfflineModeIsEnabled:
        return _open_cached_snapshot(repo, revision or None, meter, chosen)
    except (HfHubHTTPError, HFValidationError, httpx.HTTPError, OSError) as error:
        raise explain(error, repo) from error
    files = {s.rfilename: s.size or 0 for s in info.siblings or []}
    if chosen is not None and chosen not in files:
        raise ModelNotFoundError(f"{repo}: there is no file '{chosen}' in the repository")
    commit = info.sha or revision or "main"
    return HubRepository(repo, commit, files, meter, chosen, info.id, _declared_base(info))


def _declared_base(info: ModelInfo) -> str | None:
    named = info.card_data.base_model if info.card_data else None
    if isinstance(named, list):
        named = named[0] if named else None
    return named if isinstance(named, str) and named else None


def _ask(repo: str, revision: str | None) -> ModelInfo:
    """The Hub's description of a repository; a busy Hub is asked again, like for a file."""
    attempt = 0
    while True:
        limited_session()  # which the Hub's client uses, too
        try:
            return HfApi().model_info(repo, revision=revision, files_metadata=True, timeout=STALLED)
        except HfHubHTTPError as error:
            if error.response.status_code not in BUSY or attempt == ATTEMPTS - 1:
                raise
            asked = seconds_asked(error.response.headers)
        except httpx.TransportError as error:
            if isinstance(error, httpx.ConnectError) or attempt == ATTEMPTS - 1:
                raise
            asked = None
        _wait(attempt, asked)
        attempt += 1


def _open_cached_snapshot(
    repo: str, revision: str | None, meter: Meter, chosen: str | None
) -> Repository:
    try:
        folder = Path(snapshot_download(repo, revision=revision, local_files_only=True))
    except (LocalEntryNotFoundError, HFValidationError) as error:
        raise NetworkError(
            f"HF_HUB_OFFLINE is set and '{repo}' is not in the local Hub cache; "
            "unset it, or give a local folder"
        ) from error
    return LocalFolder(folder, repo, meter, revision=folder.name, chosen=chosen)
