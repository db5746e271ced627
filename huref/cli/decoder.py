"""`huref decoder`: import StyleGAN2 checkpoints of one's own and list them."""

from pathlib import Path

import click

from huref.cli.options import echo, json_option, print_json
from huref.escape import terminal


@click.group()
def decoder() -> None:
    """Import and list decoders: StyleGAN2 networks of your own.

    NVIDIA's AFHQ-dog, for instance: import it once, then name it with --decoder.
    """


@decoder.command("import")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--name", help="Its name for --decoder.  [default: the file's name]")
@click.option("--psi", type=float, help="Truncation.  [default: 0.5 for AFHQ, else as shipped]")
@click.option(
    "--cutoff",
    type=int,
    help="Number of layers that are truncated.  [default: 8 for AFHQ, else all]",
)
@click.option(
    "--licence", metavar="TEXT", help="The network's licence, if the file does not name it."
)
@click.option("--replace", is_flag=True, help="Replace an imported decoder of the same name.")
@json_option
def import_file(
    file: Path,
    name: str | None,
    psi: float | None,
    cutoff: int | None,
    licence: str | None,
    replace: bool,
    as_json: bool,
) -> None:
    """Convert a checkpoint and store it under a name.

    Nothing in the file is executed. FILE is a .pkl of NVIDIA's stylegan2-ada-pytorch or stylegan3
    (StyleGAN2 networks), a .pt of rosinality's or lucidrains' code, or a .safetensors of any of
    these.
    """
    from huref.decoder.library import import_decoder

    made, entry = import_decoder(
        file, name, psi=psi, cutoff=cutoff, licence=licence, replace=replace
    )
    if as_json:
        print_json(entry.to_json())
        return
    echo(f"decoder  {entry.name}, {entry.resolution} px  ({entry.path})")
    echo(f"licence  {terminal(entry.licence)}")
    reach = "all layers" if entry.cutoff is None else f"the first {entry.cutoff} layers"
    echo(f"truncated by psi {entry.psi:g} on {reach}")
    for note in made.metadata.get("notes", ()):
        echo(f"note: {terminal(note)}", err=True)
    echo(f"use it: huref fingerprint MODEL --decoder {entry.name}", err=True)


@decoder.command("list")
@json_option
def list_all(as_json: bool) -> None:
    """List the decoder that ships with huref and the imported ones."""
    from huref.cli.tables import align
    from huref.decoder.library import list_decoders

    entries = list_decoders()
    if as_json:
        print_json({"decoders": [entry.to_json() for entry in entries]})
        return
    rows = [["name", "px", "psi", "cutoff", "digest", "licence"]]
    for e in entries:
        cutoff = "all" if e.cutoff is None else str(e.cutoff)
        rows.append([e.name, str(e.resolution), f"{e.psi:g}", cutoff, e.digest, e.licence])
    echo("\n".join(align(rows, left=6)))
