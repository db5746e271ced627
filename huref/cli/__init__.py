"""The command line, one module a command. `main` is the group of all commands."""

from huref.cli.main import main

__all__ = ["main"]
