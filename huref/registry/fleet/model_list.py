"""Lists of models for a fleet: from text files, and from the Hub's search."""

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huref.errors import FleetError, NetworkError
from huref.files import as_path

ONE_PER_LINE = "give one model per line"
COMMIT = re.compile(r"[0-9a-f]{40}")
_COMMENT = re.compile(r"(^|\s)#.*")
_PAGE = re.compile(r"https?://(?:www\.)?(?:huggingface\.co|hf\.co)/(?:models/)?")
FILTERS = (
    "author", "filter", "gated", "limit", "num_parameters", "pipeline_tag", "search", "sort",
)  # fmt: skip


@dataclass(frozen=True)
class ListedModel:
    """A model in a list.

    Attributes:
        name: a Hub id (optionally with `/file` or `@revision`), a folder or a file.
        commit: its commit if the list has it.
    """

    name: str
    commit: str | None = None

    @property
    def identity(self) -> str:
        """Equal for two names of one model: Hub ids are case-insensitive."""
        place = os.fspath(as_path(self.name)) if self.name[:1] == "~" else self.name
        if os.path.exists(place):  # noqa: PTH110  a list may have 100,000 names: a tenth of Path's time
            return os.path.realpath(place)
        repository, at, revision = self.name.partition("@")
        return repository.lower() + at + revision


@dataclass(frozen=True)
class ModelList:
    """The models to measure, each once, and the number of repeated names that were dropped."""

    models: tuple[ListedModel, ...]
    duplicates: int = 0


def parse_list(lines: Iterable[str]) -> ModelList:
    """Models from text: one per line, comments after #; URLs of Hub pages are accepted."""
    names = (_name_in(line) for line in lines)
    return collect(ListedModel(name, _pinned(name)) for name in names if name)


def _name_in(line: str) -> str:
    """The name that a line holds; "" if it holds none."""
    if "#" in line:
        line = _COMMENT.sub("", line)
    name = line.strip()
    return _PAGE.sub("", name).rstrip("/") if "//" in name else name.rstrip("/")


def read_list(path: Path) -> ModelList:
    """Models from a UTF-8 file, see `parse_list`.

    Raises:
        FleetError: the file does not exist, is no text, or lists no model.
    """
    try:
        models = parse_list(path.read_text("utf-8-sig").splitlines())
    except UnicodeDecodeError as error:
        raise FleetError("it is not UTF-8 text", file=path, advice=ONE_PER_LINE) from error
    except OSError as error:
        raise FleetError(f"cannot be read ({error.strerror})", file=path) from error
    if not models.models:
        raise FleetError("it lists no model", file=path, advice=ONE_PER_LINE)
    return models


def collect(models: Iterable[ListedModel]) -> ModelList:
    """Every model once, in order of first appearance."""
    kept: dict[str, ListedModel] = {}
    count = 0
    seen: set[str] = set()
    for model in models:
        count += 1
        if model.name not in seen:
            seen.add(model.name)
            kept.setdefault(model.identity, model)
    return ModelList(tuple(kept.values()), count - len(kept))


def list_hub(filters: Mapping[str, Sequence[str]]) -> ModelList:
    """Models that the Hub lists, with their commits; one request for a thousand models.

    Args:
        filters: values by name, of `FILTERS`; see `HfApi.list_models` for their meaning.

    Raises:
        FleetError: a filter is unknown, or no model matches.
        NetworkError: the Hub does not answer.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled
    from huggingface_hub.utils import httpx

    from huref.loader.hub.errors import explain
    from huref.loader.hub.rate import limited_session

    arguments = {name: _argument(name, values) for name, values in filters.items()}
    limited_session()
    try:
        found = [
            ListedModel(model.id, model.sha)
            for model in HfApi().list_models(expand=["sha"], **arguments)
        ]
    except (HfHubHTTPError, OfflineModeIsEnabled, httpx.HTTPError) as error:
        raise explain(error, "the list of models") from error
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise NetworkError(
            f"the Hub's answer is no list of models ({type(error).__name__})",
            advice="check HF_ENDPOINT, and whether the network wants you to sign in first",
        ) from error
    if not found:
        raise FleetError("no model on the Hub matches the filters", advice="loosen them")
    return collect(found)


def _argument(name: str, values: Sequence[str]) -> Any:
    if name not in FILTERS:
        raise FleetError(f"there is no Hub filter '{name}'", advice=f"use {', '.join(FILTERS)}")
    if name == "filter":
        return list(values)
    if len(values) > 1:
        raise FleetError(
            f"the Hub filter '{name}' is given {len(values)} times", advice="give it once"
        )
    [value] = values
    if name == "limit":
        if not value.isdigit() or int(value) < 1:
            raise FleetError(f"the Hub filter limit={value} is not a positive number")
        return int(value)
    if name == "gated":
        if value not in ("true", "false"):
            raise FleetError(f"the Hub filter gated={value} is neither true nor false")
        return value == "true"
    return value


def _pinned(name: str) -> str | None:
    revision = name.partition("@")[2]
    return revision if COMMIT.fullmatch(revision) else None
