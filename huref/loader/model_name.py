"""Resolves the name that a user gives a model to the repository of its files."""

import re
from pathlib import Path
from urllib.parse import unquote

from huref.errors import ModelNotFoundError
from huref.files import as_path
from huref.loader.look_around import WEIGHT_ENDINGS
from huref.loader.ollama import (
    find_manifest,
    is_manifest,
    is_store,
    model_of_manifest,
    only_manifest,
    store_of_user,
)
from huref.loader.ranges import Meter
from huref.loader.repository import LocalFolder, Repository
from huref.loader.typed_names import is_companion, plain_name, refuse_address

ADVICE = "give a model's folder or file, or org/name, or org/name@revision"
_PART = r"[A-Za-z0-9][\w.-]*"
_HUB_ID = re.compile(rf"{_PART}(/{_PART}){{0,9}}(@[\w./-]+)?")
_TAGGED = re.compile(rf"(?P<repo>{_PART}/{_PART}):(?P<tag>[\w.-]{{1,60}})")
_PAGE = re.compile(
    r"(?:(?:https?://)?(?:www\.)?(?:huggingface\.co|hf\.co|hf-mirror\.com)/|hf://)(?P<path>[^?#]*)",
    re.IGNORECASE,
)
_PAGES = ("tree", "blob", "resolve", "raw", "commit", "commits")  # of a repository, by revision
_OTHER_PAGES = ("discussions", "settings", "edit", "upload", "pulls")
_NOT_MODELS = {
    "datasets": "a data set", "spaces": "a Space", "collections": "a collection",
    "papers": "a paper", "docs": "documentation", "blog": "a blog post",
}  # fmt: skip
_OLLAMA_PAGE = re.compile(
    r"https?://(?:www\.)?ollama\.com/(?:library/)?(?P<name>[\w./:-]+?)(?:/(?:tags|blobs/\w+))?/?"
)
_COMMIT = re.compile(r"[\w.-]{1,100}")
_MODELS_FOLDER = re.compile(r"models--(?P<repo>.+)")
_OLLAMA = "ollama:"


LONGEST_NAME = 4096  # bytes of a path, and of a part of it on most systems:
LONGEST_PART = 255


def require_name(model: str) -> None:
    """Check that the system can look a model's name up as a path.

    Raises:
        ModelNotFoundError: it is empty, too long, or holds a null character.
    """
    if not model:  # Path("") would be the current folder
        raise ModelNotFoundError("the model's name is empty ('')", advice=ADVICE)
    raw = model.encode("utf-8", "surrogateescape")
    longest = max(map(len, raw.split(b"/")))
    if b"\0" in raw or len(raw) > LONGEST_NAME or longest > LONGEST_PART:
        raise ModelNotFoundError(
            "it is neither a folder, nor a file, nor a Hub id", model=model[:80], advice=ADVICE
        )


def open_repository(model: str, meter: Meter | None = None) -> Repository:
    """The repository behind a path, a Hub id, a page of the Hub or a model of Ollama's store.

    A Hub id is `org/name`, optionally with `@revision`. `org/name/file` names one file of a
    repository that holds several models, such as several GGUF files, and `org/name:Q4_K_M` the
    GGUF file of that quantisation. `ollama:NAME` is a model that Ollama has pulled.

    Raises:
        ModelNotFoundError: the name is neither an existing path nor a valid Hub id.
        CheckpointError: the folder is a store of several models.
    """
    model = model.strip()
    require_name(model)
    meter = meter or Meter()
    if not _exists(as_path(model)):
        model = plain_name(model)
        require_name(model)
        if "\\" in model and _exists(as_path(model.replace("\\", "/"))):
            model = model.replace("\\", "/")
    if model.startswith(_OLLAMA):
        manifest = find_manifest(store_of_user(), model.removeprefix(_OLLAMA), model)
        return _open_manifest(manifest, model, meter)
    if match := _OLLAMA_PAGE.fullmatch(model):
        return open_repository(_OLLAMA + match["name"], meter)
    path = _local_path(model)
    if _is_dir(path):
        return _open_folder(path, model, meter)
    if _is_file(path):
        if is_manifest(path):
            return _open_manifest(path, model, meter)
        if is_companion(path.name):
            return _open_folder(path.parent, str(path.parent), meter)
        return LocalFolder(path.parent, model, meter, chosen=path.name)
    tag = ""
    if match := re.fullmatch(r"(?P<folder>.+):(?P<tag>[\w.-]{1,60})", model):
        folder = as_path(match["folder"])
        if _is_dir(folder):
            local = _open_folder(folder, model, meter)
            return LocalFolder(folder, model, meter, chosen=choose_tag(local, match["tag"]))
    page = hub_id_of_page(model)
    name = page or model
    if page is None:
        refuse_address(model)
    if match := _TAGGED.fullmatch(name):
        name, tag = match["repo"], match["tag"]
    if "/" not in name and name.lower().endswith(WEIGHT_ENDINGS):
        raise ModelNotFoundError("there is no such file", model=model, advice=ADVICE)
    if _exists(path) or not _HUB_ID.fullmatch(name):
        is_of_ollama = re.fullmatch(r"[\w.-]+:[\w.-]+", name) is not None
        raise ModelNotFoundError(
            "it is neither a folder, nor a file, nor a Hub id",
            model=model,
            advice=f"give ollama:{name} for a model that Ollama has pulled"
            if is_of_ollama
            else ADVICE,
        )
    # Importing the Hub's client takes half a second; local models do not need it.
    from huref.loader.hub.repository import open_hub_repository

    repository = open_hub_repository(name, meter)
    if tag:
        repository.chosen = choose_tag(repository, tag)
    return repository


