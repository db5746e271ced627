"""A lineage forest: one tree for each origin among some models.

Correlations multiply over independent steps of training: if a child correlates with its parent by
0.9 and a grandchild with that child by 0.8, grandchild and parent correlate by about 0.72. So
-ln ICS adds up along a line of descent, as branch lengths of a tree must.
"""

from dataclasses import dataclass
from typing import Any, Literal

from huref.lineage.table import LineageTable

JOINED_FROM = 0.1  # ICS from which pairs without a clear verdict share a tree; unrelated reach 0.02

METHOD = (
    "neighbour joining on -ln ICS, one tree for each origin; inner branches shorter than the "
    "spread of an unrelated ICS are not resolved"
)


@dataclass(frozen=True)
class Node:
    """A model (a leaf) or a common ancestor.

    Attributes:
        model: index among the table's models, or None for an ancestor that is not in the table.
        above: number of the parent node, or None at the root.
        length: of the branch to the parent node, in -ln ICS; 0 at the root.
        below: the models at the leaves below; of a leaf, its own model.
        descent: "down" where direction evidence puts the models above the branch before those
            below it, "up" for the opposite, None without evidence.
        shared_initialisation: whether every verdict across this branch is "shared initialisation"
            ("apart" in JSON): the models on its two sides were trained independently.
    """

    model: int | None
    above: int | None
    length: float
    below: frozenset[int]
    descent: Literal["down", "up"] | None = None
    shared_initialisation: bool = False


@dataclass(frozen=True)
class Tree:
    """Models of the same origin, or a single model.

    Attributes:
        nodes: in the order in which they are drawn, the root first, parents before children.
        founder: the model that direction evidence puts before all others of its family, which
            makes it the root; None where there is no such model.
    """

    nodes: tuple[Node, ...]
    founder: int | None = None

    @property
    def models(self) -> list[int]:
        """The models, in the order in which they are drawn."""
        return [node.model for node in self.nodes if node.model is not None]

    @property
    def rooted_by(self) -> Literal["direction", "midpoint"] | None:
        """How the root was chosen; None for a single model."""
        if len(self.nodes) == 1:
            return None
        return "midpoint" if self.founder is None else "direction"


@dataclass(frozen=True)
class Forest:
    """The trees of all origins among the models of a table.

    Attributes:
        table: the measured pairs.
        trees: the largest first.
        families: the models of each tree, grouped by training run; the families of one tree were
            trained independently from the same initialisation.
    """

    table: LineageTable
    trees: tuple[Tree, ...]
    families: tuple[tuple[tuple[int, ...], ...], ...]

    def to_json(self) -> dict[str, Any]:
        """What `huref tree` writes as .json (docs/json.md)."""
        models = self.table.models

        def name(index: int | None) -> str | None:
            return None if index is None else models[index]

        return {
            "recipe": self.table.records[0].recipe.digest,
            "method": METHOD,
            "files": dict(zip(models, (r.files for r in self.table.records), strict=True)),
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
                            "apart": node.shared_initialisation,
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
            "mixings": [mixing.to_json() for mixing in self.table.mixings],
        }
