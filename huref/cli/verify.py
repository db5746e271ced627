"""`huref verify`: what of an attestation or a signed picture holds."""

from pathlib import Path

import click

from huref.cli.options import as_file, echo, json_option, print_json, recipe_option
from huref.errors import one_line

FAILED = 3  # exit code


@click.command()
@click.argument("file", type=as_file)
@click.argument("model", required=False)
@click.option("--key", type=as_file, metavar="KEY.pub", help="The signer's public key, in PEM.")
@click.option("--opens", type=as_file, metavar="RECORD",
              help="The private record that opens the commitment.")  # fmt: skip
@click.option("--timestamp-root", type=as_file, metavar="CERT.pem",
              help="Certificates of the timestamp authority that you trust.")  # fmt: skip
@click.option("--identity", metavar="NAME", help="Who signed through sigstore, without a key.")
@click.option("--issuer", metavar="URL", help="Who vouches for the identity.")
@recipe_option
@json_option
@click.pass_context
def verify(
    context: click.Context,
    file: Path,
    model: str | None,
    key: Path | None,
    opens: Path | None,
    timestamp_root: Path | None,
    identity: str | None,
    issuer: str | None,
    recipe: str,
    as_json: bool,
) -> None:
    """Check FILE, an attestation or a fingerprint PNG; given MODEL, that it is the attested one.

    Says what was checked and what was not. Exit code 3: something does not hold, a wrong key
    included; 1: nothing could be checked; 0 otherwise.
    """
    if (identity is None) != (issuer is None):
        raise click.UsageError("--identity and --issuer belong together")
    from huref.api.verify import verify as check

    result = check(
        file,
        model,
        key=key,
        opens=opens,
        timestamp_root=timestamp_root,
        identity=identity,
        issuer=issuer,
        recipe=recipe,
    )
    if as_json:
        print_json(result.to_json())
    else:
        width = max(len(one.name) for one in result.checks)
        for one in result.checks:
            echo(f"{one.name:{width}}  {one.status:9}  {one_line(one.why)}")
    if result.answer == "fails":
        failed = next(one for one in result.checks if one.status == "fails")
        echo(f"huref: {one_line(file)}: {failed.name}: {one_line(failed.why)}", err=True)
        context.exit(FAILED)
    if result.answer == "unchecked":
        echo(f"huref: {one_line(file)}: nothing could be checked; give --key", err=True)
        context.exit(1)
