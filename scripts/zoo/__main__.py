"""Commands of `python -m scripts.zoo`."""

from scripts import run_command

COMMANDS = {
    "make": ("make", "make the models of known lineage, from a config"),
}

if __name__ == "__main__":
    run_command("zoo", COMMANDS)
