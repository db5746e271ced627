"""Commands of `python -m scripts.docs`."""

from scripts import run_command

COMMANDS = {
    "cli": ("cli", "write docs/cli.md from the help of every command"),
    "json": ("json_page", "write docs/json.md from docs/schemas"),
    "notes": ("notes", "print the release notes of a version from CHANGELOG.md"),
    "check": ("check", "check a built site: complete API page, nothing loaded from other servers"),
}

if __name__ == "__main__":
    run_command("docs", COMMANDS)
