"""Options and checks that several commands share, and how commands print JSON."""

import os
import re
import shutil
import sys
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from huref import escape
from huref.api.table_size import MOST_MODELS, require_table_size
from huref.errors import HurefError, one_line
from huref.files import require_folder
from huref.progress import be_quiet, is_quiet
from huref.version import SCHEMA, __version__

if TYPE_CHECKING:
    from huref.invariants.record import Record
    from huref.lineage.table import Failure, LineageTable

PLAIN = "safetensors"  # the format that needs no mention
_COMMENT = re.compile(r"(^|\s)#.*")
LONGEST_LINE = 64 * 1024  # bytes of a line of stdin that are kept; a name has at most 4096
as_file = click.Path(dir_okay=False, path_type=Path)
recipe_option = click.option(
    "--recipe", default="default", metavar="NAME|FILE", help="How models are measured."
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
jsonl_option = click.option(
    "--jsonl", is_flag=True, help="Print a line of JSON a model, as each is done."
)
key_option = click.option(
    "--key",
    type=as_file,
    metavar="KEY.pem",
    help="Sign with this private key, Ed25519 or ECDSA P-256 (needs huref[evidence]).",
)
read_all_option = click.option(
    "--read-all",
    is_flag=True,
    help="Download and hash large files on the Hub, instead of stating the Hub's own digests.",
)
quiet_option = click.option(
    "-q",
    "--quiet",
    is_flag=True,
    expose_value=False,
    callback=lambda _, __, quiet: be_quiet(quiet),
    help="Print results and failures alone.",
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


def say_seals(records: "Iterable[Record]") -> None:
    """Say on stderr of each picture who signed it."""
    for record in records:
        if record.seal is not None:
            echo(f"{one_line(record.seal.file)}: {record.seal}", err=True)


def describe_files(files: dict[str, Any]) -> str:
    """What was read, in a line."""
    names, count = files["names"], files["count"]
    shown = ", ".join(names) if count <= 2 else f"{names[0]} and {count - 1} more"
    kind = ", ".join(filter(None, (files["format"], files["quantisation"])))
    base = files["base"]
    on = f" on {base['model']}: {describe_files(base)}" if base is not None else ""
    return one_line(f"{shown} ({kind}){on}")


def say_files(records: "Iterable[Record]") -> None:
    """Say on stderr what was read of each model that is not plain weights in safetensors."""
    for record in records:
        say_what_was_read(record.model, record.files)


def say_what_was_read(model: str, files: dict[str, Any] | None) -> None:
    """Say on stderr what was read of a model, unless it is plain weights in safetensors."""
    if files is None or (files["format"] == PLAIN and not files["quantisation"]):
        return
    echo(f"{escape.terminal(model)}: read {escape.terminal(describe_files(files))}", err=True)


def read_names(names: Sequence[str], most: int | None = None) -> list[str]:
    """Names of models, with "-" replaced by the lines of stdin, without empty ones and # comments.

    Args:
        names: as they were given.
        most: reading ends with the name after this many, since stdin may have no end.

    Raises:
        click.UsageError: "-" is given twice, or no name is left.
    """
    return list(islice(stream_names(names), None if most is None else most + 1))


def table_names(names: Sequence[str]) -> list[str]:
    """The names of the models of one table, as `read_names` gives them.

    Raises:
        click.UsageError: there are fewer than two.
        HurefError: there are too many.
    """
    found = read_names(names, MOST_MODELS)
    if len(found) < 2:
        raise click.UsageError("give at least two models to compare")
    require_table_size(len(found))
    return found


def say_failure(failure: "Failure") -> None:
    """Name a model that could not be read, at once: the others may take long."""
    echo(f"huref: {one_line(failure.error)}", err=True)


def end_with_failures(table: "LineageTable") -> None:
    """Exit with code 1 if models are missing in a table; of several their number is said."""
    if len(table.failed) > 1:
        count = len(table.failed) + len(table.records)
        echo(f"huref: {len(table.failed)} of {count} models could not be read", err=True)
    if table.failed:
        sys.exit(1)


def stream_names(names: Sequence[str]) -> Iterator[str]:
    """The same, one by one: a line of stdin is yielded when it has been read.

    Raises:
        click.UsageError: "-" is given twice, or no name was left.
    """
    if names.count("-") > 1:
        raise click.UsageError("stdin (-) can be read only once")
    any_name = False
    for name in names:
        lines = [name] if name != "-" else lines_of_stdin()
        for line in lines:
            found = line if name != "-" else _COMMENT.sub("", line).strip()
            if name == "-" and not found:
                continue
            any_name = True
            yield found
    if not any_name:
        raise click.UsageError("stdin names no model; give one a line")


def lines_of_stdin() -> Iterator[str]:
    """Lines of stdin, each as it comes. Of a line that is no name, nothing is worth an error here.

    A byte order mark is left out; bytes that are not UTF-8 become U+FFFD, and of an overlong line
    the beginning is kept: no model has such a name, which is said of it as of any other.
    """
    if sys.stdin is None:
        raise click.UsageError("stdin (-) is closed")
    stream, is_first = sys.stdin.buffer, True
    while raw := stream.readline(LONGEST_LINE):
        yield raw.decode("utf-8-sig" if is_first else "utf-8", "replace")
        is_first = False
        while len(raw) == LONGEST_LINE and not raw.endswith(b"\n"):
            raw = stream.readline(LONGEST_LINE)


def names_for(names: Sequence[str], as_json: bool, jsonl: bool) -> Iterable[str]:
    """The names for a command that prints one document with --json and lines with --jsonl.

    Raises:
        click.UsageError: both are chosen, or --json for several models.
    """
    if as_json and jsonl:
        raise click.UsageError("--json and --jsonl exclude each other; give one")
    if not as_json:
        return stream_names(names)
    found = read_names(names, most=1)
    if len(found) > 1:
        raise click.UsageError("--json is for one model; give --jsonl for several")
    return found


def explain_failure(error: Exception) -> str:
    """The message of a model that stops none of the others.

    Raises:
        Exception: the same, where HUREF_DEBUG asks for a traceback.
    """
    if os.environ.get("HUREF_DEBUG") == "1" or isinstance(error, click.ClickException):
        raise error
    if isinstance(error, HurefError | OSError):
        return one_line(error)
    return f"an error in huref, please report it: {type(error).__name__}: {one_line(error)}"


def terminal_width() -> int | None:
    """Width of the terminal in characters; None where stdout is a file or a pipe."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def as_json(data: dict[str, Any]) -> str:
    """A JSON object with the version of huref and the number of the schema in front."""
    return escape.to_json({"huref": __version__, "schema": SCHEMA, **data}, indent=2)


def as_json_line(data: dict[str, Any]) -> str:
    """The same on one line, for JSON Lines."""
    return escape.to_json({"huref": __version__, "schema": SCHEMA, **data})


def print_json(data: dict[str, Any]) -> None:
    """Print a JSON object on stdout; see `as_json`."""
    click.echo(as_json(data))


def echo(text: object = "", *, err: bool = False) -> None:
    """Print text of any number of lines; characters that act on a terminal are escaped.

    With -q nothing is printed on stderr but failures, which begin with "huref: ".

    A name or a reason is passed through `escape.terminal` before it becomes part of the text: this
    function cannot tell a line end of huref's from one of theirs.
    """
    if err and is_quiet() and not str(text).startswith("huref: "):
        return
    click.echo(escape.terminal_lines(text), err=err)
