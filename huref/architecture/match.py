"""Which layout fits a checkpoint, under which prefix, and which of its tensors a layout names."""

import fnmatch
import logging
from collections.abc import Collection, Iterator, Mapping
from dataclasses import fields, is_dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar

from huref.architecture.layout import (
    Embedding,
    Experts,
    Layout,
    Names,
    names_tensors,
    tensor_fields,
)
from huref.architecture.layout_files import load_layouts
from huref.errors import CheckpointError, UnsupportedModelError

logger = logging.getLogger("huref")

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Spec = TypeVar("Spec", bound="DataclassInstance")

# Of no use to the terms in any family: biases, positions, buffers that old files carry.
ALWAYS_IGNORED = ("*.bias", "*inv_freq", "*.masked_bias", "*_bias", "*.sinks")
UNSUPPORTED_KINDS = {
    "state-space or linear-attention model, which has no softmax attention": (
        "mamba", "mamba2", "falcon_mamba", "rwkv", "xlstm", "minimax_linear",
    ),
    "encoder, not a decoder-only language model": (
        "bert", "roberta", "albert", "electra", "deberta", "deberta-v2", "distilbert", "mpnet",
        "xlm-roberta", "xlm", "camembert", "modernbert", "nomic_bert",
    ),
    "encoder-decoder, not a decoder-only language model": (
        "t5", "mt5", "umt5", "bart", "mbart", "pegasus", "marian", "blenderbot", "whisper", "led",
        "m2m_100", "prophetnet",
    ),
}  # fmt: skip


def look_up(config: Mapping[str, Any], key: str, index: int = 0) -> object:
    """A config value by its dotted key; from a list with one entry per block, block `index`'s.

    Values that config.json gives for single blocks (`per_layer_config`) come first; a key that is
    bound to a kind of block ("key@kind") counts only for such blocks.
    """
    key, _, kind = key.partition("@")
    if kind and look_up(config, "layer_types", index) != kind:
        return None
    own = look_up(config, f"per_layer_config.{index}.{key}") if "per_layer" not in key else None
    value: object = config if own is None else own
    for part in key.split(".") if own is None else ():
        value = value.get(part) if isinstance(value, Mapping) else None
    if isinstance(value, list):
        return value[index] if index < len(value) else None
    return value


def config_ints(config: Mapping[str, Any], keys: Names, model: str, index: int = 0) -> list[int]:
    """The positive integers that a config holds under some keys; a number stands for itself.

    Raises:
        CheckpointError: a key holds something else, or none of them is there.
    """
    found = []
    for key in keys:
        value = int(key) if key.isdecimal() else look_up(config, key, index)
        if value is None or value is False:
            continue
        if type(value) is not int or value <= 0:
            raise CheckpointError(f"{model}: config.json has {key} = {value!r}")
        found.append(value)
    if not found:
        raise CheckpointError(f"{model}: config.json has none of {', '.join(keys)}")
    return found


def resolve(spec: Spec, start: str, known: Collection[str], part: str = "") -> Spec:
    """A part of a layout with the tensors that a block really has in place of alternatives.

    Args:
        spec: the layout or a part of it.
        start: what stands before the block's names, as "model.layers.3.".
        known: the names of all tensors.
        part: what {s} stands for.
    """
    changes: dict[str, Any] = {}
    elsewhere = isinstance(spec, Experts) and spec.part not in ("", part)
    for f in fields(spec):
        value = getattr(spec, f.name)
        if names_tensors(f):
            names = () if elsewhere else (start + n.replace("{s}", part) for n in value if n)
            changes[f.name] = next(
                (hit for name in names if (hit := tuple(_find(name, known)))), ()
            )
        elif is_dataclass(value) and not isinstance(value, type):
            changes[f.name] = resolve(value, start, known, part)
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
    return resolve(layout, start, known, part)


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


