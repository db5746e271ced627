"""Reads the layout files, strictly.

A key without a field in `huref.architecture.layout`, a missing key, or an unknown word is an
error, so nothing in a file is silently ignored. A file can extend another one and then holds only
the differences.
"""

from collections.abc import Mapping
from dataclasses import MISSING, Field, dataclass, fields, is_dataclass
from functools import cache, lru_cache
from importlib import resources
from typing import Any, get_args

from huref.architecture.layout import Layout
from huref.bounded_yaml import load_shipped

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
    """A dataclass from its YAML mapping. Raises ValueError for unknown and missing keys."""
    if not isinstance(data, Mapping):
        raise ValueError(f"{where}: a mapping is needed here, not {data!r}")
    known = {f.name: f for f in fields(cls) if f.name != "name"}
    required = {n for n, f in known.items() if f.default is MISSING}
    if not required <= set(data) <= set(known):
        wrong = sorted((required - set(data)) | (set(data) - set(known)))
        raise ValueError(f"{where}: keys missing or unknown: {wrong}")
    values: dict[str, Any] = {key: _value(known[key], value, where) for key, value in data.items()}
    return cls(name=where, **values) if cls is Layout else cls(**values)


def _value(target: Field[Any], value: object, where: str) -> object:
    """A field's value from its YAML value. Raises ValueError for the wrong type or word."""
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
    """Build a layout from its YAML mapping.

    Raises:
        ValueError: a key is missing or unknown, or a value is not one that the key takes.
    """
    layout: Layout = _build(Layout, data, name)
    if layout.ffn is None and layout.experts is None:
        raise ValueError(f"{name}: neither ffn nor experts")
    return layout


def merge(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """A mapping with the keys of another one replaced, and nested mappings merged likewise."""
    merged = dict(base)
    for key, value in changes.items():
        old = merged.get(key)
        if isinstance(old, Mapping) and isinstance(value, Mapping):
            merged[key] = merge(old, value)
        else:
            merged[key] = value
    return merged


def layout_names() -> list[str]:
    """The names of all layouts that ship with huref, sorted."""
    folder = resources.files("huref.architecture") / "layouts"
    files = sorted(file.name for file in folder.iterdir())
    return [name.removesuffix(".yaml") for name in files if name.endswith(".yaml")]


def read_chain(name: str) -> list[tuple[str, dict[str, Any]]]:
    """The name and content of a layout's file and of all files it extends, the base first."""
    chain: list[tuple[str, dict[str, Any]]] = []
    following: str | None = name
    while following is not None:
        data = dict(_read_file(following))
        chain.insert(0, (following, data))
        following = data.pop("extends", None)
    return chain


@cache
def _read_file(name: str) -> Mapping[str, Any]:
    file = resources.files("huref.architecture") / "layouts" / f"{name}.yaml"
    data: dict[str, Any] = load_shipped(file.read_text("utf-8"))
    return data


@dataclass(frozen=True)
class Traced:
    """A value of a layout, and the name of the layout whose file sets it."""

    value: Any
    origin: str


def trace_layout(name: str) -> dict[str, Any]:
    """A layout's mapping with its chain of `extends` merged; every leaf is a `Traced`."""

    def trace(value: object, origin: str) -> Any:
        if isinstance(value, Mapping):
            return {key: trace(inner, origin) for key, inner in value.items()}
        return Traced(value, origin)

    merged: dict[str, Any] = {}
    for origin, data in read_chain(name):
        merged = merge(merged, trace(data, origin))
    return merged


def _read(name: str) -> dict[str, Any]:
    merged: dict[str, Any] = {}
    for _, data in read_chain(name):
        merged = merge(merged, data)
    return merged


@lru_cache
def load_layouts() -> tuple[Layout, ...]:
    """All layouts that ship with huref, sorted by name."""
    return tuple(parse_layout(name, _read(name)) for name in layout_names())
