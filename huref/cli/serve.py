"""`huref serve`: the page."""

from pathlib import Path

import click

from huref.cli.options import echo
from huref.errors import HurefError

PORT = 8765


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="The address to listen on.")
@click.option("--port", default=PORT, show_default=True, type=click.IntRange(0, 65535),
              help="The port to listen on; 0 takes a free one.")  # fmt: skip
@click.option(
    "--root",
    "roots",
    multiple=True,
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="A folder below which local models may be read; may be repeated.  [default: this one]",
)
@click.option(
    "--token",
    envvar="HUREF_SERVE_TOKEN",
    help="Answer only those who open the address with it.  [env: HUREF_SERVE_TOKEN]",
)
@click.option("--registry", "uri", metavar="URI", help="Known bases.  [default: ~/.huref/registry]")
@click.option("--no-browser", is_flag=True, help="Do not open the page.")
def serve(
    host: str,
    port: int,
    roots: tuple[Path, ...],
    token: str | None,
    uri: str | None,
    no_browser: bool,
) -> None:
    """Show a page on which two models are named and compared.

    The page is for this machine's user alone: other web pages cannot drive it, and any --host but a
    loopback address demands a --token. See docs/serve.md.
    """
    from huref.serve.settings import Settings, count_cores, is_loopback

    if token is not None and not (token and token.isascii() and token.isprintable()):
        raise click.UsageError("--token is empty or holds other characters than printable ASCII")
    if not token and not is_loopback(host):
        raise click.UsageError(
            f"--host {host} can be reached from other machines; give a --token as well, "
            "or set HUREF_SERVE_TOKEN"
        )
    try:
        from huref.serve.app import create_app
        from huref.serve.run import address_of, listen, run
    except ModuleNotFoundError as error:
        raise HurefError(
            f"'huref serve' needs {error.name}", advice="pip install 'huref[serve]'"
        ) from error
    from huref.assets import home

    settings = Settings(
        roots=tuple(root.resolve() for root in roots or (Path(),)),
        registry=_absolute(uri or str(home() / "registry")),
        token=token or "",
        host=host,
        workers=count_cores(),
    )
    server = listen(host, port)
    app = create_app(settings, server.getsockname()[1])
    address = address_of(settings, server)
    echo(f"huref at {address}")
    echo(f"reads local models below {', '.join(map(str, settings.roots))}; Ctrl-C stops", err=True)
    run(app, server, opened="" if no_browser else address)


def _absolute(uri: str) -> str:
    """The same registry, whatever the working folder of the process that opens it."""
    return uri if "://" in uri else str(Path(uri).expanduser().absolute())
