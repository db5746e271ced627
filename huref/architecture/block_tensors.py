"""Which of a checkpoint's tensors are the ones that a layout names, block by block."""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any

from huref.architecture.config_values import config_ints
from huref.architecture.layout import Layout, Names, names_tensors, tensor_fields
from huref.errors import CheckpointError

# A role is not missing when the block has one of these instead.
_FUSED_WITH = {
    "q": ("qkv", "latent"),
    "k": ("qkv", "kv", "latent"),
    "v": ("qkv", "kv", "latent"),
    "qkv": ("q", "latent"),
    "kv": ("k", "qkv", "latent"),
    "up": ("gate_up",),
    "gate": ("gate_up",),
    "gate_up": ("up",),
}

# Matrices that are fused, and what they are fused of: a block has one or the other.
_PARTS_OF = {
    "qkv": ("q", "k", "v", "kv"), "kv": ("k", "v"), "gate_up": ("gate", "up"),
    "latent.q_b": ("q",),
}  # fmt: skip


@dataclass(frozen=True)
class BlockTensors:
    """The tensors of one block that a checkpoint holds.

    Attributes:
        start: what precedes the names that belong to the block's index.
        by_role: names by dotted role, as "attention.q"; roles without tensors are left out.
        missing: the first alternative of each tensor that the block needs and lacks, without
            `start`.
        rivals: two tensors for one place, of which a program runs only one; empty where there are
            none.
    """

    start: str
    by_role: Mapping[str, Names]
    missing: tuple[str, ...]
    rivals: tuple[str, ...] = ()

    def part(self, name: str) -> dict[str, Names]:
        """The names of one part, as "attention", by role inside it."""
        start = f"{name}."
        return {
            role.removeprefix(start): names
            for role, names in self.by_role.items()
            if role.startswith(start)
        }

    @property
    def has_attention(self) -> bool:
        """Whether the block holds softmax attention."""

        def has(*roles: str) -> bool:
            return any(f"attention.{role}" in self.by_role for role in roles)

        separate = has("q", "latent.q_b") and has("k", "kv", "latent.kv_a")
        return has("o") and (has("qkv") or separate)

    @property
    def has_ffn(self) -> bool:
        """Whether the block holds a feed-forward network or experts."""
        return "ffn.down" in self.by_role or self.has_experts

    @property
    def has_experts(self) -> bool:
        """Whether the block holds routed experts."""
        return "experts.down" in self.by_role


