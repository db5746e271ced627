"""Hidden units and heads that weigh nothing: dead, split, cancelling or nearly silent ones.

A test that reads weights as they are stored counts them; the model's function does not.
Row vectors: x @ W. Every block gets the same number of units or heads, since config.json has one
number for all.
"""

from itertools import product

import torch
from torch import Generator, Tensor

from huref.attacks.blocks import WRITERS, EditableBlock
from huref.attacks.editable import Editable
from huref.errors import AttackError

UNIT_KEYS = ("intermediate_size", "n_inner")
HEAD_KEYS = ("num_attention_heads", "n_head")
KV_HEAD_KEYS = ("num_key_value_heads",)
PARTS = 3  # of a split unit
FAINT = 1e-4  # queries and keys beside which softmax is even, in units of what others are
QUIET = 1e-3  # what a quiet unit writes, in units of what others do


def weight_noise(block: EditableBlock, role: str, generator: Generator, *shape: int) -> Tensor:
    """Normal numbers with the spread of a matrix of the source, by default in its present shape.

    Dimensions of the residual stream that a matrix does not write to stay unwritten: others may
    read them loudly.
    """
    weight = block.weights[role]
    noise = torch.randn(*(shape or weight.shape), generator=generator, dtype=torch.float64)
    return noise * block.spreads[role] * (weight.any(0) if role in WRITERS else 1)


def read_columns(block: EditableBlock) -> dict[str, Tensor]:
    """What a network's units read: gate and up, each with its bias as a last row."""
    found: dict[str, Tensor] = {}
    for role in ("gate", "up"):
        if role in block.weights:
            bias = block.biases.get(role)
            rows = [block.weights[role]] + ([] if bias is None else [bias[None]])
            found[role] = torch.cat(rows)
    return found


def store_columns(block: EditableBlock, columns: dict[str, Tensor]) -> None:
    """Store what `read_columns` returned, after a change."""
    for role, rows in columns.items():
        if role in block.biases:
            block.biases[role], rows = rows[-1], rows[:-1]
        block.weights[role] = rows


def append_units(block: EditableBlock, read: dict[str, Tensor], down: Tensor) -> None:
    """Append units that read these columns and write the rows of `down`."""
    columns = read_columns(block)
    store_columns(block, {role: torch.cat([columns[role], read[role]], 1) for role in columns})
    block.weights["down"] = torch.cat([block.weights["down"], down])


def set_units(model: Editable) -> None:
    """Set the number of hidden units in config.json."""
    for key in UNIT_KEYS:
        if key in model.config:
            model.config[key] = len(model.blocks[0].weights["down"])


def random_units(
    block: EditableBlock, count: int, generator: Generator
) -> tuple[dict[str, Tensor], Tensor]:
    """Random units for `append_units`: the columns that they read, and what they write."""
    columns = read_columns(block)
    read = {
        role: weight_noise(block, role, generator, len(w), count) for role, w in columns.items()
    }
    return read, weight_noise(block, "down", generator, count, block.weights["down"].shape[1])


def add_dead_units(model: Editable, generator: Generator) -> None:
    """Add random units, half as many as there are, whose down projection is zero."""
    _add_units(model, generator, 0.0)


def add_quiet_units(model: Editable, generator: Generator) -> None:
    """Add random units that write a thousandth of what others do: the copy looks larger."""
    _add_units(model, generator, QUIET)


def _add_units(model: Editable, generator: Generator, scale: float) -> None:
    for block in model.blocks:
        count = len(block.weights["down"]) // 2
        read, down = random_units(block, count, generator)
        append_units(block, read, down * scale)
    set_units(model)


def add_cancelling_units(model: Editable, generator: Generator) -> None:
    """Add pairs of equal random units whose loud down projections have opposite signs."""
    loud = model.raise_noise()
    for block in model.blocks:
        count = len(block.weights["down"]) // 4
        read, down = random_units(block, count, generator)
        twice = {role: torch.cat([w, w], 1) for role, w in read.items()}
        append_units(block, twice, torch.cat([down, -down]) * loud)
    set_units(model)


def split_units(model: Editable, generator: Generator) -> None:
    """Split each unit into three equal ones whose down projections hold noise that cancels."""
    for block in model.blocks:
        down = block.weights["down"]
        parts = torch.stack([weight_noise(block, "down", generator) for _ in range(PARTS)])
        parts += down / PARTS - parts.mean(0)
        _divide_units(block, parts, generator)
    set_units(model)


def duplicate_units(model: Editable, generator: Generator) -> None:
    """Write each unit twice with half its down projection, in a new order."""
    for block in model.blocks:
        down = block.weights["down"]
        _divide_units(block, torch.stack([down / 2, down / 2]), generator)
    set_units(model)


def _divide_units(block: EditableBlock, parts: Tensor, generator: Generator) -> None:
    """Replace each unit by several equal ones that write `parts` (parts, units, d), permuted."""
    order = torch.randperm(parts.shape[0] * parts.shape[1], generator=generator)
    columns = read_columns(block)
    store_columns(block, {role: w.repeat(1, len(parts))[:, order] for role, w in columns.items()})
    block.weights["down"] = parts.flatten(0, 1)[order]