def _local_path(model: str) -> Path:
    """The path that a name may be; that of a file's address may have its spaces quoted."""
    match = re.fullmatch(r"file:(?://(?:localhost)?)?(?P<path>/.*)", model, re.IGNORECASE)
    if match is None:
        return as_path(model)
    path = as_path(match["path"])
    return path if _exists(path) else as_path(unquote(match["path"]))


def hub_id_of_page(name: str) -> str | None:
    """The Hub id, with revision and file, of a pasted address; None for any other name.

    Raises:
        ModelNotFoundError: the page is not that of a model.
    """
    match = _PAGE.fullmatch(name.partition("?")[0].partition("#")[0])
    if match is None:
        return None
    parts = [part for part in match["path"].split("/") if part]
    for beside in ("api", "models"):
        if parts[:1] == [beside] and len(parts) > 2:
            del parts[0]
    kind = _NOT_MODELS.get(parts[0]) if parts else None
    if kind is not None or len(parts) < 2:
        raise ModelNotFoundError(
            f"it is the address of {kind or 'no model'} on the Hub", model=name, advice=ADVICE
        )
    parts[1] = parts[1].removesuffix(".git")
    repo, rest = "/".join(parts[:2]), parts[2:]
    if len(rest) >= 2 and rest[0] in _PAGES:
        # A revision may hold a slash ("refs/pr/1"), which only the Hub's own pages leave unquoted.
        length = 4 if rest[1] == "refs" else 2
        revision = "/".join(rest[1:length]).replace("%2F", "/")
        file = "/".join(rest[length:])
        file = file if file.lower().endswith(WEIGHT_ENDINGS) else ""  # a page beside the weights
        at = "" if revision == "main" else f"@{revision}"
        return f"{repo}/{file}{at}" if file else repo + at
    if rest and (rest[0] in _OTHER_PAGES or rest[0] in _PAGES):
        return repo
    return "/".join(parts)


def choose_tag(repository: Repository, tag: str) -> str:
    """The GGUF file of one quantisation, as `Q4_K_M`.

    Raises:
        ModelNotFoundError: no file of the repository has it in its name, or several do.
    """
    files = [name for name in sorted(repository.files) if name.lower().endswith(".gguf")]
    files = [name for name in files if "mmproj" not in name.lower()]
    wanted = re.compile(rf"(?<![a-z0-9]){re.escape(tag.lower())}(?![a-z0-9_])")
    if tag.lower() == "latest":
        from huref.loader.sources.gguf import find_gguf

        if (found := find_gguf(repository)) is not None:
            return found
    fitting = [name for name in files if wanted.search(name.lower())]
    firsts = [n for n in fitting if not re.search(r"-of-\d{5}", n) or "-00001-of-" in n]
    if len(firsts) != 1:
        named = ", ".join(files[:8]) or "no GGUF files"
        place = repository.model.removesuffix(f":{tag}")
        raise ModelNotFoundError(
            f"{len(firsts) or 'none'} of its GGUF files {'are' if firsts else 'is'} {tag!r}; it "
            f"holds {named}",
            model=repository.model,
            advice=f"name one of them, such as {place}/{files[0]}"
            if files
            else f"give {place}, or {place}@{tag} for the revision '{tag}'",
        )
    return firsts[0]


def _is_dir(path: Path) -> bool:
    try:
        return path.is_dir()
    except (OSError, ValueError):  # too long for a path, or with a null byte
        return False


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):
        return False


def _open_folder(path: Path, model: str, meter: Meter) -> Repository:
    """A folder's files: those of the snapshot in a folder of the Hub's cache."""
    if path.name == "manifests" and is_store(path.parent):
        path = path.parent
    if is_store(path):
        return _open_manifest(only_manifest(path, model), model, meter)
    snapshots = path / "snapshots"
    if snapshots.is_dir() and (path / "blobs").is_dir():
        return _open_snapshot(path, model, meter)
    cached = sorted(child.name for child in path.glob("models--*") if child.is_dir())
    if cached and not (path / "config.json").exists():
        names = [
            match["repo"].replace("--", "/") for n in cached if (match := _MODELS_FOLDER.match(n))
        ]
        raise ModelNotFoundError(
            f"it is the Hub's cache, which holds {', '.join(names[:4])}"
            + (f" and {len(names) - 4} more" if len(names) > 4 else ""),
            model=model,
            advice=f"give a model's name, such as {names[0]}",
        )
    return LocalFolder(path, model, meter)


def _open_snapshot(path: Path, model: str, meter: Meter) -> Repository:
    """The newest commit in a folder of the Hub's cache: the one that its branch names."""
    commits = sorted(child.name for child in (path / "snapshots").iterdir() if child.is_dir())
    reference = path / "refs" / "main"
    named = reference.read_text("utf-8", "replace").strip() if _is_file(reference) else ""
    if _COMMIT.fullmatch(named) and named in commits:
        commits = [named]
    if len(commits) != 1:
        raise ModelNotFoundError(
            f"it is a folder of the Hub's cache with {len(commits) or 'no'} snapshots",
            model=model,
            advice=f"give one of them, such as {path / 'snapshots' / commits[-1]}"
            if commits
            else "download the model again",
        )
    return LocalFolder(path / "snapshots" / commits[0], model, meter, revision=commits[0])


def _open_manifest(manifest: Path, model: str, meter: Meter) -> Repository:
    blob = model_of_manifest(manifest, model)
    return LocalFolder(blob.parent, model, meter, chosen=blob.name)


def is_hub_id(name: str) -> bool:
    """Whether a name has the form of a Hub id, `org/name` or a bare name."""
    return _HUB_ID.fullmatch(name) is not None and "@" not in name
