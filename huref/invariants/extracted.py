"""What was measured of a checkpoint's weights, and how deep."""

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from huref.invariants.anchors import Anchors
from huref.invariants.barcodes import Barcodes
from huref.invariants.function_use import FunctionUse
from huref.invariants.relations import Relations
from huref.invariants.traits import Traits
from huref.invariants.unit_features import UnitFeatures
from huref.invariants.weight_samples import WeightSamples
from huref.recipe import Recipe

Depth = Literal["terms", "recipe", "full", "components"]


@dataclass(frozen=True)
class Extract:
    """Everything that was measured of a checkpoint's weights.

    Attributes:
        terms: (layers, 3, m, m) float32.
        anchors: the anchors that were used.
        layers: indices of the blocks that the terms are of.
        recipe: the recipe that was used, which differs from the given one if the model required it.
        units, barcodes, relations: None with the depth "terms" and for the published recipe.
        traits: None for the published recipe.
        function: what the blocks do on a text; None unless the recipe runs them.
        samples: some of the weights as they stand; likewise.
    """

    terms: Tensor
    anchors: Anchors
    layers: tuple[int, ...]
    recipe: Recipe
    units: UnitFeatures | None = None
    barcodes: Barcodes | None = None
    traits: Traits | None = None
    relations: Relations | None = None
    function: FunctionUse | None = None
    samples: WeightSamples | None = None
