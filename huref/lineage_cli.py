"""`huref tree` and `huref check`: what follows from a comparison."""

import json
from pathlib import Path

import click

from huref.files import require_folder

COMPARISONS = (".html", ".png")
TREES = (".png", ".svg", ".nwk", ".json")
MISMATCH = 3  # exit code

as_file = click.Path(dir_okay=False, path_type=Path)
recipe_option = click.option(
    "--recipe", default="default", metavar="NAME|FILE", help="How they are measured."
)


def require_kind(path: Path | None, kinds: tuple[str, ...]) -> None:
    """Say now, not after minutes of reading, that an output cannot be written.

    Raises:
        click.UsageError: the file's name does not end in one of `kinds`.
        HurefError: there is no such folder.
    """
    if path is None:
        return
    if path.suffix.lower() not in kinds:
        raise click.UsageError(f"{path}: give a name that ends in {', '.join(kinds)}")
    require_folder(path)


@click.command()
@click.argument("models", nargs=-1, required=True)
@click.option(
    "-o", "--out", type=as_file, required=True, help="A file: .png, .svg, .nwk (Newick) or .json."
)
@click.option("--no-cache", is_flag=True, help="Read the weights again; keep no records.")
@recipe_option
def tree(models: tuple[str, ...], out: Path, no_cache: bool, recipe: str) -> None:
    """Draw the lineage tree of two or more MODELS.

    Dogs stand at its leaves. Unrelated models stand in trees of their own. Branch lengths are -ln
    ICS, which adds up along a line of descent; an arrow says that the direction was measured.
    """
    if len(models) < 2:
        raise click.UsageError("give at least two models")
    require_kind(out, TREES)
    from huref.comparison import compare
    from huref.lineage.growing import build_forest
    from huref.report.files import write_forest

    table = compare(models, recipe=recipe, cache=not no_cache)
    write_forest(build_forest(table), out, recipe=recipe)
    click.echo(f"wrote {out}", err=True)


@click.command()
@click.argument("model")
@click.option(
    "--base",
    "bases",
    metavar="MODEL",
    multiple=True,
    help="Measure against this instead of what it declares; may be repeated.",
)
@click.option("--no-cache", is_flag=True, help="Read the weights again; keep no records.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@recipe_option
@click.pass_context
def check(
    context: click.Context,
    model: str,
    bases: tuple[str, ...],
    no_cache: bool,
    as_json: bool,
    recipe: str,
) -> None:
    """Hold what MODEL declares of its origin against its weights.

    Declarations are read from the model card, the adapter's, merge's and model's configuration
    and GGUF keys. Exit code 3: a declaration is contradicted; 1: a declared base could not be
    measured; 0 otherwise.
    """
    from huref.checking import check as measure

    result = measure(model, bases, recipe=recipe, cache=not no_cache)
    click.echo(json.dumps(result.to_json(), indent=2, ensure_ascii=False) if as_json else result)
    if result.answer == "contradicted":
        context.exit(MISMATCH)
    if result.answer == "unreachable":
        context.exit(1)
