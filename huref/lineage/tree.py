"""A lineage forest: one tree for each origin among some models.

Steps of training that know nothing of each other multiply correlations: if a child keeps 0.9 of
its parent and a grandchild 0.8 of that child, grandchild and parent correlate by about 0.72. So
-ln ICS adds up along a line of descent, as a tree's branch lengths must.
"""

from dataclasses import asdict, dataclass
from typing import Any, Literal

from huref.lineage.table import LineageTable

JOINED_FROM = 0.1  # ICS from which models without a verdict share a tree; strangers reach 0.02

METHOD = (
    "neighbour joining on -ln ICS, one tree for each origin; inner branches shorter than the "
    "spread of an unrelated ICS are not resolved"
)


@dataclass(frozen=True)
class Node:
    """A model (a leaf) or a common ancestor.

    Attributes:
        model: index among the table's models, or None for an ancestor that was not given.
        above: number of the node above, or None at the root.
        length: of the branch to the node above, in -ln ICS; 0 at the root.
        below: the models at the leaves below, or the leaf's own.
        descent: "down" where direction evidence says that what lies above the branch was there
            before what lies below it, "up" where it says the opposite, None where neither.
        apart: whether every verdict across this branch is "shared initialisation": what lies on
            its two sides began alike and was trained apart.
    """

    model: int | None
    above: int | None
    length: float
    below: frozenset[int]
    descent: Literal["down", "up"] | None = None
    apart: bool = False


@dataclass(frozen=True)
class Tree:
    """Models of one origin, or one model alone.

    Attributes:
        nodes: numbered from the root on, each before those below it, as they are drawn.
        founder: the model that direction evidence puts before all others of its family, which
            makes it the root; None where it does not.
    """

    nodes: tuple[Node, ...]
    founder: int | None = None

    @property
    def models(self) -> list[int]:
        """The models, in the order in which they are drawn."""
        return [node.model for node in self.nodes if node.model is not None]

    @property
    def rooted_by(self) -> Literal["direction", "midpoint"] | None:
        """What put the root where it is; None for a model alone."""
        if len(self.nodes) == 1:
            return None
        return "midpoint" if self.founder is None else "direction"


@dataclass(frozen=True)
class Forest:
    """All origins among the models of a table.

    Attributes:
        table: what was measured.
        trees: the largest first.
        families: the models of each tree, parted into those that one training lies behind;
            families of one tree began alike and were trained apart.
    """

    table: LineageTable
    trees: tuple[Tree, ...]
    families: tuple[tuple[tuple[int, ...], ...], ...]

    def to_json(self) -> dict[str, Any]:
        """Every tree's nodes, each with the number of the node above; directions, mixings."""
        models = self.table.models

        def name(index: int | None) -> str | None:
            return None if index is None else models[index]

        return {
            "recipe": self.table.records[0].recipe.digest,
            "method": METHOD,
            "trees": [
                {
                    "founder": name(tree.founder),
                    "rooted_by": tree.rooted_by,
                    "nodes": [
                        {
                            "model": name(node.model),
                            "above": node.above,
                            "length": round(node.length, 6),
                            "descent": node.descent,
                            "apart": node.apart,
                        }
                        for node in tree.nodes
                    ],
                }
                for tree in self.trees
            ],
            "directions": [
                {
                    "parent": pair.a if direction.older == "a" else pair.b,
                    "child": pair.b if direction.older == "a" else pair.a,
                    "why": direction.why,
                }
                for pair in self.table.pairs
                if (direction := pair.evidence.direction) is not None
            ],
            "mixings": [asdict(mixing) for mixing in self.table.mixings],
        }
