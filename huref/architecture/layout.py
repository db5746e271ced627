"""Layouts: how a family of checkpoints names, fuses and norms its tensors, as data.

One YAML file in `layouts/` describes a family. A file is validated strictly when it is loaded:
a key that no field reads, a missing one, or an unknown word is an error, so nothing in a file can
be silently ignored. A file may extend another and then holds only what differs.

A field of names lists alternatives, best first; the first that a checkpoint holds is read. Names
of tensors are relative to the block's; {i} is the block, {e} an expert, {h} a head.
"""

from collections.abc import Mapping
from dataclasses import MISSING, Field, dataclass, fields, is_dataclass
from functools import lru_cache
from importlib import resources
from typing import Annotated, Any, get_args

import yaml

Names = tuple[str, ...]
BlockNames = Annotated[tuple[str, ...], "tensors of a block"]

WORDS = {
    "kind": ("rms", "layernorm"),
    "place": ("before", "after"),
    "stored": ("out_in", "in_out"),
    "down_stored": ("as_stored", "in_out"),
    "split": ("contiguous", "groups", "codegen", "interleaved"),
    "stacked": ("no", "leading", "rows"),
    "heads_of_o": ("in_order", "halves"),
    "block_without_attention": ("error", "skip"),
}


@dataclass(frozen=True)
class Embedding:
    """Token embeddings.

    Attributes:
        weight: (vocabulary, e); stored tokens by row.
        factor: (d, e), multiplied out where embeddings are factorised (OPT-350m).
        norm: gain (d) of a norm right after the embedding, of the block norms' kind (BLOOM).
        normed: a norm without a gain follows the embedding.
    """

    weight: Names
    factor: Names = ()
    norm: Names = ()
    normed: bool = False


@dataclass(frozen=True)
class Norms:
    """The block's own norms, folded as linear maps.

    Attributes:
        kind: "rms" or "layernorm"; the latter also removes the mean direction.
        offset: what is added to a stored gain (Gemma stores the gain minus one).
        place: "before" a half reads the residual stream, or "after" the sum (post-LN; no gain of
            such a norm belongs to one matrix, so none is folded).
        attention, ffn: gains on what the halves read.
        attention_out, ffn_out: gains on what they write (sandwich norms).
        attention_inner, ffn_inner: gains on what o and down read.
    """

    kind: str
    offset: float = 0.0
    place: str = "before"
    attention: BlockNames = ()
    ffn: BlockNames = ()
    attention_out: BlockNames = ()
    ffn_out: BlockNames = ()
    attention_inner: BlockNames = ()
    ffn_inner: BlockNames = ()


@dataclass(frozen=True)
class HeadNorms:
    """Norms on queries, keys and values, applied to token-space features as the module does.

    A learned norm is applied where its gain is stored, over each head's features or over all of
    them together, as its length says. `unlearned` lists the roles that are normed head by head
    without a gain, if the config key `flag` (where one is named) is true.
    """

    kind: str
    offset: float = 0.0
    unlearned: Names = ()
    flag: str = ""
    q: BlockNames = ()
    k: BlockNames = ()
    v: BlockNames = ()


@dataclass(frozen=True)
class Latent:
    """Multi-head latent attention; `rope` and `nope` are config keys of a head's two parts."""

    rope: Names
    nope: Names
    q_a: BlockNames = ()
    q_norm: BlockNames = ()
    q_b: BlockNames = ()
    kv_a: BlockNames = ()
    kv_norm: BlockNames = ()
    kv_b: BlockNames = ()


@dataclass(frozen=True)
class Heads:
    """Attention's weights.

    Attributes:
        heads, kv_heads: config keys (dotted into nested mappings) or numbers, in order; the first
            of `kv_heads` that the tensors' shapes bear out is taken.
        head_dim: config keys of a head's size; where there is none, width / heads.
        stored: "out_in" for a Linear, "in_out" for GPT-2's Conv1D.
        qkv, kv: fused tensors, cut as `split` says: "contiguous" is [q | k | v], "groups" is
            [q.. k v] per key-value head, "codegen" is [q | v | k] in four parts.
        q_gated: each head of q is followed by as many rows of an output gate, left out.
        heads_of_o: "halves" where o reads head j of the first and of the second half in turn.
    """

    heads: Names
    kv_heads: Names
    head_dim: Names = ()
    stored: str = "out_in"
    split: str = "contiguous"
    q_gated: bool = False
    heads_of_o: str = "in_order"
    q: BlockNames = ()
    k: BlockNames = ()
    v: BlockNames = ()
    o: BlockNames = ()
    kv: BlockNames = ()
    qkv: BlockNames = ()
    norms: HeadNorms | None = None
    latent: Latent | None = None


@dataclass(frozen=True)
class Network:
    """A feed-forward network's weights.

    `gate_up` is a fused tensor of both, the gate first: "contiguous" halves or "interleaved".
    """

    stored: str = "out_in"
    down_stored: str = "as_stored"
    split: str = "contiguous"
    up: BlockNames = ()
    gate: BlockNames = ()
    gate_up: BlockNames = ()
    down: BlockNames = ()


