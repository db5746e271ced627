"""Commands of `python -m scripts.dogs`."""

from scripts import run_command

COMMANDS = {
    "draw": ("draw", "draw contact sheets of the portraits that the decoder is trained on"),
}

if __name__ == "__main__":
    run_command("dogs", COMMANDS)
