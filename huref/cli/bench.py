"""`huref bench`: a list of pairs with expected verdicts in, a table out."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from huref.cli import options
from huref.cli.options import (
    as_file,
    json_option,
    no_cache_option,
    print_json,
    recipe_option,
    require_kind,
)
from huref.files import replacing

if TYPE_CHECKING:
    from huref.api.bench import Bench

KINDS = (".json", ".md", ".html")


@click.command()
@click.argument("pairs", metavar="PAIRS.tsv")
@click.option(
    "-o",
    "--out",
    "outs",
    type=as_file,
    multiple=True,
    metavar="FILE",
    help="Also write the result: .json, .md (Markdown) or .html (a page); may be repeated.",
)
@click.option(
    "--resume",
    is_flag=True,
    help="Continue a stopped run from the journal beside the first -o; failed models are tried "
    "again.",
)
@click.option(
    "--where",
    "conditions",
    multiple=True,
    metavar="COLUMN=VALUE",
    help="Only rows with this cell, as rung=1; may be repeated.",
)
@no_cache_option
@json_option
@recipe_option
@click.pass_context
def bench(
    context: click.Context,
    pairs: str,
    outs: tuple[Path, ...],
    resume: bool,
    conditions: tuple[str, ...],
    no_cache: bool,
    as_json: bool,
    recipe: str,
) -> None:
    """Measure the pairs of a list and count right and wrong verdicts.

    The list is tab-separated with a header. Columns: id_a, id_b (models by Hub id, folder or file),
    relation (free text by which results are grouped) and expected (a verdict, or disputed: shown
    and not counted). `rivals` may hold published scores of other tools, `older` which of a and b is
    the parent; all other columns are carried along. PAIRS.tsv may be `public`, the list of public
    models that ships with huref.

    Each model is read once. With -o every result is appended to FILE.journal at once, so a stopped
    run can be continued by --resume. Exit code 1: a row or a model could not be used (the others
    are measured); 0 otherwise, also where verdicts are wrong.
    """
    for out in outs:
        require_kind(out, KINDS)
    if resume and not outs:
        raise click.UsageError("--resume needs the -o of the run that is continued")
    chosen: dict[str, str] = {}
    for condition in conditions:
        column, equals, value = condition.partition("=")
        if not equals:
            raise click.UsageError(f"--where {condition}: give COLUMN=VALUE")
        chosen[column] = value
    from huref.api.bench import bench as measure
    from huref.api.pairs_file import find_list, read_pairs
    from huref.cli.bench_tables import as_text, messages

    listed = read_pairs(find_list(pairs))
    if chosen:
        listed = listed.where(chosen)
    result = measure(
        listed,
        recipe=recipe,
        cache=not no_cache,
        journal=outs[0].with_name(f"{outs[0].name}.journal") if outs else None,
        resume=resume,
    )
    for message in messages(result):
        options.echo(message, err=True)
    for out in outs:
        _write(result, out)
        options.echo(f"wrote {out}", err=True)
    if as_json:
        print_json(result.to_json())
    else:
        options.echo(as_text(result))
    if not result.is_complete:
        context.exit(1)


def _write(result: "Bench", path: Path) -> None:
    """Write a result; the suffix of the path chooses the form."""
    kind = path.suffix.lower()
    if kind == ".html":
        from huref.report.bench_page import render_bench

        text = render_bench(result)
    elif kind == ".md":
        from huref.cli.bench_tables import as_markdown

        text = as_markdown(result)
    else:
        text = options.as_json(result.to_json()) + "\n"
    with replacing(path) as temporary:
        temporary.write_text(text, "utf-8")
