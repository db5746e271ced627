"""`python -m scripts.bases`: its commands."""

from scripts import run_command

run_command(
    "bases",
    {
        "build": ("build", "measure the public bases of a list into a registry"),
    },
)
