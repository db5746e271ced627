"""Units with opposite gates, rewritten as those of a network that has none.

SiLU, GELU and ReLU satisfy act(y) - act(-y) = y, so that pairs of units with opposite gates can
write linear parts, and any unit can be written with its gate reversed:

    act(-g.x) (u.x) d = act(g.x) (u.x) d - (g.x) (u.x) d        (without u, where there is no gate)

Reversing gates until all parallel ones agree leaves units, which may then be merged, and a sum L of
products (g.x) (u.x) d. The rest of the network has to make up for L, and only by gates that point
the other way: L is the sum of such products over some of the merged units. Which ones follows by
least squares, since the products of different units are linearly independent, and reversing these
once more leaves no L. Units that write even functions of their gates leave half of a product each.

Units whose gates are tiny, or always open, are linear on the text and write such products, too.
See docs/maths.md, Function.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from huref.architecture.block import FeedForward
from huref.invariants.block_use import LinearUnits, UnitUse
from huref.invariants.canonical_units import (
    SAME,
    find_parallel,
    gate_columns,
    merge_equal_units,
    sketch_columns,
)
from huref.invariants.reproducible import energy
from huref.invariants.unit_outputs import EXACT_UNITS, UnitOutputs, sample_outputs, tokens_needed

SCREENED = 512  # units that are compared with all; honest networks have no opposite gates at all
PLACES = 2.5  # probes times directions, for each unit
MOST_STEPS = 500  # of conjugate gradients
CONVERGED = 1e-5  # residual, in norms of the right side
CHECKED = 64  # probes on which sampled least squares are checked
RIDGE = 1e-4  # of the squared norm of a product
FEWEST_LINEAR = 0.01  # of all units: fewer units that are linear on the text are left as they are
LEFT_OVER = 0.1  # of the products' norm: more, and the units are left as they are
ROWS = 2048
TINY = 1e-30


@dataclass(frozen=True)
class Products:
    """Some products (a.x) (b.x) c, or (a.x + e) c, one a column.

    Attributes:
        a: (d, n).
        b: (d, n), or None.
        c: (n, d).
        e: (n,); zero where there is b.
    """

    a: Tensor
    b: Tensor | None
    c: Tensor
    e: Tensor

    def values(self, inputs: Tensor) -> Tensor:
        """The factors of c at some inputs (tokens, d), without constants; (tokens, n)."""
        values = inputs @ self.a
        return values if self.b is None else values * (inputs @ self.b)

    def inner(self, other: "Products") -> Tensor:
        """Inner products of all pairs as symmetric tensors, (n, m)."""
        outputs = self.c @ other.c.T
        if self.b is None or other.b is None:
            return (self.a.T @ other.a) * outputs
        straight = (self.a.T @ other.a) * (self.b.T @ other.b)
        crossed = (self.a.T @ other.b) * (self.b.T @ other.a)
        return (straight + crossed) / 2 * outputs

    def inner_with_sum(self, other: "Products") -> Tensor:
        """Inner product of each with the sum of the others, (n,)."""
        total = torch.zeros(len(self.c))
        for start in range(0, len(other.c), ROWS):
            total += self.inner(other.part(slice(start, start + ROWS))).sum(dim=1)
        return total

    def and_also(self, other: "Products") -> "Products":
        """These and others."""
        b = None if self.b is None or other.b is None else torch.cat([self.b, other.b], dim=1)
        return Products(
            torch.cat([self.a, other.a], dim=1),
            b,
            torch.cat([self.c, other.c]),
            torch.cat([self.e, other.e]),
        )

    def part(self, chosen: slice | Tensor) -> "Products":
        """Some of the products."""
        b = None if self.b is None else self.b[:, chosen]
        return Products(self.a[:, chosen], b, self.c[chosen], self.e[chosen])


class _Exact:
    """Which products make up for a sum L of others, by least squares over symmetric tensors."""

    def __init__(self, products: Products, linear: Products):
        self._products, self._linear = products, linear
        self._target = products.inner_with_sum(linear)
        self._gram = products.inner(products)

    def solve(self) -> Tensor:
        """The factors s with the sum of s_i p_i nearest to -L, (n,)."""
        # Scaled to norm 1, so that loud units that depend on each other do not drown the others.
        size = self._gram.diagonal().clamp(min=TINY).double().sqrt()
        normal = self._gram.double() / torch.outer(size, size) + RIDGE * torch.eye(len(size))
        solved: Tensor = torch.linalg.solve(normal, -self._target.double() / size)
        return solved / size

    def left_over(self, turned: Tensor) -> float:
        """Squared norm of L with the turned products, as a share of those of L's parts."""
        own = self._linear.inner_with_sum(self._linear).sum()
        left = own + 2 * self._target @ turned + turned @ self._gram @ turned
        return _ratio(float(left), float(_square_norms(self._linear).sum()))


