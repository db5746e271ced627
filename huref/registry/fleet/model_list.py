"""Which models a fleet is to measure: lists that people write, and listings of the Hub."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huref.errors import FleetError

COMMIT = re.compile(r"[0-9a-f]{40}")
_PAGE = re.compile(r"https?://(?:www\.)?(?:huggingface\.co|hf\.co)/(?:models/)?")
FILTERS = (
    "author", "filter", "gated", "limit", "num_parameters", "pipeline_tag", "search", "sort",
)  # fmt: skip


@dataclass(frozen=True)
class Listed:
    """A model as it was asked for.

    Attributes:
        name: a Hub id (with `/file` or `@revision` where one is meant), a folder or a file.
        commit: its commit, where it is known without asking.
    """

    name: str
    commit: str | None = None

    @property
    def identity(self) -> str:
        """Equal for two names of one model: the Hub does not tell upper from lower case."""
        path = Path(self.name).expanduser()
        if path.exists():
            return str(path.resolve())
        repository, at, revision = self.name.partition("@")
        return repository.lower() + at + revision


@dataclass(frozen=True)
class ModelList:
    """The models to measure, each once, and how many lines named one that was there already."""

    models: tuple[Listed, ...]
    duplicates: int = 0


def parse_list(lines: Iterable[str]) -> ModelList:
    """Models from lines of text: one a line, # begins a comment, page addresses are understood."""
    names = (_PAGE.sub("", re.sub(r"(^|\s)#.*", "", line).strip()).rstrip("/") for line in lines)
    return collect(Listed(name, _pinned(name)) for name in names if name)


def read_list(path: Path) -> ModelList:
    """Models from a UTF-8 file, see `parse_list`.

    Raises:
        FleetError: there is no such file, it is no text, or it names no model.
    """
    try:
        models = parse_list(path.read_text("utf-8-sig").splitlines())
    except UnicodeDecodeError as error:
        raise FleetError(f"{path}: not a UTF-8 text; give one model a line") from error
    except OSError as error:
        raise FleetError(f"{path}: cannot be read ({error.strerror})") from error
    if not models.models:
        raise FleetError(f"{path}: names no model; give one a line")
    return models


def collect(models: Iterable[Listed]) -> ModelList:
    """Every model once, in the order in which they are named."""
    kept: dict[str, Listed] = {}
    count = 0
    for model in models:
        count += 1
        kept.setdefault(model.identity, model)
    return ModelList(tuple(kept.values()), count - len(kept))


def list_hub(filters: Mapping[str, Sequence[str]]) -> ModelList:
    """Models that the Hub lists, with their commits: a thousand of them cost one request.

    Args:
        filters: values by name, out of `FILTERS`; they mean what `HfApi.list_models` says.

    Raises:
        FleetError: an unknown filter, or nothing fits.
        NetworkError: the Hub cannot be asked.
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
            Listed(model.id, model.sha)
            for model in HfApi().list_models(expand=["sha"], **arguments)
        ]
    except (HfHubHTTPError, OfflineModeIsEnabled, httpx.HTTPError) as error:
        raise explain(error, "the list of models") from error
    if not found:
        raise FleetError("no model on the Hub fits the filters; loosen them")
    return collect(found)


def _argument(name: str, values: Sequence[str]) -> Any:
    if name not in FILTERS:
        raise FleetError(f"there is no Hub filter '{name}'; known: {', '.join(FILTERS)}")
    if name == "filter":
        return list(values)
    if len(values) > 1:
        raise FleetError(f"the Hub filter '{name}' is given {len(values)} times; give it once")
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
