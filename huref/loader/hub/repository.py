"""Hub repositories at a commit: their files, and the base that their card declares."""

import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from huggingface_hub import (
    cached_assets_path,
    constants,
    snapshot_download,
    try_to_load_from_cache,
)
from huggingface_hub.errors import (
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
)
from huggingface_hub.utils import httpx, validate_repo_id

from huref.bounded_json import loads_object
from huref.errors import CheckpointError, ModelNotFoundError, NetworkError, locating
from huref.loader.hub.addresses import PORTAL
from huref.loader.hub.answers import body_of, opened, refuse_status
from huref.loader.hub.errors import explain
from huref.loader.hub.file import ATTEMPTS, BUSY, HubFile, wait
from huref.loader.hub.range_cache import CachedRanges
from huref.loader.hub.rate import retry_after
from huref.loader.ranges import ByteSource, LocalFile, Meter, is_plain_name
from huref.loader.repository import LocalFolder, Repository

LONGEST_NAME = 4096  # characters
_COMMIT = re.compile(r"[0-9a-f]{40}")
_PLAIN = re.compile(r"[0-9A-Za-z][0-9A-Za-z._-]{0,99}")
_SHA256 = re.compile(r"[0-9a-f]{64}")


class HubRepository:
    """A Hub repository at a commit. Files in the user's Hub cache are read from there.

    Attributes:
        sha256: digests of large files by name, as the Hub states them: its word, nothing that was
            read here. Empty unless the commit is pinned.
        canonical: the repository's current name on the Hub; `model` may differ in case or be a
            former name.
        declared_base: the first base model that the card names, or None.
        caches_headers: whether `open(..., cache=True)` caches on disk.
    """

    remote = True

    def __init__(
        self,
        repo: str,
        revision: str,
        files: dict[str, int],
        meter: Meter,
        chosen: str | None = None,
        canonical: str | None = None,
        declared_base: str | None = None,
        sha256: dict[str, str] | None = None,
    ):
        self.model = repo
        self.canonical = canonical or repo
        self.declared_base = declared_base
        self.caches_headers = True
        self.revision: str | None = revision
        self.files = files
        self.meter = meter
        self.chosen = chosen
        self._commit = revision
        self.sha256 = (sha256 or {}) if _COMMIT.fullmatch(revision) else {}
        self._opened: dict[str, ByteSource] = {}

    def open(self, name: str, cache: bool = False) -> ByteSource:
        """See Repository. The Hub's assets cache is used, by commit."""
        if not is_plain_name(name) or name not in self.files:
            raise CheckpointError(f"there is no file '{name}' in the repository", model=self.model)
        if name not in self._opened:
            self._opened[name] = self._open(name)
        source = self._opened[name]
        if not (cache and self.caches_headers) or isinstance(source, LocalFile):
            return source
        if not _COMMIT.fullmatch(self._commit) or not isinstance(source, HubFile):
            return source
        try:
            folder = cached_assets_path(
                "huref", self.model, self._commit, assets_dir=constants.HF_ASSETS_CACHE
            )
        except (OSError, ValueError):  # a read-only home: nothing is cached
            return source
        return CachedRanges(source, folder)

    def _open(self, name: str) -> ByteSource:
        cached = try_to_load_from_cache(self.model, name, revision=self._commit)
        if isinstance(cached, str):
            return LocalFile(Path(cached), name, self.meter)
        return HubFile(self.model, self._commit, name, self.files[name], self.meter)


def open_hub_repository(model: str, meter: Meter) -> Repository:
    """Resolve `org/name[/file][@revision]` to a commit and list its files.

    With HF_HUB_OFFLINE set, the snapshot in the user's Hub cache is opened instead.

    Raises:
        ModelNotFoundError: there is no such repository, revision or file, or the name is not valid.
        AccessError: the repository is gated.
        NetworkError: the Hub cannot be reached or stays busy, or HF_HUB_OFFLINE is set and there
            is no snapshot.
    """
    name, _, revision = model.partition("@")
    parts = name.split("/")
    repo, chosen = "/".join(parts[:2]), "/".join(parts[2:]) or None
    try:
        validate_repo_id(repo)
        if constants.HF_HUB_OFFLINE:  # before a request and a thread for it are made
            return _open_cached_snapshot(repo, revision or None, meter, chosen)
        with locating(model=repo):
            info = _parse_description(_fetch_description(repo, revision or None), revision)
    except OfflineModeIsEnabled:
        return _open_cached_snapshot(repo, revision or None, meter, chosen)
    except (HfHubHTTPError, HFValidationError, httpx.HTTPError, httpx.InvalidURL, OSError) as error:
        raise explain(error, repo) from error
    if chosen is not None and chosen not in info.files:
        raise ModelNotFoundError(f"there is no file '{chosen}' in the repository", model=repo)
    return HubRepository(
        repo,
        info.commit,
        info.files,
        meter,
        chosen,
        info.canonical,
        info.declared_base,
        info.sha256,
    )


