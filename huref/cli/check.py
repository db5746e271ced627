"""`huref check`: declared origin against measured lineage, of one model or of a queue of them."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from huref.cli.options import (
    as_json_line,
    echo,
    explain_failure,
    json_option,
    jsonl_option,
    names_for,
    no_cache_option,
    print_json,
    recipe_option,
    say_what_was_read,
)
from huref.errors import locating

if TYPE_CHECKING:
    from huref.api.check import Check, Suggestion

MISMATCH = 3  # exit code
FAILED = 1


@click.command()
@click.argument("models", nargs=-1, required=True)
@click.option(
    "--base",
    "bases",
    metavar="MODEL",
    multiple=True,
    help="Compare with this model instead of the declared bases; may be repeated.",
)
@click.option("--suggest", is_flag=True, help="Print the card's lines that the weights support.")
@jsonl_option
@no_cache_option
@json_option
@recipe_option
@click.pass_context
def check(
    context: click.Context,
    models: tuple[str, ...],
    bases: tuple[str, ...],
    suggest: bool,
    jsonl: bool,
    no_cache: bool,
    as_json: bool,
    recipe: str,
) -> None:
    """Compare the origin that each of MODELS declares with its weights.

    - reads names from stdin, one a line. Declarations are read from the model card, from adapter,
    merge and model configurations and from GGUF keys. Exit code 3: a declaration of any model is
    contradicted; 1: a model or a declared base could not be measured; 0 otherwise. A model that
    cannot be read stops none of the others. A line of --jsonl has what --suggest prints as well.
    """
    codes = set()
    for place, name in enumerate(names_for(models, as_json, jsonl)):
        try:
            result, suggestion = _measure(name, bases, recipe, not no_cache, suggest or jsonl)
        except Exception as error:  # a queue goes on after any model
            codes.add(FAILED)
            why = explain_failure(error)
            if jsonl:
                echo(as_json_line(_failure(name, why)))
            echo(f"huref: {why}", err=True)
            continue
        say_what_was_read(name, result.files)
        codes.add({"contradicted": MISMATCH, "unreachable": FAILED}.get(result.answer, 0))
        added: dict[str, Any] = {"suggested": suggestion.to_json()} if suggestion else {}
        if jsonl:
            echo(as_json_line(result.to_json() | added | {"error": None}))
        elif as_json:
            print_json(result.to_json() | added)
        else:
            _print(result, suggestion, place)
    context.exit(MISMATCH if MISMATCH in codes else max(codes))


def _measure(
    name: str, bases: Sequence[str], recipe: str, cache: bool, suggests: bool
) -> "tuple[Check, Suggestion | None]":
    from huref.api.check import check as measure
    from huref.api.check import suggest

    with locating(model=name):
        result = measure(name, bases, recipe=recipe, cache=cache)
        return result, suggest(result, recipe=recipe, cache=cache) if suggests else None


def _failure(name: str, why: str) -> dict[str, Any]:
    """The line of a model that could not be read."""
    return {
        "model": name,
        "answer": None,
        "declared": [],
        "notes": [],
        "files": None,
        "suggested": None,
        "error": why,
    }


def _print(result: "Check", suggestion: "Suggestion | None", place: int) -> None:
    if place:
        echo()
    echo(result)
    if suggestion:
        echo(f"\n{suggestion}")