def groups_to_add(model: Editable) -> int:
    """How many key-value groups, at least, give a number of heads that divides the width.

    transformers refuses other numbers in some architectures, though heads have a size of their own.

    Raises:
        AttackError: no number up to the present one does.
    """
    width, groups = model.embedding.shape[1], model.blocks[0].kv_heads
    for count in range(1, groups + 1):
        if width % (model.heads // groups * (groups + count)) == 0:
            return count
    raise AttackError(
        f"no number of additional heads divides its width of {width}", model=model.model
    )


def add_dead_heads(model: Editable, generator: Generator) -> None:
    """Add random key-value groups whose output projection is zero."""
    for block, _ in product(model.blocks, range(groups_to_add(model))):
        group = random_group(model, block, generator)
        append_group(block, group, torch.zeros_like(group["o"]))
    set_heads(model)


def add_mute_heads(model: Editable, generator: Generator) -> None:
    """Add random groups whose values are zero where their loud output projection reads."""
    loud = model.raise_noise()
    for block, _ in product(model.blocks, range(groups_to_add(model))):
        group = random_group(model, block, generator)
        dim = group["v"].shape[1]
        heard = torch.arange(dim) < dim // 2
        group["v"][:, heard] = 0
        if "v" in block.biases:
            group["v_bias"][heard] = 0
        silent = heard.repeat(len(group["o"]) // dim)
        append_group(block, group, group["o"] * loud * silent[:, None])
    set_heads(model)


def add_cancelling_heads(model: Editable, generator: Generator) -> None:
    """Add equal random groups whose loud output projections sum to zero."""
    count, loud = _groups_that_cancel(model), model.raise_noise()
    for block in model.blocks:
        group = random_group(model, block, generator)
        for o in _opposed(block, group["o"], count, generator) * loud:
            append_group(block, group, o)
    set_heads(model)


def add_even_heads(model: Editable, generator: Generator) -> None:
    """Add groups that attend evenly, each by its own faint keys; their outputs sum to zero."""
    count, loud = _groups_that_cancel(model), model.raise_noise()
    for block in model.blocks:
        values = random_group(model, block, generator)
        for o in _opposed(block, values["o"], count, generator) * loud:
            group = random_group(model, block, generator)
            for part in group:
                group[part] = values[part] if part.startswith("v") else group[part] * FAINT
            append_group(block, group, o)
    set_heads(model)


def _groups_that_cancel(model: Editable) -> int:
    """As `groups_to_add`, two at least."""
    count = max(groups_to_add(model), 2)
    while model.embedding.shape[1] % (
        model.heads + count * model.heads // model.blocks[0].kv_heads
    ):
        count += 1
    return count


def _opposed(block: EditableBlock, o: Tensor, count: int, generator: Generator) -> Tensor:
    """Random output projections of o's shape that sum to zero, (count, ...)."""
    noise = torch.stack([weight_noise(block, "o", generator, *o.shape) for _ in range(count)])
    return noise - noise.mean(0)


def split_heads(model: Editable, generator: Generator) -> None:
    """Write each group twice; the two output projections hold noise that cancels."""
    for block in model.blocks:
        groups, parts = block.kv_heads, {}
        for role in ("q", "k", "v"):
            parts[role] = block.weights[role]
            if role in block.biases:
                parts[f"{role}_bias"] = block.biases[role]
        o = block.weights["o"]
        noise = weight_noise(block, "o", generator)
        block.weights["o"] = o / 2 + noise
        append_group(block, parts, o / 2 - noise, groups)
    set_heads(model)


def random_group(model: Editable, block: EditableBlock, generator: Generator) -> dict[str, Tensor]:
    """q, k, v, o and biases of one random key-value head and its query heads."""
    group = {}
    for role in ("q", "k", "v"):
        width = block.weights[role].shape[1] // block.kv_heads
        group[role] = weight_noise(block, role, generator, len(block.weights[role]), width)
        if role in block.biases:
            group[f"{role}_bias"] = (
                torch.randn(width, generator=generator, dtype=torch.float64)
                * block.biases[role].square().mean().sqrt()
            )
    o = block.weights["o"]
    group["o"] = weight_noise(block, "o", generator, len(o) // block.kv_heads, o.shape[1])
    return group


def append_group(
    block: EditableBlock, group: dict[str, Tensor], o: Tensor, groups: int = 1
) -> None:
    """Append groups with the output projection `o`; it counts how many they are."""
    for role in ("q", "k", "v"):
        block.weights[role] = torch.cat([block.weights[role], group[role]], 1)
        if role in block.biases:
            block.biases[role] = torch.cat([block.biases[role], group[f"{role}_bias"]])
    block.weights["o"] = torch.cat([block.weights["o"], o])
    block.kv_heads += groups


def set_heads(model: Editable) -> None:
    """Set the numbers of heads in config.json and in the model."""
    block = model.blocks[0]
    head_dim = head_size(model)
    model.heads = block.weights["q"].shape[1] // head_dim
    model.config["head_dim"] = head_dim
    for keys, count in ((HEAD_KEYS, model.heads), (KV_HEAD_KEYS, block.kv_heads)):
        for key in keys:
            if key in model.config:
                model.config[key] = count
    model.config["num_key_value_heads"] = block.kv_heads


def head_size(model: Editable) -> int:
    """Features of a head, which stay when heads are added."""
    head_dim = model.config.get("head_dim")
    if isinstance(head_dim, int):
        return head_dim
    return int(model.config["hidden_size"]) // int(model.config["num_attention_heads"])
