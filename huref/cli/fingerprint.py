"""`huref fingerprint`: one model's picture."""

import re
from pathlib import Path

import click

from huref.cli.options import (
    as_file,
    describe_files,
    echo,
    json_option,
    key_option,
    print_json,
    recipe_option,
    require_kind,
)
from huref.escape import terminal
from huref.files import as_path, require_folder


@click.command()
@click.argument("model")
@click.option("-o", "--out", type=as_file, help="Where to write the PNG.  [default: NAME.dog.png]")
@recipe_option
@click.option("--decoder", metavar="NAME|FILE", help="Another decoder than the recipe's.")
@click.option("--record", type=as_file, help="Also save the record (private: it leaks weights).")
@click.option("--base", metavar="MODEL", help="For an adapter: its base, if not the one it names.")
@click.option(
    "--caption", is_flag=True, help="Write name, four-word code and colours below the dog."
)
@key_option
@json_option
def fingerprint(
    model: str,
    out: Path | None,
    recipe: str,
    decoder: str | None,
    record: Path | None,
    base: str | None,
    caption: bool,
    key: Path | None,
    as_json: bool,
) -> None:
    """Draw the picture of a model: models of one lineage get alike dogs."""
    out = out or _default_picture(model)
    require_kind(out, (".png",))
    require_folder(record)
    from huref.api.fingerprint import fingerprint as make

    result = make(
        model,
        out,
        recipe=recipe,
        decoder=decoder,
        record=record,
        base=base,
        caption=caption,
        key=key,
        units=False,
    )
    if as_json:
        print_json(result.to_json())
        return
    costs = result.costs
    echo(f"picture  {out}")
    echo(f"code     {' '.join(result.code)}")
    if record:
        echo(f"record   {record}  (private: it leaks weights)")
    if result.record.revision:
        echo(f"commit   {terminal(result.record.revision)}")
    if result.record.files is not None:
        echo(f"files    {terminal(describe_files(result.record.files))}")
    made_by = result.record.recipe
    echo(f"recipe   {terminal(made_by.name)} {made_by.digest}; with its decoder, as in the PNG, "
         f"{made_by.picture_digest}")  # fmt: skip
    share = costs.bytes_read / max(costs.bytes_total, 1)
    part = f"{share:.1%}".replace("%", " %") if share <= 1 else "some of them twice"
    echo(f"read     {costs.bytes_read:,} of {costs.bytes_total:,} bytes ({part})")


def _default_picture(model: str) -> Path:
    name = as_path(model.partition("@")[0]).resolve().name
    name = re.sub(r"[^\w.-]+", "-", name)
    return Path(f"{name.removesuffix('.safetensors') or 'fingerprint'}.dog.png")
