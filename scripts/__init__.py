"""What made the checkpoints and what measures them, in rooms: `python -m scripts.ROOM COMMAND`."""

import sys
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]  # of the repository


def run_command(room: str, commands: Mapping[str, tuple[str, str]]) -> None:
    """Run one of a room's commands with the arguments that follow its name.

    Args:
        room: a package of scripts, as "zoo".
        commands: by name, the module inside the room that has its `main`, and what it does.
    """
    name = sys.argv[1] if len(sys.argv) > 1 else ""
    if name not in commands:
        width = max(map(len, commands))
        lines = [f"  {each:<{width}}  {what}" for each, (_, what) in commands.items()]
        usage = "\n".join([f"usage: python -m scripts.{room} COMMAND [OPTION...]", "", *lines])
        print(usage, file=sys.stdout if name in ("-h", "--help") else sys.stderr)
        sys.exit(0 if name in ("-h", "--help") else 2)
    sys.argv = [f"python -m scripts.{room} {name}", *sys.argv[2:]]
    import_module(f"scripts.{room}.{commands[name][0]}").main()
