"""Which tensors of an adapter change which tensors of its base.

Names of an adapter's tensors are PEFT's, prefixed with "+" to tell them from the base's.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from huref.errors import CheckpointError
from huref.loader.tensors import TensorInfo, TensorStore

ROOT = "base_model.model."
PAIRS = ((".lora_A.weight", ".lora_B.weight"), (".lora_embedding_A", ".lora_embedding_B"))
MAGNITUDES = (".lora_magnitude_vector", ".lora_magnitude_vector.weight")


@dataclass(frozen=True)
class Delta:
    """The adapter's tensors that change one tensor of the base; "" or None for those it lacks.

    Attributes:
        a, b: the LoRA factors.
        magnitude: DoRA's magnitude vector.
        replacement: a tensor that replaces the base's before a delta is added.
    """

    a: str = ""
    b: str = ""
    magnitude: str | None = None
    replacement: str | None = None


def find_deltas(names: Iterable[str]) -> dict[str, Delta]:
    """What an adapter changes: module name -> delta; for a mere replacement, tensor name -> delta.

    Args:
        names: names of the adapter's tensors, in PEFT's layout.

    Raises:
        CheckpointError: LoRA factor A is present without B.
    """
    names = set(names)
    found: dict[str, Delta] = {}
    used: set[str] = set()
    for end_a, end_b in PAIRS:
        for a in (name for name in names if name.endswith(end_a)):
            stem = a.removesuffix(end_a)
            b = stem + end_b
            if b not in names:
                raise CheckpointError(
                    f"the adapter lacks its other LoRA factor, '{b}'",
                    tensor=a,
                    advice="download the adapter again",
                )
            magnitude = next((stem + m for m in MAGNITUDES if stem + m in names), None)
            found[stem.removeprefix(ROOT)] = Delta(f"+{a}", f"+{b}", magnitude and f"+{magnitude}")
            used |= {a, b, magnitude or a}
    for name in names - used:
        target = name.removeprefix(ROOT)
        for wrapping in (".base_layer.", ".modules_to_save."):
            target = target.replace(wrapping, ".")
        module = target.removesuffix(".weight")
        if module in found:  # a resized embedding with a LoRA delta
            found[module] = replace(found[module], replacement=f"+{name}")
        else:
            found[target] = Delta(replacement=f"+{name}")
    return found


class SideBySide:
    """A store of the base's tensors and of the adapter's, whose names are prefixed with "+"."""

    def __init__(self, base: TensorStore, adapter: TensorStore):
        self.base = base
        self.adapter = adapter

    @property
    def names(self) -> list[str]:
        """See TensorStore."""
        return [*self.base.names, *(f"+{name}" for name in self.adapter.names)]

    def _split(self, name: str) -> tuple[TensorStore, str]:
        return (self.adapter, name[1:]) if name.startswith("+") else (self.base, name)

    def entry(self, name: str) -> TensorInfo:
        """See TensorStore."""
        store, inner = self._split(name)
        return store.entry(inner)

    def read(self, names: Iterable[str]) -> dict[str, Tensor]:
        """See TensorStore."""
        wanted = list(names)
        own = self.adapter.read(name[1:] for name in wanted if name.startswith("+"))
        tensors = self.base.read(name for name in wanted if not name.startswith("+"))
        return {**tensors, **{f"+{name}": tensor for name, tensor in own.items()}}

    def read_rows(self, name: str, rows: Sequence[int]) -> Tensor:
        """See TensorStore."""
        store, inner = self._split(name)
        return store.read_rows(inner, rows)

    def read_sample(self, name: str, lines: int) -> Tensor:
        """See TensorStore."""
        store, inner = self._split(name)
        return store.read_sample(inner, lines)
