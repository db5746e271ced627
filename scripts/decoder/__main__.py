"""`python -m scripts.decoder`: its commands."""

from scripts import run_command

run_command(
    "decoder",
    {
        "train": ("train", "train the decoder on drawings"),
    },
)
