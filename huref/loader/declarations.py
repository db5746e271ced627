"""The base models that a model declares in its card, its configurations or its GGUF metadata.

Declarations are untrusted input. A name is followed when it is a Hub id or a path inside the
model's own folder. Any other path belongs to the author's machine, or tries to make huref open
files of the user's.
"""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from huref.bounded_yaml import YamlError, loads
from huref.errors import CheckpointError
from huref.loader.formats.gguf import read_header
from huref.loader.repository import LocalFolder, Repository, read_json, read_text
from huref.loader.sources.adapters import CONFIG as ADAPTER_CONFIG
from huref.loader.sources.adapters import declared_base
from huref.loader.sources.gguf import find_gguf

CARD = "README.md"
MERGE_CONFIGS = ("mergekit_config.yml", "mergekit_config.yaml")
MAX_NAME = 200  # characters
MAX_BASES = 32  # in one file
MAX_ENTRIES = 1000  # of a list in a merge's configuration
MAX_TEXT = 1024 * 1024  # bytes of a card or a merge's configuration
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?(@[\w./-]+)?", re.ASCII)
_HUB_PAGE = re.compile(r"https?://(?:www\.)?(?:huggingface\.co|hf\.co)/([^/?#]+/[^/?#]+)")


@dataclass(frozen=True)
class Declaration:
    """A base that a model names.

    Attributes:
        base: the name as written.
        sources: the files that name it, for GGUF with the metadata key.
        model: the model to open for it, or None when it is not followed.
        why: why it is not followed; "" when it is.
        firm: False when only `_name_or_path` in config.json names it. That key may remain from a
            model of which only the configuration was reused.
        relation: finetune, adapter, merge or quantized; None when no file states it.
    """

    base: str
    sources: tuple[str, ...]
    model: str | None
    why: str = ""
    firm: bool = True
    relation: str | None = None


def read_declarations(repository: Repository) -> tuple[list[Declaration], list[str]]:
    """The bases that a model declares, each once, and notes on files that could not be read."""
    notes: list[str] = []
    found: dict[str, Declaration] = {}
    for read in (_from_card, _from_adapter, _from_merge, _from_gguf, _from_config):
        try:
            for declared in read(repository):
                key = declared.model or declared.base
                if repository.model in (declared.base, declared.model):
                    notes.append(f"{declared.sources[0]} names the model itself as its base")
                else:
                    found[key] = _join(found[key], declared) if key in found else declared
        except CheckpointError as error:
            notes.append(" ".join(str(error).split())[:MAX_NAME])
    return list(found.values()), notes


def _join(first: Declaration, second: Declaration) -> Declaration:
    """Two declarations of the same base as one; the first file decides what both state."""
    return replace(
        first,
        sources=(*first.sources, *second.sources),
        firm=first.firm or second.firm,
        relation=first.relation or second.relation,
    )


def read_card(repository: Repository) -> dict[str, Any]:
    """The YAML at the head of the model card; empty where there is none.

    Raises:
        CheckpointError: the card is too long, or is not UTF-8 text.
    """
    if CARD not in repository.files:
        return {}
    text = _short_text(repository, CARD).lstrip("\ufeff")
    match = re.match(r"---[ \t]*\r?\n(.*?)\r?\n---[ \t]*(\r?\n|$)", text, re.DOTALL)
    data = _yaml(match[1], CARD) if match else None
    return data if isinstance(data, dict) else {}


def _from_card(repository: Repository) -> Iterator[Declaration]:
    data = read_card(repository)
    relation = data.get("base_model_relation")
    for name in _names(data.get("base_model")):
        yield _declare(
            repository, name, CARD, relation=relation if isinstance(relation, str) else None
        )


def _from_adapter(repository: Repository) -> Iterator[Declaration]:
    if ADAPTER_CONFIG not in repository.files:
        return
    for name in _names(read_json(repository, ADAPTER_CONFIG).get("base_model_name_or_path")):
        declared = _declare(repository, name, ADAPTER_CONFIG, relation="adapter")
        path = declared_base(repository)
        if isinstance(repository, LocalFolder) and isinstance(path, str) and _exists(path):
            # As in AdapterModel.base: an adapter cannot be read without its base, so a local one
            # may name any local path.
            declared = Declaration(name, declared.sources, path, relation="adapter")
        yield declared


def _exists(name: str) -> bool:
    return _is_plain(name) and Path(name).exists()


