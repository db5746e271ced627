"""Commands of `python -m scripts.dogs`."""

from scripts import run_command

COMMANDS = {
    "draw": ("draw", "draw sheets of the portraits that the decoder learns from"),
}

if __name__ == "__main__":
    run_command("dogs", COMMANDS)
