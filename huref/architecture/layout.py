"""Layouts: how a family of checkpoints names, fuses and norms its tensors, as data.

One YAML file in `layouts/` describes a family. A file is validated strictly when it is loaded:
an unknown or missing key is an error, so no field can be silently ignored.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import lru_cache
from importlib import resources
from typing import Any

import yaml

from huref.errors import UnsupportedModelError

ROLES = ("q", "k", "v", "o", "up", "gate", "down")
NORMS = ("attention", "ffn")


@dataclass(frozen=True)
class Layout:
    """One family of checkpoints.

    Attributes:
        name: the family's name, which is the file's name.
        model_types: values of config.json's `model_type` that belong to it.
        block: name of a block's tensors before the role, with {i} for its index.
        embedding: name of the token embedding.
        prefixes: what may stand before every name ("" for nothing), in order of preference.
        tensors: role -> name within the block; linear weights, stored (out, in).
        norms: which RMSNorm gain feeds attention and which feeds the feed-forward network.
        norm_offset: what is added to a stored gain (Gemma stores the gain minus one).
        heads, kv_heads, head_dim: config keys to try, in order.
        layers: config keys for the number of blocks.
    """

    name: str
    model_types: tuple[str, ...]
    prefixes: tuple[str, ...]
    block: str
    embedding: str
    tensors: Mapping[str, str]
    norms: Mapping[str, str]
    norm_offset: float
    heads: tuple[str, ...]
    kv_heads: tuple[str, ...]
    head_dim: tuple[str, ...]
    layers: tuple[str, ...]


def parse_layout(name: str, data: Mapping[str, Any]) -> Layout:
    """Build a layout from its YAML mapping. Raises ValueError on any key out of place."""
    expected = {field.name for field in fields(Layout)} - {"name"}
    if set(data) != expected:
        raise ValueError(f"layout {name}: keys out of place: {sorted(set(data) ^ expected)}")
    if set(data["tensors"]) != set(ROLES) or set(data["norms"]) != set(NORMS):
        raise ValueError(f"layout {name}: tensors must be {ROLES} and norms {NORMS}")
    values: dict[str, Any] = {
        key: tuple(v) if isinstance(v, list) else v for key, v in data.items()
    }
    return Layout(name=name, **values)


@lru_cache
def load_layouts() -> tuple[Layout, ...]:
    """All layouts that ship with huref, in order of their names."""
    folder = resources.files("huref.architecture") / "layouts"
    files = sorted((f for f in folder.iterdir() if f.name.endswith(".yaml")), key=lambda f: f.name)
    return tuple(
        parse_layout(file.name.removesuffix(".yaml"), yaml.safe_load(file.read_text("utf-8")))
        for file in files
    )


def find_layout(config: Mapping[str, Any], model: str) -> Layout:
    """The layout of a model by its config's `model_type`.

    Raises:
        UnsupportedModelError: no layout knows the type; the message names the supported ones.
    """
    model_type = config.get("model_type")
    for layout in load_layouts():
        if model_type in layout.model_types:
            return layout
    supported = sorted(t for layout in load_layouts() for t in layout.model_types)
    raise UnsupportedModelError(
        f"{model}: model_type {model_type!r} is not supported; supported: {', '.join(supported)}"
    )
