"""Hidden units whose activations are all but linear: gates that are tiny, or always open.

Near zero SiLU and GELU are act(y) = y / 2 + O(y^2), and far above zero act(y) = y. Units with such
gates write products (g.x) (u.x) d, or (u.x) d where there is no gate, in which g and u may change
places and linear maps take any basis. So no two gates need be equal or opposite. Row vectors:
x @ W; a bias counts as one more input.
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

TINY = 1e-3  # of a gate
OPEN = 12.0  # a bias beyond which a gate is always open


def is_smooth(model: Editable) -> bool:
    """Whether the model's activation is y / 2 near zero."""
    y = torch.tensor([-TINY, TINY], dtype=torch.float64)
    return bool(torch.allclose(model.running.activation(y), y / 2, atol=TINY**1.5))


def add_linear_units(model: Editable, generator: Generator) -> None:
    """Add loud random units that are linear and sum to zero, half as many as there are."""
    loud = model.raise_noise()
    for block in model.blocks:
        count = len(block.weights["down"]) // 4
        read, down = random_units(block, count, generator)
        down *= loud
        if "gate" in read:
            g, u = read["gate"], read["up"]
            parts = {"gate": torch.cat([g, u], 1) * TINY, "up": torch.cat([u, g], 1)}
            append_units(block, parts, torch.cat([down, -down]) / TINY)
            continue
        u, Q = read["up"], draw_orthogonal(count, generator)
        if "up" not in block.biases:
            append_units(
                block,
                {"up": torch.cat([u, u @ Q], 1) * TINY},
                torch.cat([down, -Q.T @ down]) / TINY,
            )
            continue
        other = u @ Q
        u[-1] = OPEN
        other[-1] = OPEN * (1 + torch.rand(count, generator=generator, dtype=torch.float64))
        parts = {"up": torch.cat([u, other], 1)}
        written = torch.cat([down, -Q.T @ down])
        append_units(block, parts, written)
        block.biases["down"] = block.biases["down"] - parts["up"][-1] @ written
    set_units(model)


def reverse_gates(model: Editable, generator: Generator) -> None:
    """Write each unit with the opposite gate; tiny gates make up for the difference."""
    for block in model.blocks:
        _write_anew(block, [(-1.0, 1.0)], 1.0, generator)
    set_units(model)


def write_even_units(model: Editable, generator: Generator) -> None:
    """Write each unit by two that are even in its gate, and tiny gates."""
    for block in model.blocks:
        _write_anew(block, [(1.0, 0.5), (-1.0, 0.5)], 0.5, generator)
    set_units(model)


def _write_anew(
    block: EditableBlock, copies: list[tuple[float, float]], linear: float, generator: Generator
) -> None:
    """Replace a network's units, in a new order.

    Args:
        block: is changed.
        copies: of each unit, factors of its gate and of its down projection.
        linear: factor of the products that are written by units with tiny gates besides.
        generator: draws the order, and the basis where there is no gate.
    """
    columns, down = read_columns(block), block.weights["down"]
    key = "gate" if "gate" in columns else "up"
    rest = 2 * linear / TINY  # act(TINY y) = TINY y / 2
    written = [down * factor for _, factor in copies]
    parts: dict[str, list[Tensor]] = {role: [rows] * len(copies) for role, rows in columns.items()}
    parts[key] = [columns[key] * sign for sign, _ in copies]
    if key == "gate":
        parts["gate"].append(columns["up"] * TINY)
        parts["up"] = [*parts["up"], columns["gate"]]
        written.append(down * rest)
    else:
        u = columns["up"]
        Q = draw_orthogonal(len(u), generator)
        parts["up"].append(Q * TINY)
        written.append(Q.T @ u @ down * rest)  # x @ (u @ down) = (x @ Q) @ (Q.T @ u @ down)
    downs = torch.cat(written)
    order = torch.randperm(len(downs), generator=generator)
    store_columns(block, {role: torch.cat(rows, 1)[:, order] for role, rows in parts.items()})
    block.weights["down"] = downs[order]
