"""Options and checks that several commands share, and how commands print JSON."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from huref.errors import one_line
from huref.files import require_folder
from huref.version import __version__

if TYPE_CHECKING:
    from huref.invariants.record import Record

SCHEMA = 1  # of all JSON output; docs/json.md describes it

as_file = click.Path(dir_okay=False, path_type=Path)
recipe_option = click.option(
    "--recipe", default="default", metavar="NAME|FILE", help="How models are measured."
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
key_option = click.option(
    "--key",
    type=as_file,
    metavar="KEY.pem",
    help="Sign with this private key, Ed25519 or ECDSA P-256 (needs huref[evidence]).",
)
no_cache_option = click.option(
    "--no-cache", is_flag=True, help="Read the weights again; keep no records."
)


def require_kind(path: Path | None, kinds: tuple[str, ...]) -> None:
    """Refuse an output that could not be written, before any model is read.

    Raises:
        click.UsageError: the file's name does not end in one of `kinds`.
        HurefError: there is no such folder.
    """
    if path is None:
        return
    if path.suffix.lower() not in kinds:
        raise click.UsageError(f"{path}: give a name that ends in {', '.join(kinds)}")
    require_folder(path)


def say_seals(records: "Iterable[Record]", names: Iterable[str]) -> None:
    """Say on stderr of each picture who signed it; `names` are what the user called them."""
    for record, name in zip(records, names, strict=True):
        if record.seal is not None:
            click.echo(f"{one_line(name)}: {record.seal}", err=True)


def as_json(data: dict[str, Any]) -> str:
    """A JSON object with the version of huref and the number of the schema in front."""
    return json.dumps(
        {"huref": __version__, "schema": SCHEMA, **data}, ensure_ascii=False, indent=2
    )


def print_json(data: dict[str, Any]) -> None:
    """Print a JSON object on stdout; see `as_json`."""
    click.echo(as_json(data))
