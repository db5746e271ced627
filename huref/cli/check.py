"""`huref check`: declared origin against measured lineage."""

import json

import click

from huref.cli.options import json_option, no_cache_option, recipe_option

MISMATCH = 3  # exit code


@click.command()
@click.argument("model")
@click.option(
    "--base",
    "bases",
    metavar="MODEL",
    multiple=True,
    help="Measure against this instead of what it declares; may be repeated.",
)
@no_cache_option
@json_option
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
    from huref.api.check import check as measure

    result = measure(model, bases, recipe=recipe, cache=not no_cache)
    click.echo(json.dumps(result.to_json(), indent=2, ensure_ascii=False) if as_json else result)
    if result.answer == "contradicted":
        context.exit(MISMATCH)
    if result.answer == "unreachable":
        context.exit(1)
