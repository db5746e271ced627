"""The group of all commands, and how failures are shown.

Results go to stdout, everything else to stderr. Commands import heavy modules when they run, so
that `huref --help` answers at once.
"""

import contextlib
import os
import signal
import sys
from typing import Any, NoReturn

import click

from huref.cli.attack import attack
from huref.cli.attest import attest
from huref.cli.bench import bench
from huref.cli.bom import bom
from huref.cli.cache import cache
from huref.cli.check import check
from huref.cli.compare import compare
from huref.cli.decoder import decoder
from huref.cli.fingerprint import fingerprint
from huref.cli.fleet import fleet
from huref.cli.identify import identify
from huref.cli.layouts import layouts
from huref.cli.options import quiet_option
from huref.cli.probe import probe
from huref.cli.registry import registry
from huref.cli.serve import serve
from huref.cli.train_encoder import train_encoder
from huref.cli.tree import tree
from huref.cli.verify import verify
from huref.errors import HurefError, one_line
from huref.files import DISK
from huref.version import __version__


class _Huref(click.Group):
    """Prints a known failure as one line; HUREF_DEBUG=1 shows the traceback."""

    def main(self, *args: Any, **extra: Any) -> Any:
        try:
            return super().main(*args, **extra)
        except OSError as error:  # of stdout, while a help text or a version is printed
            if os.environ.get("HUREF_DEBUG") == "1" or not extra.get("standalone_mode", True):
                raise
            click.echo(f"huref: {_explain(error)}", err=True)
            _give_up_stdout()
            sys.exit(1)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        for word in args:
            try:
                word.encode()
            except UnicodeEncodeError:  # neither JSON, nor a record, nor SQLite could hold it
                click.echo(f"huref: {one_line(word)}: not valid Unicode; rename it", err=True)
                ctx.exit(1)
        return super().parse_args(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
            with contextlib.suppress(ValueError):  # in a thread, where no signal arrives
                signal.signal(signal.SIGTERM, _leave)
        # Read by torch: large tensors in huge pages, which halves the time of copies.
        os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
        try:
            return super().invoke(ctx)
        except (HurefError, OSError) as error:
            if os.environ.get("HUREF_DEBUG") == "1" or isinstance(error, BrokenPipeError):
                raise
            click.echo(f"huref: {_explain(error)}", err=True)
            if isinstance(error, OSError):
                _give_up_stdout()
            ctx.exit(1)
        except KeyboardInterrupt:
            click.echo("huref: stopped", err=True)
            ctx.exit(128 + signal.SIGINT)


def _explain(error: HurefError | OSError) -> str:
    if isinstance(error, OSError) and error.filename is None and error.errno in DISK:
        return f"the output cannot be written ({error.strerror})"
    return one_line(error)


def _give_up_stdout() -> None:
    """Drop what stdout still holds if it cannot be written, as on a full disk.

    Python would try once more at its end, and say so in lines of its own.
    """
    if sys.stdout is None:  # closed
        return
    try:
        sys.stdout.flush()
    except OSError:
        sink = os.open(os.devnull, os.O_WRONLY)
        os.dup2(sink, sys.stdout.fileno())
        os.close(sink)


def _leave(number: int, _: object) -> NoReturn:
    """Exit with the signal's code after temporary files are removed."""
    sys.exit(128 + number)


@click.group(cls=_Huref, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="huref")
def main() -> None:
    """Which base model does this language model descend from?

    A MODEL is a folder, a file of weights, a Hub id (org/name, optional @revision, org/name/file
    for one file or org/name:Q4_K_M for one quantisation), an address of the Hub, ollama:NAME, a
    LoRA adapter, a saved record or a fingerprint PNG, in any mix.
    """


def _add_quiet(command: click.Command) -> None:
    """Give a command, or each of a group's, the option -q."""
    if isinstance(command, click.Group):
        for below in command.commands.values():
            _add_quiet(below)
    else:
        quiet_option(command)


for command in (
    fingerprint, compare, check, tree, identify, registry, fleet, probe, attack, decoder,
    train_encoder, layouts, cache, bench, attest, verify, bom, serve,
):  # fmt: skip
    _add_quiet(command)
    main.add_command(command)
