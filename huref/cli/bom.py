"""`huref bom`: a model's bill of materials."""

from pathlib import Path

import click

from huref import escape
from huref.cli.options import as_file, echo, no_cache_option, read_all_option, recipe_option
from huref.errors import EvidenceError

SPDX = (
    "SPDX 3 is not written: spdx-tools 0.8.5, which has a writer of its AI profile, writes a draft "
    "that SPDX 3.0.1 does not accept; leave out --spdx for CycloneDX"
)


@click.command()
@click.argument("model")
@click.option(
    "--base",
    "bases",
    metavar="MODEL",
    multiple=True,
    help="Measure the descent from this model instead of the declared bases; may be repeated.",
)
@click.option("-o", "--out", type=as_file, help="Where to write it.  [default: stdout]")
@click.option("--spdx", is_flag=True, help="SPDX 3 with its AI profile (says why it is not there).")
@read_all_option
@no_cache_option
@recipe_option
def bom(
    model: str,
    bases: tuple[str, ...],
    out: Path | None,
    spdx: bool,
    read_all: bool,
    no_cache: bool,
    recipe: str,
) -> None:
    """Write the bill of materials of MODEL: CycloneDX 1.7 for machine learning, as JSON.

    It has the model, the SHA-256 of its files, licence and datasets where the card names them, and
    in the pedigree the bases that its weights descend from, each with the verdict as evidence. A
    declared base that the weights contradict is not an ancestor but a note.
    """
    if spdx:
        raise EvidenceError(SPDX)
    from huref.api.bom import bom as make
    from huref.files import replacing, require_folder

    require_folder(out)
    text = escape.to_json(
        make(model, bases, recipe=recipe, cache=not no_cache, read_all=read_all), indent=2
    )
    if out is None:
        echo(text)
        return
    with replacing(out) as temporary:
        temporary.write_text(text + "\n", "utf-8")
    echo(f"wrote {out}", err=True)
