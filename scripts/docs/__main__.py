"""`python -m scripts.docs`: its commands."""

from scripts import run_command

run_command(
    "docs",
    {
        "cli": ("cli", "write docs/cli.md from the help of every command"),
        "json": ("json_page", "write docs/json.md from docs/schemas"),
        "check": ("check", "check a built site: complete API page, nothing loaded from elsewhere"),
    },
)