def _from_merge(repository: Repository) -> Iterator[Declaration]:
    for file in (name for name in MERGE_CONFIGS if name in repository.files):
        data = _yaml(_short_text(repository, file), file)
        if not isinstance(data, dict):
            return
        slices = [part.get("sources") for part in _dicts(data.get("slices"))]
        entries = [*_dicts(data.get("models"))]
        entries += [entry for sources in slices for entry in _dicts(sources)]
        names = [_merge_input(entry.get("model")) for entry in entries]
        for name in dict.fromkeys(filter(None, [*names, _merge_input(data.get("base_model"))])):
            yield _declare(repository, name, file, relation="merge")


def _merge_input(value: Any) -> str | None:
    """The name of a merge's input: given as `name`, `name+adapter` or a mapping with the name."""
    while isinstance(value, dict):
        value = value.get("model", value.get("path"))
    return value.partition("+")[0] if isinstance(value, str) else None


def _from_gguf(repository: Repository) -> Iterator[Declaration]:
    file = find_gguf(repository)
    if file is None:
        return
    metadata = read_header(repository.open(file, cache=True)).metadata
    count = metadata.get("general.base_model.count", 0)
    for i in range(min(count, MAX_BASES) if type(count) is int else 0):
        key = f"general.base_model.{i}"
        organization, name = metadata.get(f"{key}.organization"), metadata.get(f"{key}.name")
        url = metadata.get(f"{key}.repo_url")
        for base in _names(url or (f"{organization}/{name}" if organization and name else name)):
            yield _declare(repository, base, f"{file}: {key}")
    for base in _names(metadata.get("general.source.repo_url")):
        yield _declare(repository, base, f"{file}: general.source", relation="quantized")


def _from_config(repository: Repository) -> Iterator[Declaration]:
    if "config.json" in repository.files:
        for name in _names(read_json(repository, "config.json").get("_name_or_path")):
            yield _declare(repository, name, "config.json", firm=False)


def _declare(
    repository: Repository,
    name: str,
    source: str,
    *,
    relation: str | None = None,
    firm: bool = True,
) -> Declaration:
    model, why = _resolve(repository, name)
    return Declaration(name, (source,), model, why, firm, relation)


def _resolve(repository: Repository, name: str) -> tuple[str | None, str]:
    """The model to open for a declared name and "", or None and the reason."""
    if not _is_plain(name):
        return None, "not a valid name of a model"
    page = _HUB_PAGE.match(name)
    name = page[1] if page else name
    if isinstance(repository, LocalFolder):
        folder = repository.path.resolve()
        # Path.resolve would raise at a ring of links before Python 3.13.
        path = Path(os.path.realpath(folder / name)) if "://" not in name else folder
        if path != folder and path.is_relative_to(folder) and path.exists():
            return str(path), ""
    if _HUB_ID.fullmatch(name):
        if Path(name.partition("@")[0]).exists():
            return None, f"'{name}' is both a Hub id and a local path; give one with --base"
        return name, ""
    if "://" in name:
        return None, "a URL outside the Hub is not followed; give the base with --base"
    return None, "a path outside the model's folder is not followed; give the base with --base"


def _is_plain(name: str) -> bool:
    """Whether a name is short printable ASCII, so that it can be looked up as a path."""
    return len(name) <= MAX_NAME and name.isascii() and name.isprintable()


def _names(value: Any) -> list[str]:
    values = value if isinstance(value, list) else [value]
    names = [item.strip() for item in values if isinstance(item, str) and item.strip()]
    return [name[: MAX_NAME + 1] for name in names[:MAX_BASES]]


def _dicts(value: Any) -> list[dict[Any, Any]]:
    items = value[:MAX_ENTRIES] if isinstance(value, list) else []
    return [item for item in items if isinstance(item, dict)]


def _short_text(repository: Repository, file: str) -> str:
    if repository.files[file] > MAX_TEXT:
        raise CheckpointError(
            f"{repository.files[file]:,} bytes are more than the {MAX_TEXT:,} that huref reads",
            file=file,
        )
    try:
        return read_text(repository, file).decode("utf-8")
    except UnicodeDecodeError as error:
        raise CheckpointError("it is not UTF-8 text", file=file) from error


def _yaml(text: str, file: str) -> Any:
    try:
        return loads(text)
    except YamlError as error:
        raise CheckpointError(f"its declaration is not valid YAML ({error})", file=file) from error
