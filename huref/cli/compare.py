"""`huref compare`: the table of all pairs of some models."""

from pathlib import Path
from typing import Literal

import click

from huref.cli.options import as_file, no_cache_option, recipe_option, require_kind, say_seals

REPORTS = (".html", ".png")


@click.command()
@click.argument("models", nargs=-1, required=True)
@recipe_option
@click.option(
    "--depth",
    type=click.Choice(["recipe", "full"]),
    default="recipe",
    show_default=True,
    help="Which blocks are read: those of the recipe, or all (adds layer maps).",
)
@no_cache_option
@click.option("-o", "--out", type=as_file, help="Also write a report (.html) or picture (.png).")
@click.option("--paths", is_flag=True, help="Show local paths in the report, not only last parts.")
@click.option("--json", "form", flag_value="json", help="Print JSON.")
@click.option("--csv", "form", flag_value="csv", help="Print CSV.")
@click.option("--md", "form", flag_value="md", help="Print a Markdown table.")
@click.option("--latex", "form", flag_value="latex", help="Print a LaTeX table.")
def compare(
    models: tuple[str, ...],
    recipe: str,
    depth: Literal["recipe", "full"],
    no_cache: bool,
    out: Path | None,
    form: str | None,
    paths: bool,
) -> None:
    """Compare two or more MODELS, every pair of them."""
    if len(models) < 2:
        raise click.UsageError("give at least two models to compare")
    require_kind(out, REPORTS)
    from huref.api.compare import compare as measure
    from huref.cli.tables import FORMATS

    table = measure(models, recipe=recipe, depth=depth, cache=not no_cache)
    say_seals(table.records, models)
    if out is not None:
        from huref.api.public import public_table
        from huref.report.files import write_comparison

        write_comparison(table if paths else public_table(table), out, recipe=recipe)
        click.echo(f"wrote {out}", err=True)
    click.echo(FORMATS[form or "text"](table))
