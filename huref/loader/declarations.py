"""What a model says of its own origin: its card, configurations and GGUF keys.

None of it is trusted. A name is followed when it is a Hub id, or a path inside the model's own
folder; any other path is the author's, or an attempt to have files of this machine opened.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from huref.errors import CheckpointError
from huref.loader.checkpoint import WEIGHTS
from huref.loader.formats.gguf import read_header
from huref.loader.repository import LocalFolder, Repository, read_json, read_text
from huref.loader.sources.adapters import CONFIG as ADAPTER_CONFIG
from huref.loader.sources.adapters import declared_base
from huref.loader.sources.gguf import find_gguf

CARD = "README.md"
MERGE_CONFIGS = ("mergekit_config.yml", "mergekit_config.yaml")
LONGEST_NAME = 200  # characters
MOST_BASES = 32  # of one file
MOST_TEXT = 1024 * 1024  # bytes of a card or a merge's configuration
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?(@[\w./-]+)?", re.ASCII)
_HUB_PAGE = re.compile(r"https?://(?:www\.)?(?:huggingface\.co|hf\.co)/([^/?#]+/[^/?#]+)")


@dataclass(frozen=True)
class Declaration:
    """A base that a model names.

    Attributes:
        base: the name as it was written.
        sources: the files that name it, with the relation that they state.
        model: what to open for it, or None where it is not followed.
        why: why it is not followed; "" when it is.
        firm: False for a mere hint, `_name_or_path` in config.json: it stays behind where only
            the configuration of another model was taken, so it proves nothing.
        relation: finetune, adapter, merge, quantized, or None where no file says.
    """

    base: str
    sources: tuple[str, ...]
    model: str | None
    why: str = ""
    firm: bool = True
    relation: str | None = None


def read_declarations(repository: Repository) -> tuple[list[Declaration], list[str]]:
    """What a model declares, each base once, and notes on what could not be read."""
    notes: list[str] = []
    found: dict[str, Declaration] = {}
    for read in (_from_card, _from_adapter, _from_merge, _from_gguf, _from_config):
        try:
            for one in read(repository):
                key = one.model or one.base
                if one.base == repository.model or one.model == repository.model:
                    notes.append(f"{one.sources[0]} names the model itself as its base")
                else:
                    found[key] = _join(found[key], one) if key in found else one
        except (CheckpointError, yaml.YAMLError, RecursionError) as error:
            notes.append(" ".join(str(error).split())[:LONGEST_NAME])
    return list(found.values()), notes


def _join(one: Declaration, other: Declaration) -> Declaration:
    return Declaration(
        base=one.base,
        sources=(*one.sources, *other.sources),
        model=one.model,
        why=one.why,
        firm=one.firm or other.firm,
        relation=one.relation or other.relation,
    )


def _from_card(repository: Repository) -> Iterator[Declaration]:
    if CARD not in repository.files:
        return
    text = _short_text(repository, CARD).lstrip("\ufeff")
    match = re.match(r"---[ \t]*\r?\n(.*?)\r?\n---[ \t]*(\r?\n|$)", text, re.DOTALL)
    data = _yaml(match[1], CARD) if match else None
    if not isinstance(data, dict):
        return
    relation = data.get("base_model_relation")
    for name in _names(data.get("base_model")):
        yield _declare(
            repository, name, CARD, relation=relation if isinstance(relation, str) else None
        )


def _from_adapter(repository: Repository) -> Iterator[Declaration]:
    if ADAPTER_CONFIG not in repository.files:
        return
    for name in _names(read_json(repository, ADAPTER_CONFIG).get("base_model_name_or_path")):
        one = _declare(repository, name, ADAPTER_CONFIG, relation="adapter")
        opened = declared_base(repository)
        if isinstance(repository, LocalFolder) and isinstance(opened, str) and _is_here(opened):
            # The loader's own rule for adapters: without this base nothing could be measured.
            one = Declaration(name, one.sources, opened, relation="adapter")
        yield one


def _is_here(name: str) -> bool:
    return _is_plain(name) and Path(name).exists()


def _from_merge(repository: Repository) -> Iterator[Declaration]:
    for file in (name for name in MERGE_CONFIGS if name in repository.files):
        data = _yaml(_short_text(repository, file), file)
        if not isinstance(data, dict):
            return
        slices = [part.get("sources") for part in _dicts(data.get("slices"))]
        entries = [*_dicts(data.get("models"))]
        entries += [entry for sources in slices for entry in _dicts(sources)]
        names = [_merged(entry.get("model")) for entry in entries]
        for name in dict.fromkeys(filter(None, [*names, _merged(data.get("base_model"))])):
            yield _declare(repository, name, file, relation="merge")


def _merged(value: Any) -> str | None:
    """A model of a merge: a name, `name+adapter`, or a mapping that holds the name."""
    while isinstance(value, dict):
        value = value.get("model", value.get("path"))
    return value.partition("+")[0] if isinstance(value, str) else None


def _from_gguf(repository: Repository) -> Iterator[Declaration]:
    file = find_gguf(repository)
    plain = WEIGHTS[:-1]
    if file is None or (
        repository.chosen is None and any(name.endswith(plain) for name in repository.files)
    ):
        return  # what is measured is not the GGUF file
    metadata = read_header(repository.open(file, cache=True)).metadata
    count = metadata.get("general.base_model.count", 0)
    for i in range(min(count, MOST_BASES) if type(count) is int else 0):
        key = f"general.base_model.{i}"
        by, name = metadata.get(f"{key}.organization"), metadata.get(f"{key}.name")
        url = metadata.get(f"{key}.repo_url")
        for named in _names(url or (f"{by}/{name}" if by and name else name)):
            yield _declare(repository, named, f"{file}: {key}")
    for named in _names(metadata.get("general.source.repo_url")):
        yield _declare(repository, named, f"{file}: general.source", relation="quantized")


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
    """What to open for a declared name, or None and the reason."""
    if not _is_plain(name):
        return None, "not a name that a model could have"
    page = _HUB_PAGE.match(name)
    name = page[1] if page else name
    if isinstance(repository, LocalFolder):
        folder = repository.path.resolve()
        inside = (folder / name).resolve() if "://" not in name else folder
        if inside != folder and inside.is_relative_to(folder) and inside.exists():
            return str(inside), ""
    if _HUB_ID.fullmatch(name):
        if Path(name.partition("@")[0]).exists():
            return None, f"'{name}' is a Hub id and a path here; say with --base which is meant"
        return name, ""
    if "://" in name:
        return None, "an address outside the Hub is not followed; give the base with --base"
    return None, "a path outside the model's folder is not followed; give the base with --base"


def _is_plain(name: str) -> bool:
    """Whether a file system can be asked for it."""
    return len(name) <= LONGEST_NAME and name.isascii() and name.isprintable()


def _names(value: Any) -> list[str]:
    values = value if isinstance(value, list) else [value]
    names = [item.strip() for item in values if isinstance(item, str) and item.strip()]
    return [name[: LONGEST_NAME + 1] for name in names[:MOST_BASES]]


def _dicts(value: Any) -> list[dict[Any, Any]]:
    items = value[:1000] if isinstance(value, list) else []
    return [item for item in items if isinstance(item, dict)]


def _short_text(repository: Repository, file: str) -> str:
    if repository.files[file] > MOST_TEXT:
        raise CheckpointError(f"{file} is too long to be read")
    try:
        return read_text(repository, file).decode("utf-8")
    except UnicodeDecodeError as error:
        raise CheckpointError(f"{file} is not UTF-8 text") from error


def _yaml(text: str, file: str) -> Any:
    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{file}: what it declares is not valid YAML") from error
