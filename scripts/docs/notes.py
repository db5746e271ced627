"""Prints the release notes of a version: its section of CHANGELOG.md.

python -m scripts.docs notes > build/notes.md
"""

import re

from huref.version import __version__
from scripts import ROOT, make_parser

CHANGELOG = ROOT / "CHANGELOG.md"


def notes_of(version: str, changelog: str) -> str:
    """The section of a version.

    Raises:
        ValueError: there is none.
    """
    for section in re.split(r"(?m)^## ", changelog)[1:]:
        heading, _, text = section.partition("\n")
        if heading.split()[0] == version:
            return text.strip() + "\n"
    raise ValueError(f"CHANGELOG.md has no section {version}")


def main() -> None:
    """Print the notes."""
    parser = make_parser(__doc__)
    parser.add_argument("--version", default=__version__, help="of the section")
    arguments = parser.parse_args()
    print(notes_of(arguments.version, CHANGELOG.read_text("utf-8")), end="")


if __name__ == "__main__":
    main()
