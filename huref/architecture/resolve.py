"""Which of a checkpoint's tensors are those that a layout names."""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import fields, is_dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar

from huref.architecture.config_values import config_ints
from huref.architecture.layout import Experts, Layout, names_tensors

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Spec = TypeVar("Spec", bound="DataclassInstance")


def resolve(spec: Spec, start: str, known: Collection[str], part: str = "", use: int = 0) -> Spec:
    """A part of a layout with the tensors that a block really has in place of alternatives.

    Args:
        spec: the layout or a part of it.
        start: what stands before the block's names, as "model.layers.3.".
        known: the names of all tensors.
        part: what {s} stands for.
        use: what {u} stands for.
    """
    changes: dict[str, Any] = {}
    elsewhere = isinstance(spec, Experts) and spec.part not in ("", part)
    for f in fields(spec):
        value = getattr(spec, f.name)
        if names_tensors(f):
            names = (
                ()
                if elsewhere
                else (start + n.replace("{s}", part).replace("{u}", str(use)) for n in value if n)
            )
            changes[f.name] = next(
                (hit for name in names if (hit := tuple(_find(name, known)))), ()
            )
        elif is_dataclass(value) and not isinstance(value, type):
            changes[f.name] = resolve(value, start, known, part, use)
    return replace(spec, **changes)


def _find(pattern: str, known: Collection[str]) -> Iterator[str]:
    """The tensors of a name: one, or as many as {e} or {h} can be counted up from 0."""
    if "{" not in pattern:
        yield from [pattern] if pattern in known else []
        return
    count = 0
    while (name := pattern.format(e=count, h=count)) in known:
        yield name
        count += 1


def find_prefix(layout: Layout, known: Collection[str]) -> str | None:
    """What stands before a layout's names in a checkpoint, or None when they are not there."""
    for prefix in layout.prefixes:
        if any(prefix + name in known for name in layout.embedding.weight):
            return prefix
    return None


def block_start(layout: Layout, prefix: str, index: int, count: int) -> tuple[str, str]:
    """What stands before the names of a block, and which of the layout's parts it is.

    Args:
        layout: as it was loaded.
        prefix: what stands before every name.
        index: of the block.
        count: number of blocks.
    """
    part = ""
    if layout.parts and layout.parts_of == "layer":
        index, number = divmod(index, len(layout.parts))
        part = layout.parts[number]
    elif layout.parts:
        number, index = divmod(index, count // len(layout.parts))
        part = layout.parts[number]
    return prefix + layout.block.format(i=index, s=part), part


def resolve_block(
    layout: Layout, prefix: str, index: int, known: Collection[str], count: int
) -> Layout:
    """A layout with the tensors of one of `count` blocks."""
    start, part = block_start(layout, prefix, index, count)
    block = resolve(layout, start, known, part)
    if not layout.shared or not block.out:
        return block
    uses = [i for i in range(count) if _holds(layout, prefix, i, count, known)[0]]
    owners = [i for i in uses if _holds(layout, prefix, i, count, known)[1]]
    if not owners:
        return block
    use = uses.index(index)
    owner, part = block_start(layout, prefix, owners[use % len(owners)], count)
    return replace(resolve(layout, owner, known, part, use), out=block.out)


def _holds(
    layout: Layout, prefix: str, index: int, count: int, known: Collection[str]
) -> tuple[bool, bool]:
    """Whether a block has a last map of its own, and whether it has attention's output matrix."""
    start, _ = block_start(layout, prefix, index, count)
    both = (layout.out, layout.attention.o)
    has_out, has_o = (any(start + name in known for name in names) for names in both)
    return has_out, has_o


def count_blocks(layout: Layout, config: Mapping[str, Any], model: str) -> int:
    """Number of blocks, from the config; a hybrid's other layers count too.

    Raises:
        CheckpointError: the config does not say.
    """
    for key in layout.layers:
        if isinstance(kinds := config.get(key), (list, str)):
            return len(kinds)  # one entry, or one letter, for the kind of each layer
    return config_ints(config, layout.layers, model)[0] * max(len(layout.parts), 1)


def has_attention(block: Layout) -> bool:
    """Whether a resolved block holds softmax attention."""
    attention, latent = block.attention, block.attention.latent
    queries = attention.q or (latent is not None and latent.q_b)
    keys = attention.k or attention.kv or (latent is not None and latent.kv_a)
    return bool(attention.o and (attention.qkv or (queries and keys)))


def has_ffn(block: Layout) -> bool:
    """Whether a resolved block holds a feed-forward network or experts."""
    return any(part is not None and bool(part.down) for part in (block.ffn, block.experts))


def missing_tensors(layout: Layout, block: Layout) -> list[str]:
    """The first alternative of each tensor that a block should have and has not.

    Norms on queries and keys are applied where they are stored, so none is missing; neither is a
    name that has "" among its alternatives.
    """
    pairs: list[tuple[Any, Any]] = [
        (layout.norms, block.norms),
        (layout.attention, block.attention),
    ]
    if block.experts is not None and block.experts.down:
        pairs.append((layout.experts, block.experts))
    elif not layout.ffn_in_next_block:
        pairs.append((layout.ffn, block.ffn))
    if layout.convolutions is not None:
        pairs.append((layout.convolutions, block.convolutions))
    missing = []
    for wanted, found in pairs:
        for f in fields(wanted):
            names = getattr(wanted, f.name)
            if names_tensors(f) and names and "" not in names:
                fused = any(getattr(found, other, ()) for other in _FUSED_WITH.get(f.name, ()))
                if not getattr(found, f.name) and not fused:
                    missing.append(names[0])
    return missing


# A role is not missing when one of these holds it.
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
