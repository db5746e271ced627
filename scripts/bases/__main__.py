"""Commands of `python -m scripts.bases`."""

from scripts import run_command

COMMANDS = {
    "build": ("build", "measure the public bases of a list into a registry"),
}

if __name__ == "__main__":
    run_command("bases", COMMANDS)
