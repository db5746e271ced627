"""Registries as text: JSON Lines, which `huref registry add` reads, and CSV without sketches."""

import base64
import binascii
import csv
import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from huref import escape
from huref.bounded_json import loads_object
from huref.errors import HurefError, RegistryError
from huref.files import replacing
from huref.recipe import Recipe, parse_recipe
from huref.registry.entry import Entry
from huref.registry.sketch import VERSION
from huref.registry.store import Store, parse_label, require_version
from huref.registry.stores import create_store

SIGNATURE = ("signer", "signature")
ARRAYS = {"latent": "<f4", "sketch": "u1", "anchors": "<u4"}
LABELS = ("model", "revision", "recipe", "base", "measured_at", "measured_by")
LONGEST_LINE = 16 << 20  # characters; an entry takes about 15,000
NO_EXPORT = "it is no file that 'huref registry export' wrote"


def export(store: Store, out: str) -> int:
    """Write a registry to a .jsonl or .csv file or into a new registry; return how many entries.

    Args:
        store: the registry.
        out: a file, by its suffix; anything else is the URI of a registry to create.

    Raises:
        RegistryError: there is a registry at that URI already.
    """
    suffix = Path(out).suffix
    if suffix == ".csv":
        return _write_csv(store, Path(out))
    if suffix == ".jsonl":
        return _write_jsonl(store, Path(out))
    return create_store(out, store.recipe, store.require).add(store.entries())


def _write_csv(store: Store, out: Path) -> int:
    count = 0
    with replacing(out) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(LABELS)
        for entry in store.entries():
            writer.writerow([escape.csv_cell(getattr(entry, name)) for name in LABELS])
            count += 1
    return count


def _write_jsonl(store: Store, out: Path) -> int:
    count = 0
    with replacing(out) as temporary, temporary.open("w", encoding="utf-8") as file:
        head = {"huref": "registry", "recipe": asdict(store.recipe), "sketch": VERSION}
        file.write(json.dumps(head) + "\n")
        for entry in store.entries():
            file.write(escape.to_json(entry_to_json(entry)) + "\n")
            count += 1
    return count


def entry_to_json(entry: Entry) -> dict[str, Any]:
    """An entry as JSON: its arrays as base64 of their little-endian bytes, in C order."""
    data = {name: getattr(entry, name) for name in LABELS}
    if entry.signer:
        data |= {name: getattr(entry, name) for name in SIGNATURE}
    for name, kind in ARRAYS.items():
        data[name] = base64.b64encode(getattr(entry, name).astype(kind).tobytes()).decode()
    return data


def read_jsonl(path: Path) -> tuple[Recipe, Iterator[Entry]]:
    """The recipe and the entries of a file that `export` wrote; the entries are read lazily.

    Raises:
        RegistryError: it is no such file, or (when the line is read) damaged.
    """
    try:
        with path.open(encoding="utf-8") as file:
            first = file.readline(LONGEST_LINE)
    except UnicodeDecodeError as error:
        raise RegistryError(NO_EXPORT, file=path) from error
    except OSError as error:
        raise RegistryError(f"cannot be read ({error.strerror})", file=path) from error
    try:
        head = loads_object(first)
        recipe, version = parse_recipe(head["recipe"], str(path)), head["sketch"]
    except (ValueError, KeyError, TypeError, HurefError) as error:
        raise RegistryError(NO_EXPORT, file=path) from error
    require_version(version, path)
    return recipe, _read_entries(path, recipe)


def _read_entries(path: Path, recipe: Recipe) -> Iterator[Entry]:
    terms = len(recipe.layers) * 3
    older = recipe.picture_digest  # in exports made before 1.0
    digest = recipe.digest
    with path.open(encoding="utf-8", errors="replace") as file:  # damaged bytes fail as JSON
        lines = iter(lambda: file.readline(LONGEST_LINE), "")
        next(lines)
        for number, line in enumerate(lines, start=2):
            try:
                data = loads_object(line)
                arrays = {
                    name: np.frombuffer(base64.b64decode(data[name], validate=True), kind)
                    for name, kind in ARRAYS.items()
                }
                sketch = arrays["sketch"].reshape(terms, -1)
                labels = {name: data[name] for name in LABELS}
                parse_label(*(labels[name] for name in LABELS if name != "recipe"))
                labels |= {name: str(data.get(name, "")) for name in SIGNATURE}
                if labels["recipe"] == older:
                    labels["recipe"] = digest
                yield Entry(
                    latent=arrays["latent"], sketch=sketch, anchors=arrays["anchors"], **labels
                )
            except (ValueError, KeyError, TypeError, binascii.Error) as error:
                raise RegistryError(f"line {number} is damaged", file=path) from error
