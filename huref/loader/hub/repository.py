"""Hub repositories at a commit: their files, and the base that their card declares."""

import re
from pathlib import Path

from huggingface_hub import (
    HfApi,
    ModelInfo,
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
from huggingface_hub.utils import httpx

from huref.errors import CheckpointError, ModelNotFoundError, NetworkError
from huref.loader.hub.errors import explain
from huref.loader.hub.file import ATTEMPTS, BUSY, STALLED, HubFile, wait
from huref.loader.hub.range_cache import CachedRanges
from huref.loader.hub.rate import limited_session, retry_after
from huref.loader.ranges import ByteSource, LocalFile, Meter, is_plain_name
from huref.loader.repository import LocalFolder, Repository


class HubRepository:
    """A Hub repository at a commit. Files in the user's Hub cache are read from there.

    Attributes:
        canonical: the repository's current name on the Hub; `model` may differ in case or be a
            former name.
        declared_base: the first base model that the card names, or None.
        caches_headers: whether `open(..., cache=True)` caches on disk.
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
        self.caches_headers = True
        self.revision: str | None = revision
        self.files = files
        self.meter = meter
        self.chosen = chosen
        self._commit = revision
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
        if not re.fullmatch(r"[0-9a-f]{40}", self._commit):
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
        info = _fetch_info(repo, revision or None)
    except OfflineModeIsEnabled:
        return _open_cached_snapshot(repo, revision or None, meter, chosen)
    except (HfHubHTTPError, HFValidationError, httpx.HTTPError, OSError) as error:
        raise explain(error, repo) from error
    files = {s.rfilename: s.size or 0 for s in info.siblings or []}
    if chosen is not None and chosen not in files:
        raise ModelNotFoundError(f"there is no file '{chosen}' in the repository", model=repo)
    commit = info.sha or revision or "main"
    return HubRepository(repo, commit, files, meter, chosen, info.id, _declared_base(info))


def _declared_base(info: ModelInfo) -> str | None:
    base = info.card_data.base_model if info.card_data else None
    if isinstance(base, list):
        base = base[0] if base else None
    return base if isinstance(base, str) and base else None


def _fetch_info(repo: str, revision: str | None) -> ModelInfo:
    """The Hub's description of a repository; retried like reads of a file."""
    attempt = 0
    while True:
        limited_session()  # makes the Hub's client use the rate limiter
        try:
            return HfApi().model_info(repo, revision=revision, files_metadata=True, timeout=STALLED)
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