class _Sampled:
    """The same from the products' values at random inputs: no matrix of all pairs is formed."""

    def __init__(self, products: Products, linear: Products):
        self._products, self._linear = products, linear

    def solve(self) -> Tensor:
        """See `_Exact`."""
        units = len(self._products.c)
        count = tokens_needed(units, self._products.c.shape[1], PLACES)
        inputs = _probes(self._products, count, seed=1)
        both = torch.cat([self._products.values(inputs), self._linear.values(inputs)], dim=1)
        down = torch.cat([self._products.c, self._linear.c])
        outputs = sample_outputs(both.double(), down.double(), PLACES)
        hidden, scaled, sizes = outputs.hidden, outputs.down, outputs.sizes
        written = (hidden[:, units:] * sizes[units:]) @ scaled[units:]
        own = UnitOutputs(hidden[:, :units], scaled[:units], sizes[:units])
        found = own.solve(-own.along(written), RIDGE, MOST_STEPS, CONVERGED)
        return torch.where(own.sizes > 0, found / own.sizes.clamp(min=TINY), 0.0)

    def left_over(self, turned: Tensor) -> float:
        """See `_Exact`; at other inputs."""
        inputs = _probes(self._products, CHECKED, seed=2)
        values = self._linear.values(inputs)
        written = values @ self._linear.c
        written += (self._products.values(inputs) * turned) @ self._products.c
        parts = values.square().sum(dim=0) @ self._linear.c.square().sum(dim=1)
        return _ratio(float(energy(written)), float(parts))


def _ratio(left: float, parts: float) -> float:
    """What is left as a share of the parts; infinite where all are zero, as dead units are."""
    return left / parts if parts > 0 else math.inf


def _probes(products: Products, count: int, seed: int) -> Tensor:
    """Random inputs of a network, (count, d)."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, len(products.a), generator=generator)


def has_linear_difference(activation: Callable[[Tensor], Tensor]) -> bool:
    """Whether act(y) - act(-y) = y."""
    y = torch.linspace(-6, 6, 25)
    return bool(torch.allclose(activation(y) - activation(-y), y, atol=1e-4))


def resolve_opposite_gates(
    network: FeedForward,
    activation: Callable[[Tensor], Tensor],
    homogeneous: bool = False,
    on_text: LinearUnits | None = None,
) -> FeedForward:
    """A network of the same function in which no two gates are opposite; itself if none are.

    Args:
        network: dense, or one expert.
        activation: of the gate, or of up without one.
        homogeneous: whether act(c x) = c act(x) for c > 0.
        on_text: units that are linear on the text; they are left out where gates that point the
            other way, or they themselves, make up for them.
    """
    units = network.up.shape[1]
    key = gate_columns(network)
    difference = has_linear_difference(activation)
    opposite = difference and _any_opposite(key)
    few = on_text is None or len(on_text.places) < FEWEST_LINEAR * units
    if not (opposite or not few):
        return network
    curved = torch.ones(units, dtype=torch.bool)
    if on_text is not None and not few:
        curved[on_text.places] = False
    places, signs = curved.nonzero().flatten(), torch.ones(units)
    if opposite:
        biased = len(key) > len(network.up)
        columns = key[:, places]
        for group in find_parallel(columns, homogeneous, opposite=True, biased=biased):
            signs[places[group]] = torch.sign(columns[:, group].T @ columns[:, group[0]])
    linear = _products(network).part(signs < 0)  # act(-y) = act(y) - y adds these
    if on_text is not None and not few:
        linear = linear.and_also(_linear_products(network, on_text))
    if not len(linear.c) or not curved.any():
        return network
    aligned = choose_units(_with_signs(network, signs), curved)
    unused = UnitUse(torch.zeros(aligned.up.shape[1]), None)
    merged = merge_equal_units(aligned, unused, homogeneous).network
    products = _products(merged)
    system = (
        _Exact(products, linear) if len(products.c) <= EXACT_UNITS else _Sampled(products, linear)
    )
    turned = torch.zeros(len(products.c))
    if difference:
        # act(y) = act(-y) + y adds the rest; half of it what is even, (act(y) + act(-y)) / 2
        turned = (2 * system.solve()).round().clamp(0, 2).float() / 2
    found = _turn(merged, turned)
    if system.left_over(turned) >= LEFT_OVER**2:
        return network
    constant = linear.e @ linear.c + (turned * products.e) @ products.c
    if constant.any():
        bias = found.biases.get("down", torch.zeros_like(constant))
        found = replace(found, biases={**found.biases, "down": bias + constant})
    return found


def _linear_products(network: FeedForward, linear: LinearUnits) -> Products:
    """The products that units write whose activations are linear on the text."""
    products = _products(network).part(linear.places)
    a, shift = products.a.clone(), linear.intercepts / linear.slopes
    if len(a) > len(network.up):  # the last input is the constant
        a[-1] += shift
    e = products.e if products.b is not None else (products.e + shift) * linear.slopes
    return Products(a * linear.slopes, products.b, products.c, e)


def _turn(network: FeedForward, turned: Tensor) -> FeedForward:
    """A network whose units' gates are reversed: not (0), of half a unit (0.5) or wholly (1)."""
    half = turned == 0.5
    found = _with_signs(network, 1 - 2 * (turned == 1).float())
    if not half.any():
        return found
    other = choose_units(_with_signs(network, -torch.ones(len(turned))), half)
    biases = {
        role: bias if role == "down" else torch.cat([bias, other.biases[role]])
        for role, bias in found.biases.items()
    }
    gate = None
    if found.gate is not None and other.gate is not None:
        gate = torch.cat([found.gate, other.gate], dim=1)
    down = torch.cat([found.down * (1 - half.float() / 2)[:, None], other.down / 2])
    return FeedForward(torch.cat([found.up, other.up], dim=1), gate, down, biases)


