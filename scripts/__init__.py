"""What made the checkpoints and what measures them, in rooms: `python -m scripts.ROOM COMMAND`."""

import sys
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]  # of the repository
Commands = Mapping[str, tuple[str, str]]


def run_command(room: str, commands: Commands) -> None:
    """Run the command that sys.argv names, with the arguments after its name.

    Args:
        room: a package inside scripts, as "zoo".
        commands: command -> (the module inside the room whose `main` runs it, its description).
    """
    name = sys.argv[1] if len(sys.argv) > 1 else ""
    if name not in commands:
        width = max(map(len, commands))
        lines = [f"  {command:<{width}}  {text}" for command, (_, text) in commands.items()]
        usage = "\n".join([f"usage: python -m scripts.{room} COMMAND [OPTION...]", "", *lines])
        print(usage, file=sys.stdout if name in ("-h", "--help") else sys.stderr)
        sys.exit(0 if name in ("-h", "--help") else 2)
    sys.argv = [f"python -m scripts.{room} {name}", *sys.argv[2:]]
    import_module(f"scripts.{room}.{commands[name][0]}").main()


def make_parser(description: str | None) -> ArgumentParser:
    """Return a parser whose --help prints the description, a module's docstring, as written."""
    return ArgumentParser(description=description, formatter_class=RawDescriptionHelpFormatter)