class BlockFinder:
    """Finds the tensors of a model's blocks.

    Args:
        layout: the model's layout.
        prefix: what precedes every name.
        names: the names of all tensors.
        count: number of blocks.
    """

    def __init__(self, layout: Layout, prefix: str, names: Collection[str], count: int):
        self.layout = layout
        self._prefix = prefix
        self._names = names
        self._count = count
        self._found: dict[int, BlockTensors] = {}

    def start(self, index: int) -> tuple[str, str]:
        """What precedes the names of a block, and which of the layout's `parts` it is."""
        layout, part = self.layout, ""
        if layout.parts and layout.parts_of == "layer":
            index, number = divmod(index, len(layout.parts))
            part = layout.parts[number]
        elif layout.parts:
            number, index = divmod(index, self._count // len(layout.parts))
            part = layout.parts[number]
        return self._prefix + layout.block.format(i=index, s=part), part

    def find(self, index: int) -> BlockTensors:
        """The tensors of a block, also those of a shared block that it uses."""
        if index not in self._found:
            self._found[index] = self._find(index)
        return self._found[index]

    def _find(self, index: int) -> BlockTensors:
        start, part = self.start(index)
        by_role = self._by_role(start, part)
        users, owners = self._shared_blocks
        if "out" in by_role and owners:
            use = users.index(index)
            own_out = by_role["out"]
            by_role = self._by_role(*self.start(owners[use % len(owners)]), use) | {"out": own_out}
        rivals = next(self._rivals(by_role, start, part), ())
        return BlockTensors(start, by_role, tuple(self._missing(by_role)), rivals)

    def _rivals(self, by_role: Mapping[str, Names], start: str, part: str) -> Iterator[Names]:
        """Pairs of tensors for one place: of two names, fused and apart, dense and of experts."""
        used = {name for names in by_role.values() for name in names}
        for role, alternatives in tensor_fields(self.layout).items():
            for name in filter(None, alternatives if role in by_role else ()):
                pattern = start + name.replace("{s}", part).replace("{u}", "0")
                for other in _expand(pattern, self._names):
                    if other not in used:
                        yield by_role[role][0], other
        for fused, parts in _PARTS_OF.items():
            for whole in [role for role in by_role if role.endswith(f".{fused}")]:
                for one in parts:
                    if (role := f"{whole.removesuffix(fused)}{one}") in by_role:
                        yield by_role[whole][0], by_role[role][0]
        dense, experts = by_role.get("ffn.down"), by_role.get("experts.down")
        if dense and experts and dense != by_role.get("experts.shared.down"):
            yield dense[0], experts[0]

    @cached_property
    def _shared_blocks(self) -> tuple[list[int], list[int]]:
        """Indices of the blocks that use a shared block, and of those that store one."""
        if not self.layout.shared:
            return [], []

        def has(index: int, names: Names) -> bool:
            return any(self.start(index)[0] + name in self._names for name in names)

        users = [i for i in range(self._count) if has(i, self.layout.out)]
        return users, [i for i in users if has(i, self.layout.attention.o)]

    def _by_role(self, start: str, part: str, use: int = 0) -> dict[str, Names]:
        """For each role the first alternative that the checkpoint holds."""
        experts = self.layout.experts
        without_experts = experts is not None and experts.part not in ("", part)
        found: dict[str, Names] = {}
        for role, alternatives in tensor_fields(self.layout).items():
            of_routed = role.startswith("experts.") and not role.startswith("experts.shared.")
            if without_experts and of_routed:
                continue
            for name in filter(None, alternatives):
                pattern = start + name.replace("{s}", part).replace("{u}", str(use))
                if names := tuple(_expand(pattern, self._names)):
                    found[role] = names
                    break
        return found

    def _missing(self, by_role: Mapping[str, Names]) -> Iterator[str]:
        """The first alternative of each tensor that a block needs and lacks.

        Norms on queries and keys are applied where they are stored, so they cannot be missing;
        neither can a name that has "" among its alternatives.
        """
        layout = self.layout
        parts: dict[str, Any] = {"norms": layout.norms, "attention": layout.attention}
        if "experts.down" in by_role:
            parts["experts"] = layout.experts
        elif not layout.ffn_in_next_block:
            dense = layout.ffn is not None
            parts["ffn" if dense else "experts"] = layout.ffn if dense else layout.experts
        if layout.convolutions is not None:
            parts["convolutions"] = layout.convolutions
        has_latent = layout.attention.latent is not None
        for part, template in parts.items():
            for field in fields(template):
                alternatives = getattr(template, field.name)
                if not names_tensors(field) or not alternatives or "" in alternatives:
                    continue
                substitutes = _FUSED_WITH.get(field.name, ()) if part != "convolutions" else ()
                present = any(
                    f"{part}.{role}" in by_role or (role == "latent" and has_latent)
                    for role in (field.name, *substitutes)
                )
                if not present:
                    yield alternatives[0]


def two_tensors(name: str, other: str) -> CheckpointError:
    """The error for two tensors in one place of a block, of which a program runs only one."""
    return CheckpointError(
        f"the weights also hold '{other[:200]}' for the same place, and programs run only one of "
        "the two",
        tensor=name[:200],
        advice="save the model again, without the tensor that does not belong to it",
    )


def _expand(pattern: str, names: Collection[str]) -> Iterator[str]:
    """The tensors that a pattern matches: one, or those with {e} or {h} = 0, 1, 2 and so on."""
    if "{" not in pattern:
        yield from [pattern] if pattern in names else []
        return
    count = 0
    while (name := pattern.format(e=count, h=count)) in names:
        yield name
        count += 1


def find_prefix(layout: Layout, names: Collection[str]) -> str | None:
    """What precedes a layout's names in a checkpoint; None when its embedding is not there."""
    for prefix in layout.prefixes:
        if any(prefix + name in names for name in layout.embedding.weight):
            return prefix
    return None


def count_blocks(layout: Layout, config: Mapping[str, Any]) -> int:
    """Number of blocks according to the config, including a hybrid's blocks without attention.

    Raises:
        CheckpointError: the config does not give it.
    """
    for key in layout.layers:
        if isinstance(kinds := config.get(key), (list, str)):
            return len(kinds)  # one list entry, or one letter, per layer
    return config_ints(config, layout.layers)[0] * max(len(layout.parts), 1)
