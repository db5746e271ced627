"""What config.json leaves out, as transformers would fill it in."""

import re
from collections.abc import Collection, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from huref.architecture.config_values import look_up
from huref.architecture.layout import Layout
from huref.bounded_yaml import load_shipped

DEFAULTS = Path(__file__).with_name("config_defaults.yaml")
HEADS = ("num_attention_heads", "n_head", "n_heads")


@lru_cache(maxsize=1)
def _defaults() -> dict[str, dict[str, Any]]:
    data: dict[str, dict[str, Any]] = load_shipped(DEFAULTS.read_text("utf-8"))
    return data


def complete_config(
    layout: Layout, prefix: str, config: Mapping[str, Any], names: Collection[str]
) -> Mapping[str, Any]:
    """A config with the number of heads and of blocks that it lacks, and what goes with them.

    The blocks are counted among the tensors. A config that has both is returned as it is.
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
