"""`python -m scripts.dogs`: its commands."""

from scripts import run_command

run_command(
    "dogs",
    {
        "draw": ("draw", "draw sheets of the portraits that the decoder learns from"),
    },
)
