"""`huref compare`: the table of all pairs of some models."""

from pathlib import Path
from typing import Literal

import click

from huref.cli.options import (
    as_file,
    echo,
    end_with_failures,
    no_cache_option,
    recipe_option,
    require_kind,
    say_failure,
    say_files,
    say_seals,
    table_names,
    terminal_width,
)

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
@click.option(
    "--components",
    is_flag=True,
    help="Compare part by part: embeddings, head, each block, encoders, projector.",
)
@no_cache_option
@click.option("-o", "--out", type=as_file, help="Also write a report (.html) or picture (.png).")
@click.option("--paths", is_flag=True, help="Show local paths in the report, not only last parts.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--csv", "csv", is_flag=True, help="Print CSV.")
@click.option("--md", "md", is_flag=True, help="Print a Markdown table.")
@click.option("--latex", "latex", is_flag=True, help="Print a LaTeX table.")
def compare(
    models: tuple[str, ...],
    recipe: str,
    depth: Literal["recipe", "full"],
    components: bool,
    no_cache: bool,
    out: Path | None,
    paths: bool,
    as_json: bool,
    csv: bool,
    md: bool,
    latex: bool,
) -> None:
    """Compare two or more MODELS, every pair of them.

    - reads names from stdin, one a line. A model that cannot be read costs only its own pairs: it
    is named on stderr, and the exit code is 1. A table holds at most 1,000 models.
    """
    chosen = {"json": as_json, "csv": csv, "md": md, "latex": latex}
    forms = [form for form, is_chosen in chosen.items() if is_chosen]
    if len(forms) > 1:
        raise click.UsageError(f"--{' and --'.join(forms)} exclude each other; give one")
    names = table_names(models)
    require_kind(out, REPORTS)
    from huref.api.compare import compare as measure
    from huref.cli.tables import FORMATS, as_text

    table = measure(
        names,
        recipe=recipe,
        depth=depth,
        cache=not no_cache,
        skip_failed=True,
        components=components,
        on_failure=say_failure,
    )
    say_seals(table.records)
    say_files(table.records)
    if out is not None:
        from huref.api.public import public_table
        from huref.report.files import write_comparison

        write_comparison(table if paths else public_table(table), out, recipe=recipe)
        echo(f"wrote {out}", err=True)
    echo(FORMATS[forms[0]](table) if forms else as_text(table, terminal_width()))
    end_with_failures(table)
