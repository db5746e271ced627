"""Which layout fits a checkpoint, by its config's `model_type` or else by its tensors."""

import fnmatch
import logging
from collections.abc import Collection, Mapping
from dataclasses import fields, replace
from typing import Any

from huref.architecture.config_values import look_up
from huref.architecture.layout import Embedding, Layout, tensor_fields
from huref.architecture.layout_files import load_layouts
from huref.architecture.resolve import (
    block_start,
    count_blocks,
    find_prefix,
    has_attention,
    has_ffn,
    missing_tensors,
    resolve_block,
)
from huref.errors import CheckpointError, UnsupportedModelError

logger = logging.getLogger("huref")

# Of no use to the terms in any family: biases, positions, buffers that old files carry.
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
    if layout.norms.kind == "rms":
        for name in (name for names in tensor_fields(block.norms).values() for name in names):
            if (bias := name.removesuffix("weight") + "bias") in known:
                return f"'{bias}' is a LayerNorm's"
    start = block_start(layout, prefix, index, count)[0]
    used = {name for names in tensor_fields(block).values() for name in names}
    ignored = [*layout.ignored, *ALWAYS_IGNORED]
    for name in known:
        if name.startswith(start) and name not in used:
            rest = name[len(start) :]
            if not any(fnmatch.fnmatchcase(rest, pattern) for pattern in ignored):
                return f"'{name}' is not a tensor of this layout"
    return ""


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
            raise UnsupportedModelError(f"{model}: not supported, because '{model_type}' is {kind}")
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
    if of_type:
        reasons = "; ".join(f"{lay.name}: {_misfit(lay, config, known)}" for lay in of_type)
        raise UnsupportedModelError(
            f"{model}: its tensors fit none of the layouts of model_type {model_type!r} ({reasons})"
        )
    supported = sorted({t for layout in layouts for t in layout.model_types})
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
    norms = block.attention.norms
    if norms is not None and not norms.unlearned and not any(tensor_fields(norms).values()):
        norms = None  # it might have norms on queries and keys, and has none
    return replace(
        block,
        attention=replace(block.attention, norms=norms),
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
