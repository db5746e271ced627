"""A config as transformers takes it: without keys of other families, with what it leaves out."""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from huref.architecture.config_values import look_up
from huref.architecture.layout import Layout
from huref.bounded_yaml import load_shipped

DEFAULTS = Path(__file__).with_name("config_defaults.yaml")
KEYS = Path(__file__).with_name("config_keys.yaml")
_IN_BLOCK = re.compile(r"(?:^|\.)layers\.\d+\.(?P<rest>.+)")
_HEAD_NORM = re.compile(r"self_attn\.(?:[qk]_(?:layer)?norm|(?:query|key)_layernorm)\.\w+")
HEADS = ("num_attention_heads", "n_head", "n_heads")


@lru_cache(maxsize=1)
def _defaults() -> dict[str, dict[str, Any]]:
    data: dict[str, dict[str, Any]] = load_shipped(DEFAULTS.read_text("utf-8"))
    return data


@lru_cache(maxsize=1)
def _keys() -> dict[str, Any]:
    data: dict[str, Any] = load_shipped(KEYS.read_text("utf-8"))
    return data


def as_run(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """A config without the keys that its family does not use, and with aliases in their place."""
    keys, model_type = _keys(), str(config.get("model_type"))
    if (uses := keys["uses"].get(model_type)) is None:
        return config
    strange = set(keys["of_families"]) - set(uses)
    run = {key: value for key, value in config.items() if key not in strange}
    for alias, key in keys["aliases"].get(model_type, {}).items():
        if alias in run:
            run[key] = run.pop(alias)
    return run


@dataclass(frozen=True)
class RouterTraits:
    """How a family's routers choose: see `Router` in router.py.

    Attributes:
        sigmoid: whether scores are sigmoids.
        grouped: whether experts are chosen from the best groups.
        biased: whether the logits have a bias.
        correction: end of the name of what is added to the scores for the choice, or "".
    """

    sigmoid: bool
    grouped: bool
    biased: bool
    correction: str


def router_traits(config: Mapping[str, Any]) -> RouterTraits:
    """The traits of the routers of a config's family; those of a plain softmax where unknown."""
    routers, family = _keys()["routers"], _family(config)
    corrections = (end for end, families in routers["corrected"].items() if family in families)
    sigmoid, grouped, biased = (family in routers[key] for key in ("sigmoid", "grouped", "biased"))
    return RouterTraits(sigmoid, grouped, biased, next(corrections, ""))


def _family(config: Mapping[str, Any]) -> str:
    return str(config.get("model_type")).removesuffix("_text")


def routed_scale(config: Mapping[str, Any]) -> float:
    """What a mixture of the config's family multiplies its routed experts by; else 1."""
    family = _family(config)
    for key, defaults in _keys()["routed_scales"].items():
        if family in defaults:
            stated = config.get(key)
            return float(defaults[family] if stated is None else stated)
    return 1.0


def names_as_run(config: Mapping[str, Any], names: Collection[str]) -> frozenset[str]:
    """The names of tensors without biases and norms that the family's modules do not have."""
    keys, model_type = _keys(), str(config.get("model_type"))
    modules: dict[str, str | bool] | None = keys["biases"].get(model_type)
    if modules is None:
        return frozenset(names)
    stated = [m for m, flag in modules.items() if flag is True or config.get(str(flag)) is True]
    without_norms = model_type in keys["without_head_norms"]

    def is_run(name: str) -> bool:
        match = _IN_BLOCK.search(name)
        if match is None:
            return True
        if name.endswith(".bias"):
            return any(match["rest"].startswith(f"{module}.") for module in stated)
        return not (without_norms and _HEAD_NORM.fullmatch(match["rest"]))

    return frozenset(filter(is_run, names))


def complete_config(
    layout: Layout, prefix: str, config: Mapping[str, Any], names: Collection[str]
) -> Mapping[str, Any]:
    """A config with the number of heads and of blocks that it lacks.

    The blocks are counted among the tensors.
    """
    added: dict[str, Any] = {}
    if all(look_up(config, key) is None for key in HEADS):
        known = _defaults().get(str(config.get("model_type")), {})
        added = {key: value for key, value in known.items() if config.get(key) is None}
    if not layout.parts and all(
        not key.isdecimal() and look_up(config, key) is None for key in layout.layers
    ):
        count = count_stored_blocks(layout, prefix, names)
        if count:
            added[layout.layers[0]] = count
    return {**config, **added} if added else config


def count_stored_blocks(layout: Layout, prefix: str, names: Collection[str]) -> int:
    """Number of consecutive blocks, from 0, that a checkpoint holds tensors of."""
    pattern = re.escape(prefix + layout.block).replace(r"\{i\}", "([0-9]+)").replace(r"\{s\}", "")
    start = re.compile(pattern)
    stored = {int(found[1]) for name in names if (found := start.match(name)) is not None}
    return next(i for i in range(len(stored) + 1) if i not in stored)
