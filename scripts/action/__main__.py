"""Commands of `python -m scripts.action`."""

from scripts import run_command

COMMANDS = {
    "annotate": ("annotate", "show the lines of `huref check --jsonl` on GitHub"),
}

if __name__ == "__main__":
    run_command("action", COMMANDS)