@dataclass(frozen=True)
class Description:
    """The Hub's description of a repository; attributes as of HubRepository."""

    commit: str
    files: dict[str, int]
    canonical: str | None
    declared_base: str | None
    sha256: dict[str, str]


def _parse_description(text: bytes, revision: str) -> Description:
    """What the Hub says of a repository.

    Raises:
        NetworkError: it is something else, as the page of a captive portal, or another commit.
    """
    try:
        data = loads_object(text)
        siblings = data.get("siblings") or []
        files = {_text(item["rfilename"]): _size(item.get("size")) for item in siblings}
        stated = {item["rfilename"]: _stated_digest(item) for item in siblings}
        commit = _commit(data["sha"]) if data.get("sha") else revision or "main"
        canonical = data.get("id")
        canonical = None if canonical is None else _text(canonical)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        reason = "a field is missing" if isinstance(error, KeyError) else error
        raise NetworkError(
            f"the answer of {constants.ENDPOINT} describes no model ({reason})", advice=PORTAL
        ) from error
    if _COMMIT.fullmatch(revision) and commit != revision:
        raise NetworkError(
            f"the commit {revision} was asked for, and the Hub describes '{commit[:40]}'",
            advice=PORTAL,
        )
    digests = {name: digest for name, digest in stated.items() if digest is not None}
    base = _declared_base(data.get("cardData"))
    return Description(commit, files, canonical, base, digests)


def _stated_digest(item: dict[str, object]) -> str | None:
    """The SHA-256 of a file in Git LFS; None where the Hub states none that fits the file."""
    lfs = item.get("lfs")
    digest = lfs.get("sha256") if isinstance(lfs, dict) else None
    if not isinstance(lfs, dict) or lfs.get("size", item.get("size")) != item.get("size"):
        return None
    return digest if isinstance(digest, str) and _SHA256.fullmatch(digest) else None


def _text(value: object) -> str:
    if not isinstance(value, str) or not value or len(value) > LONGEST_NAME:
        raise ValueError("a name is no text")
    return value


def _commit(value: object) -> str:
    """The commit that a Hub states: it becomes a part of paths, also of the user's Hub cache."""
    if not isinstance(value, str) or not _PLAIN.fullmatch(value):
        raise ValueError("its commit is none")
    return value


def _size(value: object) -> int:
    if value is None:
        return 0
    if type(value) is not int or not 0 <= value < 2**60:
        raise ValueError("a file's size is not a number of bytes")
    return value


def _declared_base(card: object) -> str | None:
    base = card.get("base_model") if isinstance(card, dict) else None
    if isinstance(base, list):
        base = base[0] if base else None
    return base if isinstance(base, str) and base else None


def _fetch_description(repo: str, revision: str | None) -> bytes:
    """The Hub's answer about a repository; retried like reads of a file."""
    url = f"{constants.ENDPOINT}/api/models/{repo}"
    if revision is not None:
        url += f"/revision/{quote(revision, safe='')}"
    attempt = 0
    while True:
        try:
            with opened(f"{url}?blobs=true", {}) as response:
                refuse_status(response)
                return body_of(response)
        except HfHubHTTPError as error:
            if error.response.status_code not in BUSY or attempt == ATTEMPTS - 1:
                raise
            seconds = retry_after(error.response.headers)
        except httpx.TransportError as error:
            if isinstance(error, httpx.ConnectError) or attempt == ATTEMPTS - 1:
                raise
            seconds = None
        wait(attempt, seconds)
        attempt += 1


def _open_cached_snapshot(
    repo: str, revision: str | None, meter: Meter, chosen: str | None
) -> Repository:
    try:
        folder = Path(snapshot_download(repo, revision=revision, local_files_only=True))
    except (LocalEntryNotFoundError, HFValidationError) as error:
        raise NetworkError(
            "HF_HUB_OFFLINE is set and the model is not in the local Hub cache",
            model=repo,
            advice="unset it, or give a local folder",
        ) from error
    return LocalFolder(folder, repo, meter, revision=folder.name, chosen=chosen)
