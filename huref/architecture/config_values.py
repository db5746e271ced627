"""Values of config.json under any of the keys that families use."""

from collections.abc import Mapping
from typing import Any

from huref.architecture.layout import Names
from huref.errors import CheckpointError


def look_up(config: Mapping[str, Any], key: str, index: int = 0) -> object:
    """A config value by its dotted key; from a list with one entry per block, block `index`'s.

    Values that config.json gives for single blocks (`per_layer_config`) take precedence. A key
    that is restricted to a kind of block ("key@kind") applies only to blocks of that kind.
    """
    key, _, kind = key.partition("@")
    if kind and look_up(config, "layer_types", index) != kind:
        return None
    own = look_up(config, f"per_layer_config.{index}.{key}") if "per_layer" not in key else None
    value: object = config if own is None else own
    for part in key.split(".") if own is None else ():
        value = value.get(part) if isinstance(value, Mapping) else None
    if isinstance(value, list):
        return value[index] if index < len(value) else None
    return value


def config_ints(config: Mapping[str, Any], keys: Names, index: int = 0) -> list[int]:
    """The positive integers that a config holds under some keys; a decimal key is its own value.

    Raises:
        CheckpointError: a key holds another value, or the config has none of the keys.
    """
    found = []
    for key in keys:
        value = int(key) if key.isdecimal() else look_up(config, key, index)
        if value is None or value is False:
            continue
        if type(value) is not int or value <= 0:
            raise CheckpointError(f"config.json has {key} = {value!r}, not a positive integer")
        found.append(value)
    if not found:
        raise CheckpointError(
            f"config.json has none of {', '.join(keys)}", advice="check that it is the model's own"
        )
    return found
