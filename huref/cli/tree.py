"""`huref tree`: the lineage forest of some models."""

from pathlib import Path

import click

from huref.cli.options import (
    as_file,
    echo,
    end_with_failures,
    no_cache_option,
    recipe_option,
    require_kind,
    say_failure,
    say_seals,
    table_names,
)

TREES = (".png", ".svg", ".nwk", ".json")


@click.command()
@click.argument("models", nargs=-1, required=True)
@click.option(
    "-o", "--out", type=as_file, required=True, help="A file: .png, .svg, .nwk (Newick) or .json."
)
@click.option("--paths", is_flag=True, help="Show local paths, not only their last parts.")
@no_cache_option
@recipe_option
def tree(models: tuple[str, ...], out: Path, paths: bool, no_cache: bool, recipe: str) -> None:
    """Draw the lineage tree of two or more MODELS.

    Each leaf shows a model's dog; unrelated models are in separate trees. Branch lengths are -ln
    ICS, which adds up along a line of descent. An arrow marks a measured direction.

    - reads names from stdin, one a line. A model that cannot be read is left out: it is named on
    stderr, and the exit code is 1.
    """
    names = table_names(models)
    require_kind(out, TREES)
    from huref.api.compare import compare
    from huref.api.public import public_table
    from huref.lineage.build_forest import build_forest
    from huref.report.files import write_forest

    found = compare(
        names, recipe=recipe, cache=not no_cache, skip_failed=True, on_failure=say_failure
    )
    say_seals(found.records)
    table = found if paths else public_table(found)
    write_forest(build_forest(table), out, recipe=recipe)
    echo(f"wrote {out}", err=True)
    end_with_failures(found)
