"""Commands of `python -m scripts.decoder`."""

from scripts import run_command

COMMANDS = {
    "train": ("train", "distil the drawings into the decoder"),
    "fit-mapping": ("fit_mapping", "fit a decoder's mapping to drawings of linear colours"),
}

if __name__ == "__main__":
    run_command("decoder", COMMANDS)
