"""A Hub repository at one resolved commit: its files, and what its card declares."""

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
from huref.loader.hub.rate import limited_session, seconds_asked
from huref.loader.hub.remembered import RememberedFile
from huref.loader.ranges import ByteSource, LocalFile, Meter, is_plain_name
from huref.loader.repository import LocalFolder, Repository


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


def open_hub_repository(model: str, meter: Meter) -> Repository:
    """Resolve `org/name[/file][@revision]` to a commit, once, and list its files.

    With HF_HUB_OFFLINE set, a snapshot in the user's cache is opened instead.

    Raises:
        ModelNotFoundError: no such repository, revision or file, or no valid name of one.
        AccessError: it is gated.
        NetworkError: the Hub cannot be reached, or stays busy; or offline, no snapshot is kept.
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
        wait(attempt, asked)
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
