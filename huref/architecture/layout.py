"""Layouts: how a family of checkpoints names, fuses and norms its tensors, as data.

One YAML file in `layouts/` describes a family; `huref.architecture.layout_files` reads it.

A field of names lists alternatives, best first; the first that a checkpoint holds is read. Names
of tensors are relative to the block's; {i} is the block, {e} an expert, {h} a head, {s} one of
`parts`, {u} the number of a shared block's use. A config key may be bound to a kind of block:
`global_head_dim@full_attention` counts only for blocks whose entry of the config's `layer_types`
is that word.
"""

from dataclasses import Field, dataclass, fields, is_dataclass
from typing import Annotated, Any

Names = tuple[str, ...]
BlockNames = Annotated[tuple[str, ...], "tensors of a block"]


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
        experts: gain on what routed experts read, where it is not `ffn`'s.
        experts_out, shared_out: gains on what routed and shared experts write, before they are
            added up and pass `ffn_out`.
        streams: config keys of the number of residual streams, where a gain holds one for each.
            All streams begin as the embedding and their mean is read, so the gains' mean is.
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
    experts: BlockNames = ()
    experts_out: BlockNames = ()
    shared_out: BlockNames = ()
    streams: Names = ()


@dataclass(frozen=True)
class Convolutions:
    """Causal convolutions over positions, one for each feature, added to what they read.

    Of a token by itself they make 1 + w times the feature, w being the last weight of the kernel;
    that is folded into the matrix which writes the feature.

    Attributes:
        k, v: on keys (before their norm) and values.
        attention_out, ffn_out: on what the halves write.
    """

    k: BlockNames = ()
    v: BlockNames = ()
    attention_out: BlockNames = ()
    ffn_out: BlockNames = ()


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
    """Latents that queries, keys and values are read from (multi-head latent attention).

    Without `kv_a` only the queries have one.

    Attributes:
        rope, nope: config keys of a head's rotary and its other part.
        scaled: a normed latent of r numbers is multiplied by sqrt(width / r).
        q_b_reads: "latent" for the normed latent, "both" for it and the latent before its norm.
        q_a, q_norm, q_b, kv_a, kv_norm, kv_b: down-projections, norms and up-projections.
        k_rope_norm: a norm on the part of the keys that all heads share.
    """

    rope: Names = ()
    nope: Names = ()
    scaled: bool = False
    q_b_reads: str = "latent"
    k_rope_norm: BlockNames = ()
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
        qkv, kv: fused tensors, cut as `split` says: "contiguous" is [q | k | v], "gate_first" is
            [output gate | q | k | v], "groups" is [q.. k v] per key-value head, "codegen" is
            [q | v | k] in four parts.
        q_gated: each head of q is followed by rows of an output gate, left out.
        mixture: q and o are stacks of an expert each; every expert reads the same keys and
            values, so that the terms' mean over experts is that of the mean of their weights.
        heads_of_o: "halves" where o reads head j of the first and of the second half in turn.
        beside_embedding: q, k and v read the stream and beside it the token's embedding, which is
            where the stream begins; so the two halves of their rows are added up.
        q_adapter, k_adapter, v_adapter: two matrices whose product is added to the role's.
        o_a: a first factor of o, block by block of heads (DeepSeek V4).
    """

    heads: Names
    kv_heads: Names
    head_dim: Names = ()
    stored: str = "out_in"
    split: str = "contiguous"
    q_gated: bool = False
    mixture: bool = False
    heads_of_o: str = "in_order"
    beside_embedding: bool = False
    q: BlockNames = ()
    k: BlockNames = ()
    v: BlockNames = ()
    q_adapter: BlockNames = ()
    k_adapter: BlockNames = ()
    v_adapter: BlockNames = ()
    o_a: BlockNames = ()
    o: BlockNames = ()
    kv: BlockNames = ()
    qkv: BlockNames = ()
    norms: HeadNorms | None = None
    latent: Latent | None = None


@dataclass(frozen=True)
class Network:
    """A feed-forward network's weights.

    `gate_up` is a fused tensor of both, the gate first: "contiguous" halves or "interleaved";
    `gate_up_adapter` two matrices whose product is added to it.
    """

    stored: str = "out_in"
    down_stored: str = "as_stored"
    split: str = "contiguous"
    up: BlockNames = ()
    gate: BlockNames = ()
    gate_up: BlockNames = ()
    gate_up_adapter: BlockNames = ()
    down: BlockNames = ()


@dataclass(frozen=True)
class Experts(Network):
    """Routed experts, and the shared ones.

    `stacked` says whether a tensor holds all experts: "leading" along a first axis of its own,
    "rows" one after the other along the rows (DBRX); "no" means one tensor each, named with {e}.
    `scale` holds a factor for what each expert writes. `part` is the only one of the layout's
    parts that has experts.
    """

    count: Names = ()
    stacked: str = "no"
    part: str = ""
    scale: BlockNames = ()
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
        parts, parts_of: the words that {s} stands for, where a "layer" holds several blocks, one
            after the other, or the "model" several stacks of layers.
        block_without_attention: "skip" in hybrid families, whose other blocks mix by other means.
        shared: blocks that a later one uses again are stored once, in the block that first uses
            them; several take turns. A block that uses one is known by its own `out`.
        ffn_reads: "stream", or "attention" where the feed-forward network reads what attention
            writes, and nothing but that.
        out: a last linear map of a block's own before the residual stream.
        last_reuse_keys: config keys of how many of the last blocks use an earlier one's keys and
            values; those are skipped, whether or not a file still holds keys for them.
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
    convolutions: Convolutions | None = None
    parts: Names = ()
    parts_of: str = "layer"
    shared: bool = False
    ffn_reads: str = "stream"
    out: BlockNames = ()
    block_without_attention: str = "error"
    last_reuse_keys: Names = ()
    ffn_in_next_block: bool = False
    ignored: tuple[str, ...] = ()
    when: Condition | None = None


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
