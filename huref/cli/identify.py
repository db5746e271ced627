"""`huref identify`: which known base a model was built from."""

import math
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import click

from huref.cli.options import (
    as_file,
    as_json_line,
    echo,
    explain_failure,
    json_option,
    jsonl_option,
    names_for,
    print_json,
    recipe_option,
    require_kind,
    say_files,
    say_seals,
)
from huref.escape import terminal

if TYPE_CHECKING:
    from huref.registry.identification import Identification


@click.command()
@click.argument("models", nargs=-1, required=True)
@click.option("--registry", "uri", metavar="URI", help="Known bases.  [default: ~/.huref/registry]")
@click.option("--every", is_flag=True, help="Search models that declare a base, too.")
@click.option("--read", default=5, show_default=True, type=click.IntRange(0), metavar="COUNT",
              help="The most candidates whose weights are read.")  # fmt: skip
@click.option("-o", "--out", type=as_file, help="Draw it beside its nearest three (PNG).")
@jsonl_option
@recipe_option
@json_option
@click.pass_context
def identify(
    context: click.Context,
    models: tuple[str, ...],
    uri: str | None,
    every: bool,
    read: int,
    out: Path | None,
    jsonl: bool,
    recipe: str,
    as_json: bool,
) -> None:
    """Say which known base each of MODELS was built from, if any.

    - reads names from stdin, one a line. The nearest bases are found by their sketches and then
    compared by their weights, where these can be read. Exit code 1: a model could not be read; the
    others are identified all the same.
    """
    names = names_for(models, as_json, jsonl)
    if out is not None and (names := list(islice(names, 2)))[1:]:
        raise click.UsageError("-o draws one model; give one")
    require_kind(out, (".png",))
    from huref.registry.identify import identify as find
    from huref.registry.known import find_known
    from huref.registry.stores import open_store

    store = open_store(find_known(uri))
    failed = False
    for place, name in enumerate(names):
        try:
            found = find(name, store, recipe=recipe, read=read, every=every)
        except Exception as error:  # a queue goes on after any model
            failed = True
            why = explain_failure(error)
            if jsonl:
                echo(as_json_line({"model": name, "answer": None, "error": why}))
            echo(f"huref: {why}", err=True)
            continue
        say_seals([found.record])
        say_files([found.record])
        if out is not None:
            _draw(found, out, recipe)
        if as_json:
            print_json(found.to_json())
        elif jsonl:
            echo(as_json_line(found.to_json() | {"error": None}))
        else:
            echo(("\n" if place else "") + as_text(found))
    context.exit(1 if failed else 0)


def _draw(found: "Identification", out: Path, recipe: str) -> None:
    from huref.decoder.picture import write_png
    from huref.version import __version__

    write_png(out, found.draw(recipe), {"Software": f"huref {__version__}"})
    echo(f"wrote {out}", err=True)


def as_text(found: "Identification") -> str:
    """The answer in a sentence, the chance that it is a stranger's, and the nearest bases."""
    from huref.cli.tables import align
    from huref.registry.signing import signer_id

    lines = [terminal(f"{found.record.model}: {found.sentence}")]
    chosen = found.chosen
    if chosen is not None:
        chance = _probability(chosen.log10_stranger)
        lines += [
            terminal(chosen.evidence.why),
            f"a stranger scores as high against {found.of} bases with probability {chance}",
            "",
        ]
        rows = [
            ["nearest", "sketch", "ICS", "cos z", "log10 p", "verdict", "measured", "signed by"]
        ]
        for candidate in found.candidates:
            figures = (candidate.match.ics, candidate.similarity.ics, candidate.match.latent_cosine)
            shown = ["-" if figure is None else f"{figure + 0:.3f}" for figure in figures]
            log10_p = candidate.evidence.log10_p
            shown.append("-" if log10_p is None else f"{log10_p:.1f}")
            entry = candidate.match.entry
            signed = (entry.measured_at, (signer_id(entry) or "unsigned")[:16])
            rows.append(
                [candidate.model, *shown, candidate.evidence.verdict or "stranger", *signed]
            )
        lines += align(rows, left=1)
    return "\n".join(lines)


def _probability(log10: float) -> str:
    if log10 > -3:
        return f"{10**log10:.2g}"
    return "below 1e-99" if log10 < -99 else f"1e{math.floor(log10)}"
