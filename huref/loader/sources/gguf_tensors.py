"""The tensors of a GGUF file under their published names and in their published form.

Expert e of a mixture is published as a tensor of its own, while GGUF stacks all experts of a block
in one: `formats.gguf.read_header` indexes each expert by its byte range as `NAME_exps.e.weight`,
and `published_name` below translates that name. One expert is read without the others.
"""

import re
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from huref.errors import CheckpointError
from huref.loader.sources.gguf_names import GgufArchitecture
from huref.loader.tensors import (
    Derived,
    DerivedTensors,
    TensorInfo,
    TensorStore,
    renamed,
    reordered,
    rotary_halves,
)

HeadCounts = Callable[[int], tuple[int, int]]  # a block's numbers of query and key-value heads

# blk.BLOCK.ROLE[.EXPERT].weight inside a block, ROLE.weight outside.
_NAME = re.compile(
    r"(?:blk\.(?P<block>\d+)\.)?(?P<role>\w+)(?:\.(?P<expert>\d+))?(?P<suffix>\.\w+)"
)
KEY_HALF, VALUE_HALF = ".attn_k_b.weight", ".attn_v_b.weight"  # of attn_kv_b, since 2025


def open_published_tensors(
    stored: TensorStore, architecture: GgufArchitecture, head_counts: HeadCounts
) -> TensorStore:
    """The tensors of a GGUF file in their published form.

    Args:
        stored: the tensors as the file names them, with one entry per expert.
        architecture: the names, and how the file's tensors differ from the published ones.
        head_counts: read only when a tensor's rows are ordered by head.
    """
    stored_name: dict[str, str] = {}
    for name in stored.names:
        if (published := published_name(name, architecture.names)) is not None:
            stored_name[published] = name
        elif name.endswith(KEY_HALF) and _value_half(name) in stored.names:
            whole = name.replace(".attn_k_b.", ".attn_kv_b.")
            stored_name.setdefault(published_name(whole, architecture.names) or name, name)

    def derive(published: str) -> Derived:
        source = stored_name[published]
        if source.endswith(KEY_HALF):
            keys, values = stored.entry(source), stored.entry(_value_half(source))
            return _join_key_and_value(published, keys, values)
        return _derive(published, stored.entry(source), architecture, head_counts)

    return DerivedTensors(stored, stored_name, derive)


def published_name(name: str, names: Mapping[str, str]) -> str | None:
    """The published name of a GGUF tensor, or None when a checkpoint has no such tensor.

    Args:
        name: such as blk.3.attn_q.weight, or blk.3.ffn_up_exps.7.weight for expert 7.
        names: the architecture's table, in which {i} is the block and {e} the expert.
    """
    match = _NAME.fullmatch(name)
    if match is None:
        return None
    block, expert = match["block"], match["expert"]
    whole = f"blk.{{i}}.{match['role']}{match['suffix']}"
    if block and whole in names:
        return names[whole].format(i=block)
    pattern = ("blk.{i}." if block else "") + match["role"] + (".{e}" if expert else "")
    published = names.get(pattern)
    if published is None:
        return None
    return published.format(i=block, e=expert) + match["suffix"]


def _derive(
    name: str, stored: TensorInfo, architecture: GgufArchitecture, head_counts: HeadCounts
) -> Derived:
    """How the published tensor `name` is computed from the stored one."""
    match = _NAME.fullmatch(stored.name)
    role = match["role"] if match else ""
    block = int(match["block"] or 0) if match else 0
    info, source = renamed(stored, name), stored.name
    if architecture.rotary_pairs and role in ("attn_q", "attn_k"):
        queries, groups = head_counts(block)
        heads = queries if role == "attn_q" else groups
        _require_divisible(stored, heads, 2 * heads)
        return reordered(info, source, rotary_halves(info.shape[0], heads))
    if architecture.fused_by_head and role == "attn_qkv":
        queries, groups = head_counts(block)
        _require_divisible(stored, queries + 2 * groups, queries + 2 * groups)
        return reordered(info, source, fused_rows(info.shape[0], queries, groups))
    if architecture.norms_plus_one and source.endswith("norm.weight"):
        return Derived(info, (source,), lambda parts: parts[0].float() - 1, by_rows=(True,))
    if role in architecture.transposed and len(info.shape) == 2:
        transposed = TensorInfo(name, info.file, info.dtype, info.shape[::-1])
        return Derived(transposed, (source,), lambda parts: parts[0].T)
    return Derived(info, (source,), lambda parts: parts[0], by_rows=(True,))


def _value_half(key_half: str) -> str:
    return key_half.removesuffix(KEY_HALF) + VALUE_HALF


def _join_key_and_value(name: str, keys: TensorInfo, values: TensorInfo) -> Derived:
    """DeepSeek's kv_b_proj, (heads * (nope + v), r).

    llama.cpp splits it into keys (heads, r, nope) and values (heads, v, r).
    """
    if len(keys.shape) != 3 or values.shape[::2] != keys.shape[:2]:
        raise CheckpointError(
            f"of shape {list(keys.shape)}, it does not fit '{values.name}' of shape "
            f"{list(values.shape)}; they are not the key and value parts of one projection",
            file=keys.file,
            tensor=keys.name,
        )
    heads, rank, nope = keys.shape
    shape = (heads * (nope + values.shape[1]), rank)
    return Derived(
        TensorInfo(name, keys.file, keys.dtype, shape),
        (keys.name, values.name),
        lambda parts: torch.cat([parts[0].mT, parts[1]], dim=1).flatten(0, 1),
    )


def _require_divisible(stored: TensorInfo, heads: int, divisor: int) -> None:
    if not stored.shape or stored.shape[0] % divisor:
        raise CheckpointError(
            f"its shape {list(stored.shape)} does not divide into {heads} heads, the number in "
            "the metadata",
            file=stored.file,
            tensor=stored.name,
            advice="convert the model again",
        )


def fused_rows(rows: int, heads: int, groups: int) -> Tensor:
    """Row order that fuses q, k and v by head, for a matrix that stores all of q, then k, then v.

    Args:
        rows: number of rows of the fused matrix.
        heads: number of query heads.
        groups: number of key-value heads. Each is published as its query heads, its key, its
            value.

    Returns:
        (rows,) int64: row i of the published matrix is this row of the stored one.
    """
    size = rows // (heads + 2 * groups)
    queries = torch.arange(heads * size).view(groups, -1)
    keys = heads * size + torch.arange(groups * size).view(groups, -1)
    return torch.cat([queries, keys, keys + groups * size], dim=1).reshape(-1)
