"""Reads the layout files, strictly.

A key that no field of `huref.architecture.layout` reads, a missing one, or an unknown word is an
error, so nothing in a file can be silently ignored. A file may extend another and then holds only
what differs.
"""

from collections.abc import Mapping
from dataclasses import MISSING, Field, fields, is_dataclass
from functools import lru_cache
from importlib import resources
from typing import Any, get_args

import yaml

from huref.architecture.layout import Layout

WORDS = {
    "kind": ("rms", "layernorm"),
    "place": ("before", "after"),
    "stored": ("out_in", "in_out"),
    "down_stored": ("as_stored", "in_out"),
    "split": ("contiguous", "gate_first", "groups", "codegen", "interleaved"),
    "stacked": ("no", "leading", "rows"),
    "heads_of_o": ("in_order", "halves"),
    "block_without_attention": ("error", "skip"),
    "q_b_reads": ("latent", "both"),
    "ffn_reads": ("stream", "attention"),
    "parts_of": ("layer", "model"),
}


def _build(cls: type, data: object, where: str) -> Any:
    """A dataclass from its YAML mapping, every key accounted for."""
    if not isinstance(data, Mapping):
        raise ValueError(f"{where}: a mapping is needed here, not {data!r}")
    known = {f.name: f for f in fields(cls) if f.name != "name"}
    required = {n for n, f in known.items() if f.default is MISSING}
    if not required <= set(data) <= set(known):
        wrong = sorted((required - set(data)) | (set(data) - set(known)))
        raise ValueError(f"{where}: keys out of place: {wrong}")
    values: dict[str, Any] = {key: _value(known[key], value, where) for key, value in data.items()}
    return cls(name=where, **values) if cls is Layout else cls(**values)


def _value(target: Field[Any], value: object, where: str) -> object:
    place = f"{where}.{target.name}"
    part = next(
        (
            t
            for t in (target.type, *get_args(target.type))
            if isinstance(t, type) and is_dataclass(t)
        ),
        None,
    )
    if part is not None:
        return None if value is None else _build(part, value, place)
    if target.name in WORDS:
        if value not in WORDS[target.name]:
            raise ValueError(f"{place}: {value!r} is none of {', '.join(WORDS[target.name])}")
        return value
    if target.type in (bool, float, str):
        if type(value) is not target.type:
            raise ValueError(f"{place}: {value!r} is not a {target.type.__name__}")
        return value
    if not isinstance(value, list) or not all(isinstance(v, (str, int)) for v in value):
        raise ValueError(f"{place}: a list of names is needed here, not {value!r}")
    return tuple(str(v) for v in value)


def parse_layout(name: str, data: Mapping[str, Any]) -> Layout:
    """Build a layout from its YAML mapping. Raises ValueError on anything out of place."""
    layout: Layout = _build(Layout, data, name)
    if layout.ffn is None and layout.experts is None:
        raise ValueError(f"{name}: neither ffn nor experts")
    return layout


def merge(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """A layout's mapping with another's keys put over it, mapping by mapping."""
    merged = dict(base)
    for key, value in changes.items():
        old = merged.get(key)
        both = isinstance(old, Mapping) and isinstance(value, Mapping)
        merged[key] = merge(old, value) if both and old is not None else value
    return merged


def _read(name: str) -> dict[str, Any]:
    file = resources.files("huref.architecture") / "layouts" / f"{name}.yaml"
    data: dict[str, Any] = yaml.safe_load(file.read_text("utf-8"))
    base = data.pop("extends", None)
    return data if base is None else merge(_read(base), data)


@lru_cache
def load_layouts() -> tuple[Layout, ...]:
    """All layouts that ship with huref, in order of their names."""
    folder = resources.files("huref.architecture") / "layouts"
    files = sorted(f.name for f in folder.iterdir())
    names = [name.removesuffix(".yaml") for name in files if name.endswith(".yaml")]
    return tuple(parse_layout(name, _read(name)) for name in names)
