"""Hidden units with opposite gates, whose activations differ by a linear part alone.

SiLU, GELU and ReLU all satisfy act(y) - act(-y) = y. So a unit of a gated network,
act(g.x) (u.x) d, is the sum of three others:

    act(-g.x) (u.x) d  +  act(u.x) (g.x) d  -  act(-u.x) (g.x) d

since the last two give (u.x) (g.x) d; and such quadruples can be added that sum to zero. Without a
gate act(u.x) d = act(-u.x) d + (u.x) d, and the linear parts of all units are one matrix, which
pairs of opposite units write. Row vectors: x @ W; a bias counts as one more input.
"""

import torch
from torch import Generator, Tensor

from huref.attacks.blocks import EditableBlock
from huref.attacks.draws import draw_orthogonal
from huref.attacks.editable import Editable
from huref.attacks.padding import (
    append_units,
    random_units,
    read_columns,
    set_units,
    store_columns,
)

SCALE = 4.0  # of the gates of added units: their even and odd parts then differ from others'


def has_linear_difference(model: Editable) -> bool:
    """Whether the model's activation satisfies act(y) - act(-y) = y."""
    act = model.running.activation
    y = torch.linspace(-6, 6, 25, dtype=torch.float64)
    return bool(torch.allclose(act(y) - act(-y), y, atol=1e-6))


def oppose_gates(model: Editable, generator: Generator) -> None:
    """Write each unit by units with other gates, in a new order."""
    for block in model.blocks:
        columns, down = read_columns(block), block.weights["down"]
        if "gate" in columns:
            g, u = columns["gate"], columns["up"]
            parts = {"gate": torch.cat([-g, u, -u], 1), "up": torch.cat([u, g, g], 1)}
            written = torch.cat([down, down, -down])
        else:
            u = columns["up"]
            Q = draw_orthogonal(len(u), generator)
            linear = Q.T @ u @ down  # x @ (u @ down) = (x @ Q) @ linear
            parts = {"up": torch.cat([-u, Q, -Q], 1)}
            written = torch.cat([down, linear, -linear])
        _store(block, parts, written, generator)
    set_units(model)


def add_opposing_units(model: Editable, generator: Generator) -> None:
    """Add sets of loud random units that sum to zero, no two of which have equal gates."""
    loud = model.raise_noise()
    for block in model.blocks:
        count = len(block.weights["down"]) // 4
        read, down = random_units(block, count, generator)
        down *= loud
        if "gate" in read:
            g, u = read["gate"] * SCALE, read["up"] / SCALE
            parts = {"gate": torch.cat([g, -g, u, -u], 1), "up": torch.cat([u, u, g, g], 1)}
            append_units(block, parts, torch.cat([down, -down, -down, down]))
        else:
            # The same linear map twice, by pairs of opposite units of different sizes.
            u, other = read["up"], read["up"] * SCALE
            parts = {"up": torch.cat([u, -u, other, -other], 1)}
            append_units(block, parts, torch.cat([down, -down, -down / SCALE, down / SCALE]))
    set_units(model)


def _store(
    block: EditableBlock, columns: dict[str, Tensor], down: Tensor, generator: Generator
) -> None:
    order = torch.randperm(len(down), generator=generator)
    store_columns(block, {role: rows[:, order] for role, rows in columns.items()})
    block.weights["down"] = down[order]
