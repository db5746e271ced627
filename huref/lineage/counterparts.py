"""How much of what one model computes has a counterpart in the other, both ways.

A unit of a feed-forward network is weighed by what it adds to the model's logits on a short text;
in a record of the default depth by what it writes to the stream; and in a record of a recipe that
does not run the model by what its weights can write, the square of |gate| |up| |down|. Where two
networks correspond, the units that a test counted say which part of either has a counterpart: with
c_A and c_B the weights of the counted units as shares of their networks, the larger of the two is
the rate at which counterparts are recognised, so that

    part of A's network in B's = c_A / max(c_A, c_B)

and likewise of B's. A counterpart that carries far less of its own model than the original does of
its model is not what that model computes with: parts that weigh less than ALIVE of each other count
in proportion. So silent blocks and quiet units of another model give shares near 0, while pruned,
healed, stacked and padded relatives keep shares near 1 (docs/maths.md, Statistics).

Units are matched by their features in token space, by their barcodes where all units of both
networks have one, or by their relations, whichever finds most.
"""

from collections.abc import Iterable

import torch
from torch import Tensor

from huref.invariants.record import Record
from huref.invariants.unit_features import UnitFeatures
from huref.lineage import barcode_test, relation_test
from huref.lineage.correspondence import SIGNIFICANT
from huref.lineage.order import longest_increasing
from huref.lineage.retention import Network
from huref.lineage.shares import Shares
from huref.lineage.unit_matching import agreeing, match_networks, match_twice

ALIVE = 0.1  # a counterpart's weight in its model, in units of the original's weight in its own
SAMPLED = 1024  # units of a large network of A that are looked for in B


def measure_shares(
    record_a: Record, record_b: Record, blocks: Iterable[tuple[int, int]]
) -> Shares | None:
    """The shares of two models, from their corresponding blocks.

    Args:
        record_a: of A, with the features of its units in the blocks that were read.
        record_b: likewise of B.
        blocks: corresponding blocks, (of A, of B).

    Returns:
        None where a model writes nothing in the blocks that were read, or no units were measured.
    """
    a, b = record_a.units, record_b.units
    if a is None or b is None:
        return None
    energies = [weigh_units(record_a, a), weigh_units(record_b, b)]
    totals = [sum(float(network.sum()) for network in part) for part in energies]
    if min(totals) <= 0:
        return None
    found_a, found_b = [0.0] * len(a), [0.0] * len(b)
    for layer_a, layer_b in blocks:
        for i in a.in_layer(layer_a):
            for j in b.in_layer(layer_b):
                x, y = energies[0][i], energies[1][j]
                if not (x.any() and y.any()):
                    continue
                rows = sample_of(len(x))
                in_a, in_b = _counted(a.of_network(i)[rows], b.of_network(j), rows)
                for count in (_counted_by_barcodes, _counted_by_relations):
                    more = count(record_a, record_b, a.key(i), b.key(j), len(in_a))
                    if more is not None:
                        (in_a, in_b), rows = more, torch.arange(len(x))
                scale = len(x) / len(rows)  # B's units are found for a sample of A's
                counted = float(x[in_a].sum()) * scale, float(y[in_b].sum()) * scale
                parts = counted[0] / float(x.sum()), counted[1] / float(y.sum())
                rate = max(*parts, 1e-12)
                weights = counted[0] / totals[0], counted[1] / totals[1]
                alive = min(1.0, min(weights) / (ALIVE * max(*weights, 1e-30)))
                found_a[i] = max(found_a[i], parts[0] / rate * alive)
                found_b[j] = max(found_b[j], parts[1] / rate * alive)
    shares = [
        sum(part * float(network.sum()) for part, network in zip(found, some, strict=True)) / total
        for found, some, total in zip((found_a, found_b), energies, totals, strict=True)
    ]
    return Shares(*(min(max(share, 0.0), 1.0) for share in shares))


def sample_of(units: int) -> Tensor:
    """Indices of the units of A that are looked for: all, or evenly spaced ones."""
    return torch.arange(0, units, max(units // SAMPLED, 1))


def weigh_units(record: Record, units: UnitFeatures) -> list[Tensor]:
    """What each unit of each network computes, (units,) float64, in units of the model's own."""
    function = record.function
    if function is None or function.forward == "none":
        return [_static_weights(units, network) for network in range(len(units))]
    if len(function.unit_shares) != len(units.features):
        return [_static_weights(units, network) for network in range(len(units))]
    of_block = dict(function.energy[:, [0, 3]].tolist())
    if len(function.effects):
        of_block = dict(function.effects[:, [0, 2]].tolist())
    sizes: list[int] = units.networks[:, 2].tolist()
    shares = torch.split(function.unit_shares.double().clamp(min=0), sizes)
    return [
        part * of_block.get(float(layer), 0.0)
        for part, layer in zip(shares, units.networks[:, 0].tolist(), strict=True)
    ]


def _static_weights(units: UnitFeatures, network: int) -> Tensor:
    """The energy that the weights of each unit can write; without a gate of up and down alone."""
    rows = units.of_network(network).double() * units.scales[network].double()[:, None]
    squares = rows.square().sum(dim=2)  # (units, 3)
    if not squares[:, 0].any():
        squares[:, 0] = 1
    return squares.prod(dim=1)


def _counted(x: Tensor, y: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
    """Units of two networks that correspond beyond chance: their indices in both.

    Matched units that keep their index, or their order in networks of different sizes; where these
    are few, the units on which two matchings agree.

    Args:
        x: features of some units of A.
        y: features of all units of B.
        rows: the indices of those of A.
    """
    matching = match_networks(x, y)
    in_order = longest_increasing(matching.b)
    in_place = rows[matching.a] == matching.b
    kept = max(in_place, in_order, key=lambda chosen: int(chosen.sum()))
    by_both = agreeing(*match_twice(x, y))
    if int(kept.sum()) < len(by_both[0]):
        return rows[by_both[0]], by_both[1]
    return rows[matching.a[kept]], matching.b[kept]


def _counted_by_barcodes(
    a: Record, b: Record, network_a: Network, network_b: Network, known: int
) -> tuple[Tensor, Tensor] | None:
    """As `_counted`, by barcodes of all units of both networks; None if no more than are known."""
    if a.barcodes is None or b.barcodes is None:
        return None
    i, j = a.barcodes.find(*network_a), b.barcodes.find(*network_b)
    if i is None or j is None:
        return None
    if not (a.barcodes.is_complete(i) and b.barcodes.is_complete(j)):
        return None
    found = barcode_test.corresponding_units(a.barcodes, b.barcodes, i, j)
    return found if len(found[0]) > known else None


def _counted_by_relations(
    a: Record, b: Record, network_a: Network, network_b: Network, known: int
) -> tuple[Tensor, Tensor] | None:
    """As `_counted`, by relations; None if no more than are known, or no more than by chance."""
    if a.relations is None or b.relations is None:
        return None
    i, j = a.relations.find(*network_a), b.relations.find(*network_b)
    if i is None or j is None or known >= int(a.relations.networks[i, 2]):
        return None
    test, matching = relation_test.compare_networks(a.relations, b.relations, i, j)
    if test.log10_p > SIGNIFICANT or len(matching.a) <= known:
        return None
    return matching.a, matching.b
