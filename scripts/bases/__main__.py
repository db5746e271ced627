"""Commands of `python -m scripts.bases`."""

from scripts import run_command

COMMANDS = {
    "build": ("build", "measure a list of public bases into a registry"),
}

if __name__ == "__main__":
    run_command("bases", COMMANDS)
