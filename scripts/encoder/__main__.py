"""Commands of `python -m scripts.encoder`."""

from scripts import run_command

COMMANDS = {
    "ablate": ("ablate", "train the encoder without parts of its loss and compare the results"),
}

if __name__ == "__main__":
    run_command("encoder", COMMANDS)
