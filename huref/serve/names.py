"""Which models a page may name: Hub ids, uploads, and what lies below the roots."""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from huref.errors import HurefError, ModelNotFoundError
from huref.files import as_path
from huref.loader.model_name import hub_id_of_page, is_hub_id, require_name
from huref.serve.uploads import PREFIX, Uploads

DEEPEST = 4  # folders below a root in which models are looked for
MOST_LISTED = 300  # models
MOST_SEEN = 20_000  # files and folders
PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
PNG_TEXT = b"huref:model"  # in the head of a fingerprint
HEAD = 64 * 1024  # bytes
_TAGGED = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*:[\w.-]{1,60}")  # of the Hub
_TAG = re.compile(r"(?P<folder>.+):[\w.-]{1,60}")


@dataclass(frozen=True)
class Named:
    """A model that may be read.

    Attributes:
        text: as it was asked for.
        name: by which it is opened in the first root.
        shown: what messages call it.
    """

    text: str
    name: str
    shown: str


@dataclass(frozen=True)
class Listed:
    """A model found below a root: its name and its kind in a word."""

    name: str
    kind: str


class Names:
    """Resolves what a page asks for.

    Args:
        roots: resolved folders.
        uploads: files that browsers sent.
    """

    def __init__(self, roots: tuple[Path, ...], uploads: Uploads):
        self._roots = roots
        self._uploads = uploads

    def resolve(self, text: str) -> Named:
        """The model behind a name.

        Raises:
            HurefError: it may not be read, or is the name of nothing.
        """
        name = text.strip()
        require_name(name)
        if name.startswith(PREFIX):
            upload = self._uploads.find(name)
            return Named(text, str(upload.path), upload.name)
        if name.lower().startswith("ollama:") or "://ollama.com/" in name.lower():
            raise ModelNotFoundError(
                "models of Ollama's store are not read here",
                model=name,
                advice=f"give a Hub id or a folder below {self._where()}",
            )
        if (page := hub_id_of_page(name)) is not None:
            return Named(text, page, name)
        return self._local(text, name.removeprefix("file://"))

    def _local(self, text: str, name: str) -> Named:
        path = as_path(name)
        folders = self._roots if not path.is_absolute() else (Path(),)
        for place, folder in enumerate(folders):
            for part, candidate in _readings(name, folder):
                if not _exists(candidate):
                    continue
                if not self._is_below(candidate):
                    raise self._refusal(name)
                opened = name if place == 0 else str(folder / as_path(part)) + name[len(part) :]
                return Named(text, opened, name)
        is_id = is_hub_id(name.replace("@", "/", 1)) or _TAGGED.fullmatch(name)
        if path.is_absolute() or name[:1] in "~." or not is_id:
            raise self._refusal(name)
        return Named(text, name, name)

    def _is_below(self, path: Path) -> bool:
        try:
            place = Path(os.path.realpath(path, strict=True))
        except OSError:  # a ring of links, or one that leads nowhere
            return False
        return any(place.is_relative_to(root) for root in self._roots)

    def _refusal(self, name: str) -> HurefError:
        """The same words for what does not exist and for what may not be read."""
        return ModelNotFoundError(
            f"it is neither a Hub id nor a model below {self._where()}", model=name
        )

    def _where(self) -> str:
        return " or ".join(map(str, self._roots))

    def list_models(self) -> list[Listed]:
        """Models below the roots, for a page to pick from."""
        found: list[Listed] = []
        for place, root in enumerate(self._roots):
            for path, kind in _find_models(root):
                if len(found) == MOST_LISTED:
                    return found
                if self._is_below(path):
                    name = path.relative_to(root) if place == 0 else path
                    found.append(Listed(str(name), kind))
        return found


def _readings(name: str, folder: Path) -> Iterator[tuple[str, Path]]:
    """The paths that a name may mean, with the part of the name that is the path."""
    yield name, folder / as_path(name)
    if match := _TAG.fullmatch(name):  # a folder of several GGUF files, and one quantisation
        yield match["folder"], folder / as_path(match["folder"])


def _exists(path: Path) -> bool:
    """Whether there is a file, a folder or a link, also one that leads nowhere."""
    try:
        return os.path.lexists(path)
    except (OSError, ValueError):
        return False


def _find_models(root: Path) -> Iterator[tuple[Path, str]]:
    seen = 0
    for place, folders, files in os.walk(root):
        folder = Path(place)
        folders[:] = sorted(name for name in folders if not name.startswith((".", "__")))
        if len(folder.relative_to(root).parts) >= DEEPEST:
            folders.clear()
        seen += len(folders) + len(files)
        if seen > MOST_SEEN:
            return
        if "adapter_config.json" in files:
            yield folder, "adapter"
        elif {"config.json", "params.json"} & set(files) and any(map(_is_weights, files)):
            yield folder, "model"
        for name in sorted(files):
            if kind := _kind_of(folder / name, "config.json" in files):
                yield folder / name, kind


def _is_weights(name: str) -> bool:
    return name.endswith((".safetensors", ".bin", ".pth"))


def _kind_of(path: Path, is_beside_config: bool) -> str:
    """The kind of a file that is a model by itself, or ""."""
    suffix = path.suffix.lower()
    if suffix == ".gguf":
        return "GGUF"
    if suffix == ".png" and PNG_TEXT in _head(path):
        return "picture"
    is_record = suffix == ".safetensors" and not is_beside_config and b'"recipe"' in _head(path)
    return "record" if is_record else ""


def _head(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(HEAD)
    except OSError:
        return b""
