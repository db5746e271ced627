"""Commands of `python -m scripts.humans`."""

from scripts import run_command

COMMANDS = {
    "page": ("write", "write the test as one HTML file that needs no network"),
    "sheets": ("sheets", "write the same test as PNG sheets, to be answered by hand"),
    "score": ("score", "score files of answers: accuracy, d', false 'same', with intervals"),
}

if __name__ == "__main__":
    run_command("humans", COMMANDS)
