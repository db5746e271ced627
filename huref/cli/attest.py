"""`huref attest`: a signed statement of a model's files, latent and lineage."""

from pathlib import Path

import click

from huref.cli.options import (
    as_file,
    echo,
    json_option,
    key_option,
    no_cache_option,
    print_json,
    read_all_option,
    recipe_option,
)


@click.command()
@click.argument("model")
@key_option
@click.option("-o", "--out", type=as_file, help="The statement.  [default: NAME.attestation.json]")
@click.option(
    "--base",
    "bases",
    metavar="MODEL",
    multiple=True,
    help="State the measured verdict beside this model, too; may be repeated.",
)
@click.option(
    "--record",
    type=as_file,
    help="Save the private record that opens the commitment. Keep it secret.",
)
@click.option("--timestamp", metavar="URL", help="Add the token of this RFC 3161 authority.")
@click.option("--keyless", is_flag=True, help="Sign through sigstore (needs huref[keyless]).")
@read_all_option
@no_cache_option
@recipe_option
@json_option
def attest(
    model: str,
    key: Path | None,
    out: Path | None,
    bases: tuple[str, ...],
    record: Path | None,
    timestamp: str | None,
    keyless: bool,
    read_all: bool,
    no_cache: bool,
    recipe: str,
    as_json: bool,
) -> None:
    """State what MODEL is, and sign it: an in-toto statement in a DSSE envelope.

    It names the SHA-256 of every file, the recipe and the latent, and a commitment to the private
    record: a digest from which nothing follows until its owner shows the record. With --timestamp
    the statement is dated by somebody else. See docs/evidence.md.
    """
    if (key is None) != keyless:
        raise click.UsageError("give either --key KEY.pem or --keyless")
    if keyless and timestamp is not None:
        raise click.UsageError("--timestamp is for --key; sigstore's log dates the others")
    out = out or _default_name(model)
    from huref.api.attest import attest as make
    from huref.evidence.model_files import STATED

    made = make(
        model,
        out,
        key=key,
        bases=bases,
        record=record,
        timestamp=timestamp,
        recipe=recipe,
        cache=not no_cache,
        read_all=read_all,
    )
    if as_json:
        saved = str(record) if record else None
        print_json({"out": str(out), "record": saved, **made.to_json()})
        return
    stated = made.statement
    echo(f"statement   {out}")
    echo(f"signed by   {made.signer}")
    by_hub = sum(one.source == STATED for one in stated.subjects)
    note = f"  ({by_hub} by the SHA-256 that the Hub states, not read; see --read-all)"
    echo(f"files       {len(stated.subjects)}{note if by_hub else ''}")
    echo(f"commitment  {stated.commitment}")
    if stated.timestamp_authority:
        echo(f"timestamp   {stated.timestamp_authority}")
    for pair in stated.lineage:
        echo(f"verdict     {pair['verdict'] or 'none'} beside {pair['base']}")
    if record:
        echo(f"record      {record}  (private: it opens the commitment and leaks weights)")
    else:
        echo("without --record nobody can open the commitment later", err=True)


def _default_name(model: str) -> Path:
    name = Path(model.partition("@")[0]).expanduser().resolve().name
    return Path(f"{name or 'model'}.attestation.json")