def choose_units(network: FeedForward, units: Tensor) -> FeedForward:
    """Some of a network's units, (units,) bool."""
    gate = None if network.gate is None else network.gate[:, units]
    biases = {role: b if role == "down" else b[units] for role, b in network.biases.items()}
    return FeedForward(network.up[:, units], gate, network.down[units], biases)


def _any_opposite(key: Tensor) -> bool:
    """Whether some of a sample of columns are opposite to any."""
    sketch = sketch_columns(key)
    sample = torch.randperm(len(sketch), generator=torch.Generator().manual_seed(0))[:SCREENED]
    return float((sketch[sample] @ sketch.T).min()) < -(1 - 10 * (1 - SAME))


def _products(network: FeedForward) -> Products:
    """The products (g.x) (u.x) d of all units, biases as a last input; (u.x) d without gates.

    Without gates the biases add constants alone, for which the bias of down can make up.
    """
    none = torch.zeros(network.up.shape[1])

    def biased(role: str, weight: Tensor) -> Tensor:
        bias = network.biases.get(role)
        if any(name != "down" for name in network.biases):
            row = torch.zeros(weight.shape[1]) if bias is None else bias
            weight = torch.cat([weight, row[None]])
        return weight

    if network.gate is None:
        return Products(network.up, None, network.down, network.biases.get("up", none))
    gate, up = biased("gate", network.gate), biased("up", network.up)
    return Products(gate, up, network.down, none)


def _square_norms(products: Products) -> Tensor:
    """Squared norms as symmetric tensors, (n,)."""
    a, b, c = products.a, products.b, products.c
    outputs = c.square().sum(dim=1)
    if b is None:
        return a.square().sum(dim=0) * outputs
    straight = a.square().sum(dim=0) * b.square().sum(dim=0)
    return (straight + (a * b).sum(dim=0).square()) / 2 * outputs


def _with_signs(network: FeedForward, signs: Tensor) -> FeedForward:
    """A network whose units' gates (up, without gates) are multiplied by signs (units,)."""
    role = "up" if network.gate is None else "gate"
    biases = dict(network.biases)
    if role in biases:
        biases[role] = biases[role] * signs
    if network.gate is None:
        return replace(network, up=network.up * signs, biases=biases)
    return replace(network, gate=network.gate * signs, biases=biases)
