"""`huref fleet`: thousands of models into a registry."""

import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import click

from huref.cli.options import (
    as_file,
    echo,
    json_option,
    key_option,
    lines_of_stdin,
    print_json,
    recipe_option,
)
from huref.errors import FleetError
from huref.files import require_folder

if TYPE_CHECKING:
    from huref.registry.fleet.model_list import ModelList
    from huref.registry.fleet.report import FleetReport
    from huref.registry.store import Store

SHOWN = 40  # failures in the terminal; the journal has all of them
LONGEST_REASON = 100  # characters of a reason in the terminal
INTERRUPTED = 130  # what shells expect after Ctrl-C


@click.command()
@click.argument("models", nargs=-1, metavar="[MODELS.txt]...")
@click.option(
    "--hub-filter",
    "filters",
    multiple=True,
    metavar="NAME=VALUE",
    help="Models that the Hub lists: author, filter, search, pipeline_tag, num_parameters, gated, "
    "sort, limit. May be repeated.",
)
@click.option("-o", "--out", required=True, metavar="REGISTRY", help="Created if there is none.")
@recipe_option
@click.option(
    "--engine",
    default="threads",
    show_default=True,
    metavar="threads|processes|ray|ray://HOST:PORT",
    help="Where the work is done.",
)
@click.option("--workers", type=click.IntRange(1), help="Models at a time.")
@click.option("--journal", type=as_file, help="What became of each model.  [default: beside OUT]")
@click.option("--picture", type=as_file, help="Also draw the models' dogs on one sheet (PNG).")
@click.option("--refresh", is_flag=True, help="Ask for new commits of models that are there.")
@click.option("--retry-failed", is_flag=True, help="Try again what failed for good, too.")
@click.option("--by", "measured_by", metavar="NAME", help="Who measures.  [default: nobody]")
@key_option
@json_option
def fleet(
    models: tuple[str, ...],
    filters: tuple[str, ...],
    out: str,
    recipe: str,
    engine: str,
    workers: int | None,
    journal: Path | None,
    picture: Path | None,
    refresh: bool,
    retry_failed: bool,
    measured_by: str | None,
    key: Path | None,
    as_json: bool,
) -> None:
    """Measure lists of models, or the Hub's, into a registry.

    A list has one model a line; - reads it from stdin. The same command goes on where it stopped:
    models that the registry holds are not read again. Exits with 1 when no model could be
    measured.
    """
    require_folder(journal, picture)
    signer = None
    if key is not None:
        from huref.evidence.keys import load_signer

        signer = load_signer(key)
    listed = _list_models(models, filters)
    store = _open(out, recipe)
    from huref.registry.fleet.report import draw_fleet
    from huref.registry.fleet.run import fleet as run
    from huref.registry.fleet.run import journal_path

    kept = journal or journal_path(store.uri)
    signal.signal(signal.SIGTERM, _as_interrupt)
    try:
        report = run(
            listed,
            store,
            engine=engine,
            workers=workers,
            recipe=recipe,
            journal=kept,
            refresh=refresh,
            retry_failed=retry_failed,
            measured_by=measured_by,
            signer=signer,
        )
    except KeyboardInterrupt:
        echo(
            "\nstopped; what was measured is saved, and the same command goes on from here "
            "(models being read now are let go; Ctrl-C again leaves at once)",
            err=True,
        )
        sys.exit(INTERRUPTED)
    if picture is not None and draw_fleet(store, report, picture, recipe):
        echo(f"wrote {picture}", err=True)
    if as_json:
        print_json(report.to_json())
    else:
        echo(_text(report, kept))
    if report.count("failed") == len(report.lines):
        sys.exit(1)


def _as_interrupt(*_: object) -> NoReturn:
    raise KeyboardInterrupt


def _list_models(files: tuple[str, ...], filters: tuple[str, ...]) -> "ModelList":
    from huref.registry.fleet.model_list import ModelList, collect, list_hub, parse_list, read_list

    if not files and not filters:
        raise click.UsageError("give a list of models, or --hub-filter")
    wanted: dict[str, list[str]] = {}
    for text in filters:
        name, equals, value = text.partition("=")
        if not equals or not value:
            raise click.UsageError(f"--hub-filter {text}: give NAME=VALUE")
        wanted.setdefault(name.replace("-", "_"), []).append(value)
    lists = [
        parse_list(lines_of_stdin()) if file == "-" else read_list(Path(file)) for file in files
    ]
    if wanted:
        lists.append(list_hub(wanted))
    both = collect(model for one in lists for model in one.models)
    if not both.models:
        raise FleetError("the lists name no model; give one a line")
    return ModelList(both.models, both.duplicates + sum(one.duplicates for one in lists))


def _open(uri: str, recipe: str) -> "Store":
    from huref.recipe import load_recipe
    from huref.registry.stores import open_or_create

    wanted = load_recipe(recipe)[0]
    store, is_new = open_or_create(uri, wanted)
    if is_new:
        echo(f"created the registry {uri}", err=True)
    if store.recipe.digest != wanted.digest:
        raise FleetError(
            f"{uri} holds the recipe '{store.recipe.name}' {store.recipe.digest}, and "
            f"'{recipe}' is {wanted.digest}; name the right one with --recipe"
        )
    return store


def _text(report: "FleetReport", journal: Path) -> str:
    from huref.cli.tables import align, counted

    figures = report.to_json()
    lines = [
        f"measured   {counted(figures['done'], 'model')} in {_duration(report.seconds)}, "
        f"{figures['bytes_read']:,} bytes read",
        f"known      {figures['known']:,} in the registry already",
        f"failed     {figures['failed']:,}",
    ]
    if report.duplicates:
        names = counted(report.duplicates, "name")
        lines.append(f"repeated   {names} of models listed before")
    if report.requests:
        waited = f", waited {_duration(report.seconds_waited)} for its limits"
        lines.append(f"requests   {report.requests:,} to the Hub{waited}")
    lines.append(f"journal    {journal}")
    if report.failures:
        rows = [["model", "failure", "reason"]]
        for line in report.failures[:SHOWN]:
            reason = line.reason
            if len(reason) > LONGEST_REASON:
                reason = reason[: LONGEST_REASON - 3] + "..."
            rows.append([line.listed, line.kind.removesuffix("Error"), reason])
        lines += ["", *align(rows, left=3)]
        if len(report.failures) > SHOWN:
            lines.append(f"and {len(report.failures) - SHOWN:,} more, in {journal}")
    return "\n".join(lines)


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{seconds:.1f} s"
