"""The versions of huref and of its JSON documents."""

__version__ = "0.1.0"
SCHEMA = 1  # of all JSON documents; docs/json.md describes them