def _misfit(layout: Layout, config: Mapping[str, Any], known: Collection[str]) -> str:
    """Why a layout does not fit a model of unknown type; "" when it does."""
    prefix = find_prefix(layout, known)
    if prefix is None:
        return f"no '{layout.embedding.weight[0]}'"
    if layout.when is not None:
        value = next((v for k in layout.when.keys if (v := look_up(config, k)) is not None), None)
        wanted = layout.when.values
        if str(value) not in wanted if wanted else value is None:
            return f"config.json has {layout.when.keys[0]} = {value!r}"
    try:
        count = count_blocks(layout, config, "")
    except CheckpointError as error:
        return str(error)
    reasons = (_block_misfit(layout, prefix, i, known, count) for i in sorted({0, 1, count - 1}))
    return next(filter(None, reasons), "")


def _block_misfit(
    layout: Layout, prefix: str, index: int, known: Collection[str], count: int
) -> str:
    """Why a block's tensors are not those of a layout: one is missing, or one is left over."""
    block = resolve_block(layout, prefix, index, known, count)
    if not has_attention(block) or not has_ffn(block):
        return f"no attention or no feed-forward network in block {index}"
    if missing := missing_tensors(layout, block):
        return f"no '{missing[0]}'"
    start = block_start(layout, prefix, index, count)[0]
    used = {name for names in tensor_fields(block).values() for name in names}
    ignored = [*layout.ignored, *ALWAYS_IGNORED]
    for name in known:
        if name.startswith(start) and name not in used:
            rest = name[len(start) :]
            if not any(fnmatch.fnmatchcase(rest, pattern) for pattern in ignored):
                return f"'{name}' is not a tensor of this layout"
    return ""


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


def find_layout(config: Mapping[str, Any], known: Collection[str], model: str) -> Layout:
    """The layout of a model by its config's `model_type`, or else by its tensors.

    Raises:
        UnsupportedModelError: no layout fits, or several that would give different terms.
    """
    model_type = config.get("model_type")
    layouts = load_layouts()
    of_type = [layout for layout in layouts if model_type in layout.model_types]
    if len(of_type) == 1:
        return of_type[0]
    for kind, types in UNSUPPORTED_KINDS.items():
        if model_type in types:
            raise UnsupportedModelError(
                f"{model}: not supported, because '{model_type}' is a {kind}"
            )
    candidates = of_type or layouts
    fitting = [layout for layout in candidates if not _misfit(layout, config, known)]
    if len({_outcome(layout, known) for layout in fitting}) == 1:
        chosen = max(fitting, key=lambda layout: len(layout.model_types))
        if not of_type:
            logger.warning(
                "%s: model_type %r is unknown; its tensors fit the layout '%s', which reads them",
                model, model_type, chosen.name,
            )  # fmt: skip
        return chosen
    if fitting:
        raise UnsupportedModelError(
            f"{model}: model_type {model_type!r} is unknown and its tensors fit the layouts "
            f"{', '.join(layout.name for layout in fitting)}, which read them differently; "
            "huref does not guess"
        )
    supported = sorted(t for layout in layouts for t in layout.model_types)
    raise UnsupportedModelError(
        f"{model}: model_type {model_type!r} is not supported and its tensors fit no known "
        f"layout; supported: {', '.join(supported)}"
    )


def _held(value: Any, known: Collection[str]) -> Any:
    """Of alternative names the ones that end a tensor's name; anything else as it is."""
    if not isinstance(value, tuple):
        return value
    return tuple(name for name in value if any(other.endswith(name) for other in known))


def _outcome(layout: Layout, known: Collection[str]) -> Layout:
    """What decides the terms: the resolved first block without what only tells layouts apart."""
    count = max(len(layout.parts), 1)
    block = resolve_block(layout, find_prefix(layout, known) or "", 0, known, count)
    parts = {p: part for p in ("ffn", "experts") if (part := getattr(block, p)) and part.down}
    embedding = {f.name: _held(getattr(block.embedding, f.name), known) for f in fields(Embedding)}
    return replace(
        block,
        embedding=replace(block.embedding, **embedding),
        name="",
        model_types=(),
        prefixes=(),
        ignored=(),
        when=None,
        block_without_attention="error",
        ffn=parts.get("ffn"),
        experts=parts.get("experts"),
    )
