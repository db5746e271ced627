"""One part of two models, as `compare --components` shows it."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from huref.invariants.weight_samples import EMBEDDINGS, HEAD

PartVerdict = Literal["same weights", "related", "unrelated"]


@dataclass(frozen=True)
class Component:
    """One part of two models; see docs/json.md, `pairs[].components`."""

    part: str
    block: int | None
    verdict: PartVerdict | None
    figure: float | None
    background: float | None
    what: str | None
    why: str

    def to_json(self) -> dict[str, Any]:
        """The part in `compare --json`."""
        return asdict(self)

    @property
    def is_tower(self) -> bool:
        """Whether it lies beside the language model."""
        return self.block is None and self.part not in (EMBEDDINGS, HEAD)


def tell_towers(components: Sequence[Component]) -> tuple[list[str], list[str]]:
    """Names of the parts beside the language model that both have in common, and of the others."""
    common = [c.part for c in components if c.is_tower and c.verdict in ("same weights", "related")]
    apart = [c.part for c in components if c.is_tower and c.verdict == "unrelated"]
    return common, apart
