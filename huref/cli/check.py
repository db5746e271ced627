"""`huref check`: declared origin against measured lineage."""

import click

from huref.cli.options import echo, json_option, no_cache_option, print_json, recipe_option

MISMATCH = 3  # exit code


@click.command()
@click.argument("model")
@click.option(
    "--base",
    "bases",
    metavar="MODEL",
    multiple=True,
    help="Compare with this model instead of the declared bases; may be repeated.",
)
@click.option("--suggest", is_flag=True, help="Print the card's lines that the weights support.")
@no_cache_option
@json_option
@recipe_option
@click.pass_context
def check(
    context: click.Context,
    model: str,
    bases: tuple[str, ...],
    suggest: bool,
    no_cache: bool,
    as_json: bool,
    recipe: str,
) -> None:
    """Compare the origin that MODEL declares with its weights.

    Declarations are read from the model card, from adapter, merge and model configurations and
    from GGUF keys. Exit code 3: a declaration is contradicted; 1: a declared base could not be
    measured; 0 otherwise.
    """
    from huref.api.check import check as measure

    result = measure(model, bases, recipe=recipe, cache=not no_cache)
    suggestion = None
    if suggest:
        from huref.api.check import suggest as suggest_card

        suggestion = suggest_card(result, recipe=recipe, cache=not no_cache)
    if as_json:
        added = {"suggested": suggestion.to_json()} if suggestion else {}
        print_json(result.to_json() | added)
    else:
        echo(result)
        if suggestion:
            echo(f"\n{suggestion}")
    if result.answer == "contradicted":
        context.exit(MISMATCH)
    if result.answer == "unreachable":
        context.exit(1)
