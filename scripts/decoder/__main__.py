"""Commands of `python -m scripts.decoder`."""

from scripts import run_command

COMMANDS = {
    "train": ("train", "train the decoder on drawings"),
}

if __name__ == "__main__":
    run_command("decoder", COMMANDS)
