"""`huref identify`: which known base a model was built from."""

import math
from pathlib import Path
from typing import TYPE_CHECKING

import click

from huref.cli.options import (
    as_file,
    echo,
    json_option,
    print_json,
    recipe_option,
    require_kind,
    say_seals,
)
from huref.errors import RegistryError
from huref.escape import terminal

if TYPE_CHECKING:
    from huref.registry.identification import Identification


@click.command()
@click.argument("model")
@click.option("--registry", "uri", metavar="URI", help="Known bases.  [default: ~/.huref/registry]")
@click.option("--every", is_flag=True, help="Search models that declare a base, too.")
@click.option("--read", default=5, show_default=True, type=click.IntRange(0), metavar="COUNT",
              help="The most candidates whose weights are read.")  # fmt: skip
@click.option("-o", "--out", type=as_file, help="Draw it beside its nearest three (PNG).")
@recipe_option
@json_option
def identify(
    model: str,
    uri: str | None,
    every: bool,
    read: int,
    out: Path | None,
    recipe: str,
    as_json: bool,
) -> None:
    """Say which known base MODEL was built from, if any.

    The nearest bases are found by their sketches and then compared by their weights, where these
    can be read.
    """
    from huref.registry.identify import identify as find
    from huref.registry.store import default_uri
    from huref.registry.stores import open_store
    from huref.version import __version__

    if uri is None and not Path(default_uri()).is_dir():
        raise RegistryError(
            f"there are no known bases at {default_uri()}; give --registry URI, or make them: "
            f"huref registry init {default_uri()}, then huref registry add {default_uri()} MODEL"
        )
    require_kind(out, (".png",))
    found = find(model, open_store(uri or default_uri()), recipe=recipe, read=read, every=every)
    say_seals([found.record])
    if out is not None:
        from huref.decoder.picture import write_png

        write_png(out, found.draw(recipe), {"Software": f"huref {__version__}"})
        echo(f"wrote {out}", err=True)
    if as_json:
        print_json(found.to_json())
        return
    echo(as_text(found))


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
