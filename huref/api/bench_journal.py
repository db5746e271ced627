"""The journal of `huref bench`: one JSON line for each measured pair and model, beside the output.

A run that was stopped goes on from it. A line that a crash cut short is ignored.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huref import escape
from huref.bounded_json import loads_object
from huref.files import refuse_link, writing
from huref.version import __version__


class BenchJournal:
    """Measured pairs and models of one recipe and one version of huref.

    Attributes:
        path: the file, or None where nothing is kept.
        pairs: what `Pair.to_json` returned, by (id_a, id_b).
        models: the costs of models, by name.
    """

    def __init__(self, path: Path | None, recipe: str, *, resume: bool = False):
        self.path = path
        self._key = {"huref": __version__, "recipe": recipe}
        self.pairs: dict[tuple[str, str], dict[str, Any]] = {}
        self.models: dict[str, dict[str, Any]] = {}
        if path is None:
            return
        refuse_link(path)
        if resume and path.exists():
            self._read(path)
        else:
            with writing(path):
                path.write_bytes(b"")

    def _read(self, path: Path) -> None:
        text = path.read_bytes()
        if text and not text.endswith(b"\n"):
            with writing(path), path.open("ab") as file:
                file.write(b"\n")  # the next line must not be appended to a broken one
        for raw in text.splitlines():
            try:
                line = loads_object(raw, constants=True)
                if {name: line[name] for name in self._key} != self._key:
                    continue
                if "pair" in line:
                    pair: dict[str, Any] = line["pair"]
                    self.pairs[str(pair["a"]), str(pair["b"])] = pair
                else:
                    self.models[str(line["model"]["model"])] = line["model"]
            except (ValueError, TypeError, KeyError):
                continue

    def add_pair(self, pair: dict[str, Any]) -> None:
        """Keep a measured pair."""
        self.pairs[str(pair["a"]), str(pair["b"])] = pair
        self._append({"pair": pair})

    def add_model(self, model: dict[str, Any]) -> None:
        """Keep the costs of a model that was read."""
        self.models[str(model["model"])] = model
        self._append({"model": model})

    def _append(self, line: Mapping[str, Any]) -> None:
        if self.path is None:
            return
        with writing(self.path), self.path.open("a", encoding="utf-8") as file:
            file.write(escape.to_json({**self._key, **line}) + "\n")
