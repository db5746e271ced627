"""Writes docs/json.md: what each command prints as JSON, from the schemas in docs/schemas."""

import argparse
import json
from collections.abc import Iterator
from typing import Any

from scripts import ROOT

PAGE = ROOT / "docs" / "json.md"
SCHEMAS = ROOT / "docs" / "schemas"
COMMON = "common.json"
PAIR = f"{COMMON}#/$defs/pair"
EVERYWHERE = ("huref", "schema")  # keys of every document, described at the top of the page
# In the order of the command reference; every other schema follows by name.
FIRST = ("fingerprint", "compare", "check", "identify", "tree", "bench")
HEAD = """# JSON

Every command with `--json` prints one JSON document on stdout, and `huref tree -o FILE.json` writes
one. Each has a [JSON Schema](https://json-schema.org/draft/2020-12) in
[docs/schemas](schemas/common.json), against which a test validates the output. This page is written
from the schemas by `python -m scripts.docs json`.

- A figure that could not be had is null, and `why` says why.
- A document may have `huref`, the version of huref that printed it, and `schema`, the version of
  its form, an integer. Programs should ignore keys that they do not know: a new key does not raise
  `schema`.
- Numbers have full precision. Probabilities are given as log10, since a float cannot hold 1e-400.
- Names of models are printed as the user gave them.
"""


def load(name: str) -> dict[str, Any]:
    """A schema by the name of its file."""
    schema: dict[str, Any] = json.loads((SCHEMAS / name).read_text("utf-8"))
    return schema


def resolve(schema: dict[str, Any]) -> dict[str, Any]:
    """A schema with a reference into the common parts replaced by what it refers to."""
    reference = schema.get("$ref")
    if reference is None:
        return schema
    name = str(reference).rpartition("/")[2]
    found: dict[str, Any] = load(COMMON)["$defs"][name]
    return found | {key: value for key, value in schema.items() if key != "$ref"}


def type_of(schema: dict[str, Any]) -> str:
    """The type of a value in words."""
    schema = resolve(schema)
    if "enum" in schema:
        return " or ".join("null" if value is None else f"`{value}`" for value in schema["enum"])
    if "anyOf" in schema:
        return " or ".join(type_of(each) for each in schema["anyOf"])
    types = schema.get("type", "object")
    if types == "array" or "array" in types:
        inner = type_of(schema["items"]).replace(" or ", "/")
        return f"list of {inner}" + (" or null" if "null" in types else "")
    return types if isinstance(types, str) else " or ".join(types)


def objects(schema: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The objects with named keys that a value holds, itself among them."""
    schema = resolve(schema)
    for each in schema.get("anyOf", ()):
        yield from objects(each)
    if "items" in schema:
        yield from objects(schema["items"])
    if isinstance(schema.get("additionalProperties"), dict):
        yield from objects(schema["additionalProperties"])
    if "properties" in schema:
        yield schema


def rows(schema: dict[str, Any], prefix: str = "") -> Iterator[str]:
    """A table row for each key, keys of objects below their own."""
    for name, value in schema["properties"].items():
        if name in EVERYWHERE and not prefix:
            continue
        described = resolve(value).get("description", "")
        yield f"| `{prefix}{name}` | {type_of(value)} | {described} |"
        if PAIR in [each.get("$ref") for each in (value.get("items", {}), *value.get("anyOf", ()))]:
            continue  # it has a table of its own
        many = "[]" if "items" in resolve(value) else ""
        for inner in objects(value):
            if inner["properties"]:
                yield from rows(inner, f"{prefix}{name}{many}.")


def table(schema: dict[str, Any]) -> list[str]:
    """The table of an object's keys."""
    return ["| key | type | meaning |", "| --- | --- | --- |", *rows(schema), ""]


def render() -> str:
    """The page."""
    names = sorted(path.stem for path in SCHEMAS.glob("*.json") if path.name != COMMON)
    names.sort(key=lambda name: FIRST.index(name) if name in FIRST else len(FIRST))
    lines = [HEAD]
    for name in names:
        schema = load(f"{name}.json")
        lines += [f"## {schema['title']}", ""]
        lines += [f"{schema['description']} Schema: [{name}.json](schemas/{name}.json).", ""]
        lines += table(next(objects(schema)))
    lines += ["## A pair", ""]
    lines += [
        "An item of `pairs` (`huref compare`) and `measured` (`huref check`, `huref bench`).",
        "",
    ]
    lines += table(load(COMMON)["$defs"]["pair"])
    return "\n".join(lines).rstrip() + "\n"


def main() -> None:
    """Write the page."""
    argparse.ArgumentParser(description=__doc__).parse_args()
    PAGE.write_text(render(), "utf-8")
    print(f"wrote {PAGE.relative_to(ROOT)}")
