"""`python -m scripts.zoo`: its commands."""

from scripts import run_command

run_command(
    "zoo",
    {
        "make": ("make", "make the models of known lineage, from a config"),
    },
)
