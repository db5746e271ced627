"""Commands of `python -m scripts.zoo`."""

from scripts import run_command

COMMANDS = {
    "make": ("make", "train and write the models of known lineage that a config lists"),
}

if __name__ == "__main__":
    run_command("zoo", COMMANDS)
