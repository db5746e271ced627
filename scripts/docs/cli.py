"""Writes docs/cli.md: the help of every command, as click prints it."""

import argparse
import re
from collections.abc import Iterator

import click

from huref.cli import main as huref
from scripts import ROOT

PAGE = ROOT / "docs" / "cli.md"
WIDTH = 90  # columns of the help texts
HEAD = """# Command reference

The help of every command, as `huref COMMAND --help` prints it. This page is written by
`python -m scripts.docs cli`; a test compares it with the commands.

Results go to stdout, everything else to stderr. Exit codes: 0 done; 1 a failure, described in one
line on stderr; 2 wrong usage; 3 what a model declares does not hold (`huref check`); 130 stopped by
Ctrl-C.

Environment variables: `HUREF_DEBUG=1` shows the traceback of a failure; `HUREF_HOME` is the folder
of the cache, imported decoders and the default registry; `HF_TOKEN`, `HF_HOME`, `HF_ENDPOINT` and
`HF_HUB_OFFLINE` are those of huggingface_hub; `HUREF_MAX_MEMORY=64G` bounds the
tensors that are read at once (three quarters of the machine's memory unless it is set);
`HUREF_SERVE_TOKEN` is the token of `huref serve`.

`python -m huref` is the same as `huref`. Every command has `-q`. Completion in a shell:

    eval "$(_HUREF_COMPLETE=bash_source huref)"        # in ~/.bashrc
    eval "$(_HUREF_COMPLETE=zsh_source huref)"         # in ~/.zshrc
    _HUREF_COMPLETE=fish_source huref | source         # in ~/.config/fish/config.fish
"""


def commands(
    command: click.Command, name: str, parent: click.Context | None = None
) -> Iterator[tuple[click.Context, click.Command]]:
    """A command and all below it, groups before their commands."""
    width = {"terminal_width": WIDTH, "max_content_width": WIDTH}
    context = click.Context(
        command, info_name=name, parent=parent, **{**command.context_settings, **width}
    )
    yield context, command
    if isinstance(command, click.Group):
        for child in command.list_commands(context):
            found = command.get_command(context, child)
            assert found is not None
            yield from commands(found, child, context)


def render() -> str:
    """The page."""
    parts = [HEAD]
    for context, command in commands(huref, "huref"):
        depth = 2 if context.parent is None or context.parent.parent is None else 3
        help_text = re.sub(r"[ \t]+\n", "\n", command.get_help(context)).strip()
        parts.append(f"{'#' * depth} {context.command_path}\n\n```text\n{help_text}\n```\n")
    return "\n".join(parts)


def main() -> None:
    """Write the page."""
    argparse.ArgumentParser(description=__doc__).parse_args()
    PAGE.write_text(render(), "utf-8")
    print(f"wrote {PAGE.relative_to(ROOT)}")
