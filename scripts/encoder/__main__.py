"""`python -m scripts.encoder`: its commands."""

from scripts import run_command

run_command(
    "encoder",
    {
        "ablate": ("ablate", "train the encoder without parts of its loss and compare"),
    },
)
