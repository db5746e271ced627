"""Which layout fits a checkpoint, by its config's `model_type` or else by its tensors."""

import fnmatch
import logging
from collections.abc import Collection, Mapping
from dataclasses import fields, is_dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar

from huref.architecture.block_tensors import BlockFinder, count_blocks, find_prefix
from huref.architecture.config_values import look_up
from huref.architecture.layout import Embedding, Layout, names_tensors
from huref.architecture.layout_files import load_layouts
from huref.errors import CheckpointError, UnsupportedModelError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Part = TypeVar("Part", bound="DataclassInstance")

logger = logging.getLogger("huref")

# Tensors that the terms leave out in every family: biases, positions, buffers of old files.
ALWAYS_IGNORED = ("*.bias", "*inv_freq", "*.masked_bias", "*_bias", "*.sinks")
UNSUPPORTED_KINDS = {
    "a state-space or linear-attention model, which has no softmax attention": (
        "mamba", "mamba2", "falcon_mamba", "rwkv", "xlstm", "minimax_linear",
    ),
    "an encoder, not a decoder-only language model": (
        "bert", "roberta", "albert", "electra", "deberta", "deberta-v2", "distilbert", "mpnet",
        "xlm-roberta", "xlm", "camembert", "modernbert", "nomic_bert",
    ),
    "an encoder-decoder, not a decoder-only language model": (
        "t5", "mt5", "umt5", "bart", "mbart", "pegasus", "marian", "blenderbot", "whisper", "led",
        "m2m_100", "prophetnet",
    ),
}  # fmt: skip


def find_layout(config: Mapping[str, Any], names: Collection[str], model: str) -> Layout:
    """The layout of a model by its config's `model_type`, or else by its tensors.

    Args:
        config: the language model's config.
        names: the names of all tensors.
        model: the model as the user called it, for messages.

    Raises:
        UnsupportedModelError: no layout fits, or several fit that would give different terms.
    """
    model_type = config.get("model_type")
    layouts = load_layouts()
    of_type = [layout for layout in layouts if model_type in layout.model_types]
    if len(of_type) == 1:
        return of_type[0]
    for kind, types in UNSUPPORTED_KINDS.items():
        if model_type in types:
            raise UnsupportedModelError(
                f"not supported, because '{model_type}' is {kind}", model=model
            )
    candidates = of_type or layouts
    fitting = [layout for layout in candidates if not _misfit(layout, config, names)]
    if len({_reading(layout, names) for layout in fitting}) == 1:
        chosen = max(fitting, key=lambda layout: len(layout.model_types))
        if not of_type:
            logger.warning(
                "%s: model_type %r is unknown; its tensors fit the layout '%s', which reads them",
                model, model_type, chosen.name,
            )  # fmt: skip
        return chosen
    if fitting:
        raise UnsupportedModelError(
            f"model_type {model_type!r} is unknown and its tensors fit the layouts "
            f"{', '.join(layout.name for layout in fitting)}, which read them differently",
            model=model,
            advice="set model_type in config.json to that of the model's own family",
        )
    if of_type:
        reasons = "; ".join(f"{lay.name}: {_misfit(lay, config, names)}" for lay in of_type)
        raise UnsupportedModelError(
            f"its tensors fit none of the layouts of model_type {model_type!r} ({reasons})",
            model=model,
        )
    supported = sorted({t for layout in layouts for t in layout.model_types})
    raise UnsupportedModelError(
        f"model_type {model_type!r} is not supported and its tensors fit no known layout; "
        f"supported: {', '.join(supported)}",
        model=model,
    )


def _misfit(layout: Layout, config: Mapping[str, Any], names: Collection[str]) -> str:
    """Why a layout does not fit a model of unknown type; "" when it fits."""
    prefix = find_prefix(layout, names)
    if prefix is None:
        return f"no '{layout.embedding.weight[0]}'"
    if layout.when is not None:
        value = next((v for k in layout.when.keys if (v := look_up(config, k)) is not None), None)
        allowed = layout.when.values
        if str(value) not in allowed if allowed else value is None:
            return f"config.json has {layout.when.keys[0]} = {value!r}"
    try:
        count = count_blocks(layout, config)
    except CheckpointError as error:
        return error.what
    finder = BlockFinder(layout, prefix, names, count)
    reasons = (_block_misfit(finder, i, names) for i in sorted({0, 1, count - 1}))
    return next(filter(None, reasons), "")


def _block_misfit(finder: BlockFinder, index: int, names: Collection[str]) -> str:
    """Why a block's tensors are not those of a layout: one is missing, or one is not in it."""
    layout, block = finder.layout, finder.find(index)
    if not block.has_attention or not block.has_ffn:
        return f"no attention or no feed-forward network in block {index}"
    if block.missing:
        return f"no '{block.missing[0]}'"
    if layout.norms.kind == "rms":
        for name in (name for found in block.part("norms").values() for name in found):
            if (bias := name.removesuffix("weight") + "bias") in names:
                return f"'{bias}' belongs to a LayerNorm"
    used = {name for found in block.by_role.values() for name in found}
    ignored = [*layout.ignored, *ALWAYS_IGNORED]
    for name in names:
        if name.startswith(block.start) and name not in used:
            rest = name.removeprefix(block.start)
            if not any(fnmatch.fnmatchcase(rest, pattern) for pattern in ignored):
                return f"'{name}' is not a tensor of this layout"
    return ""


def _reading(layout: Layout, names: Collection[str]) -> tuple[object, ...]:
    """What decides the terms: the first block's tensors, and how the layout reads them.

    Two layouts with equal values here read a model alike.
    """
    finder = BlockFinder(layout, find_prefix(layout, names) or "", names, max(len(layout.parts), 1))
    block = finder.find(0)
    absent = {part for part in ("ffn", "experts") if f"{part}.down" not in block.by_role}
    head_norms = layout.attention.norms
    if head_norms is not None and not head_norms.unlearned and not block.part("attention.norms"):
        head_norms = None  # the layout allows norms on queries and keys; this model has none
    embedding = {
        f.name: _found(getattr(layout.embedding, f.name), names) for f in fields(Embedding)
    }
    settings = replace(
        _without_names(layout),
        attention=replace(
            _without_names(layout.attention), norms=head_norms and _without_names(head_norms)
        ),
        embedding=replace(layout.embedding, **embedding),
        ffn=None if "ffn" in absent or layout.ffn is None else _without_names(layout.ffn),
        experts=(
            None
            if "experts" in absent or layout.experts is None
            else _without_names(layout.experts)
        ),
        name="",
        model_types=(),
        prefixes=(),
        ignored=(),
        when=None,
        block_without_attention="error",
    )
    tensors = (
        (role, found)
        for role, found in block.by_role.items()
        if role.partition(".")[0] not in absent
    )
    return settings, tuple(sorted(tensors))


def _found(value: Any, names: Collection[str]) -> Any:
    """Of alternative names those that end a tensor's name; any other value unchanged."""
    if not isinstance(value, tuple):
        return value
    return tuple(end for end in value if any(name.endswith(end) for name in names))


def _without_names(part: Part) -> Part:
    """A layout or its part with no names of tensors: only its settings."""
    changes: dict[str, Any] = {}
    for field in fields(part):
        value = getattr(part, field.name)
        if names_tensors(field):
            changes[field.name] = ()
        elif is_dataclass(value) and not isinstance(value, type):
            changes[field.name] = _without_names(value)
    return replace(part, **changes)