@dataclass(frozen=True)
class Experts(Network):
    """Routed experts, and the shared ones.

    `stacked` says whether a tensor holds all experts: "leading" along a first axis of its own,
    "rows" one after the other along the rows (DBRX); "no" means one tensor each, named with {e}.
    """

    count: Names = ()
    stacked: str = "no"
    shared: Network | None = None


@dataclass(frozen=True)
class Condition:
    """Config values without which a layout does not fit, where the type alone does not decide.

    The first of `keys` that the config has must hold one of `values` (spelt as in Python, "None"
    for a config without any of them), or anything where no values are listed.
    """

    keys: Names
    values: Names


@dataclass(frozen=True)
class Layout:
    """One family of checkpoints.

    Attributes:
        name: the family's name, which is the file's name.
        model_types: values of config.json's `model_type` that belong to it.
        prefixes: what may stand before every name ("" for nothing), in order of preference.
        block: what stands before a block's tensors, with {i} for its index.
        layers: config keys of the number of blocks.
        block_without_attention: "skip" in hybrid families, whose other blocks mix by other means.
        ffn_in_next_block: attention and feed-forward network are blocks of their own.
        ignored: patterns of a block's tensors that the terms leave out.
        when: asked of models of unknown type, and of a type that has several layouts.
    """

    name: str
    model_types: tuple[str, ...]
    prefixes: tuple[str, ...]
    block: str
    layers: Names
    embedding: Embedding
    norms: Norms
    attention: Heads
    ffn: Network | None = None
    experts: Experts | None = None
    block_without_attention: str = "error"
    ffn_in_next_block: bool = False
    ignored: tuple[str, ...] = ()
    when: Condition | None = None


def _build(cls: type, data: object, where: str) -> Any:
    """A dataclass from its YAML mapping, every key accounted for."""
    if not isinstance(data, Mapping):
        raise ValueError(f"{where}: a mapping is needed here, not {data!r}")
    known = {f.name: f for f in fields(cls) if f.name != "name"}
    required = {n for n, f in known.items() if f.default is MISSING}
    if not required <= set(data) <= set(known):
        wrong = sorted((required - set(data)) | (set(data) - set(known)))
        raise ValueError(f"{where}: keys out of place: {wrong}")
    values: dict[str, Any] = {key: _value(known[key], value, where) for key, value in data.items()}
    return cls(name=where, **values) if cls is Layout else cls(**values)


def _value(target: Field[Any], value: object, where: str) -> object:
    place = f"{where}.{target.name}"
    part = next(
        (
            t
            for t in (target.type, *get_args(target.type))
            if isinstance(t, type) and is_dataclass(t)
        ),
        None,
    )
    if part is not None:
        return None if value is None else _build(part, value, place)
    if target.name in WORDS:
        if value not in WORDS[target.name]:
            raise ValueError(f"{place}: {value!r} is none of {', '.join(WORDS[target.name])}")
        return value
    if target.type in (bool, float, str):
        if type(value) is not target.type:
            raise ValueError(f"{place}: {value!r} is not a {target.type.__name__}")
        return value
    if not isinstance(value, list) or not all(isinstance(v, (str, int)) for v in value):
        raise ValueError(f"{place}: a list of names is needed here, not {value!r}")
    return tuple(str(v) for v in value)


def parse_layout(name: str, data: Mapping[str, Any]) -> Layout:
    """Build a layout from its YAML mapping. Raises ValueError on anything out of place."""
    layout: Layout = _build(Layout, data, name)
    if layout.ffn is None and layout.experts is None:
        raise ValueError(f"{name}: neither ffn nor experts")
    return layout


def merge(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """A layout's mapping with another's keys put over it, mapping by mapping."""
    merged = dict(base)
    for key, value in changes.items():
        old = merged.get(key)
        both = isinstance(old, Mapping) and isinstance(value, Mapping)
        merged[key] = merge(old, value) if both and old is not None else value
    return merged


def _read(name: str) -> dict[str, Any]:
    file = resources.files("huref.architecture") / "layouts" / f"{name}.yaml"
    data: dict[str, Any] = yaml.safe_load(file.read_text("utf-8"))
    base = data.pop("extends", None)
    return data if base is None else merge(_read(base), data)


@lru_cache
def load_layouts() -> tuple[Layout, ...]:
    """All layouts that ship with huref, in order of their names."""
    folder = resources.files("huref.architecture") / "layouts"
    files = sorted(f.name for f in folder.iterdir())
    names = [name.removesuffix(".yaml") for name in files if name.endswith(".yaml")]
    return tuple(parse_layout(name, _read(name)) for name in names)


def names_tensors(field: Field[Any]) -> bool:
    """Whether a field of a layout's part names tensors of a block."""
    return field.type is BlockNames


def tensor_fields(spec: object, start: str = "") -> dict[str, Names]:
    """The fields of a layout's part that name tensors of a block; nested ones are dotted."""
    found: dict[str, Names] = {}
    if is_dataclass(spec):
        for f in fields(spec):
            value = getattr(spec, f.name)
            if names_tensors(f):
                found[start + f.name] = value
            else:
                found |= tensor_fields(value, f"{start}{f.name}.")
    return found
