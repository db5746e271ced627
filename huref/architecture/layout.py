"""Layouts: how a family of checkpoints names, fuses and normalises its tensors, as data.

A layout is a template. It is read from a YAML file in `layouts/` by
`huref.architecture.layout_files` and never holds the names of one model's tensors;
`huref.architecture.resolve` makes those into a `ResolvedBlock`.

A field of names lists alternatives, best first; the first one that a checkpoint holds is read.
Tensor names are relative to the block's. In them, {i} stands for the block's index, {e} for an
expert's, {h} for a head's, {s} for one of `parts`, and {u} for the number of a shared block's use.
A config key can be restricted to one kind of block: `global_head_dim@full_attention` applies only
to blocks whose entry in the config's `layer_types` is `full_attention`.

A `*Form` class holds the settings that a resolved part has in common with its template.
"""

from dataclasses import Field, dataclass, fields, is_dataclass
from typing import Annotated, Any

Names = tuple[str, ...]
BlockNames = Annotated[tuple[str, ...], "tensors of a block"]


@dataclass(frozen=True, kw_only=True)
class Embedding:
    """Token embeddings.

    Attributes:
        weight: (vocabulary, e), one token per row.
        factor: (d, e); the second factor of factorised embeddings (OPT-350m).
        norm: gain (d) of a norm right after the embedding, of the same kind as the block norms
            (BLOOM).
        normed: a norm without a gain follows the embedding.
    """

    weight: Names
    factor: Names = ()
    norm: Names = ()
    normed: bool = False


@dataclass(frozen=True, kw_only=True)
class NormForm:
    """Settings of a block's own norms.

    Attributes:
        kind: "rms" or "layernorm"; the latter also removes the mean direction.
        offset: added to a stored gain (Gemma stores the gain minus one).
        place: "before" each half reads the residual stream, or "after" the sum (post-LN; the gain
            of such a norm belongs to no single matrix, so it is not folded).
    """

    kind: str
    offset: float = 0.0
    place: str = "before"


@dataclass(frozen=True, kw_only=True)
class Norms(NormForm):
    """The block's own norms, folded into matrices as linear maps.

    Attributes:
        attention, ffn: gains on what each half reads.
        attention_out, ffn_out: gains on what each half writes (sandwich norms).
        attention_inner, ffn_inner: gains on what o and down read.
        experts: gain on what routed experts read, where it differs from `ffn`'s.
        experts_out, shared_out: gains on what routed and shared experts write, before these are
            summed and pass `ffn_out`.
        streams: config keys of the number of residual streams, where a gain holds one vector per
            stream. All streams start as the embedding and their mean is read, so the mean of the
            gains is used.
    """

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


@dataclass(frozen=True, kw_only=True)
class Convolutions:
    """Causal depthwise convolutions over positions, each added to its input.

    A single token's feature is multiplied by 1 + w, where w is the last weight of the kernel.
    This factor is folded into the matrix that writes the feature.

    Attributes:
        k, v: on keys (before their norm) and values.
        attention_out, ffn_out: on what each half writes.
    """

    k: BlockNames = ()
    v: BlockNames = ()
    attention_out: BlockNames = ()
    ffn_out: BlockNames = ()


@dataclass(frozen=True, kw_only=True)
class HeadNorms:
    """Norms on queries, keys and values, applied to token-space features as the module does.

    A learned norm is applied where its gain is stored: over each head's features or over all
    features together, depending on the gain's length. `unlearned` lists the roles that are
    normalised per head without a gain, provided that the config key `flag` (if any) is true.
    """

    kind: str
    offset: float = 0.0
    unlearned: Names = ()
    flag: str = ""
    q: BlockNames = ()
    k: BlockNames = ()
    v: BlockNames = ()


@dataclass(frozen=True, kw_only=True)
class Latent:
    """Latents from which queries, keys and values are read (multi-head latent attention).

    Without `kv_a` only the queries have a latent.

    Attributes:
        rope, nope: config keys of the sizes of a head's rotary and other part.
        scaled: a normalised latent of r numbers is multiplied by sqrt(width / r).
        q_b_reads: "latent" for the normalised latent, "both" for it and the latent before the norm.
        q_a, q_norm, q_b, kv_a, kv_norm, kv_b: down-projections, norms and up-projections.
        k_rope_norm: a norm on the rotary part of the keys, which all heads share.
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


@dataclass(frozen=True, kw_only=True)
class AttentionForm:
    """How attention's tensors are stored and cut.

    Attributes:
        stored: "out_in" for a Linear, "in_out" for GPT-2's Conv1D.
        split: how a fused tensor is cut. "contiguous" is [q | k | v], "gate_first" is
            [output gate | q | k | v], "groups" is [q.. k v] per key-value head, "codegen" is
            [q | v | k] in four parts.
        q_gated: each head of q is followed by rows of an output gate, which are left out.
        mixture: q and o are stacks with one matrix per expert. All experts share keys and values,
            so the mean of the terms over experts is the term of the mean weights.
        heads_of_o: "halves" where o reads head j of the first and of the second half in turn.
        beside_embedding: q, k and v read the stream concatenated with the token's embedding. The
            stream starts as the embedding, so the two halves of their rows are added.
    """

    stored: str = "out_in"
    split: str = "contiguous"
    q_gated: bool = False
    mixture: bool = False
    heads_of_o: str = "in_order"
    beside_embedding: bool = False


@dataclass(frozen=True, kw_only=True)
class Heads(AttentionForm):
    """Attention's weights.

    Attributes:
        heads, kv_heads: config keys (dotted into nested mappings) or numbers, in order; of
            `kv_heads` the first value that agrees with the tensors' shapes is used.
        head_dim: config keys of a head's size; width / heads where the config has none of them.
        q_adapter, k_adapter, v_adapter: two matrices whose product is added to the role's.
        o_a: a first, block-diagonal factor of o, one block per group of heads (DeepSeek V4).
        qkv, kv: fused tensors.
    """

    heads: Names
    kv_heads: Names
    head_dim: Names = ()
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


@dataclass(frozen=True, kw_only=True)
class NetworkForm:
    """How a feed-forward network's tensors are stored and cut.

    Attributes:
        stored: "out_in" for a Linear, "in_out" for its transpose.
        down_stored: "in_out" where down alone is transposed, or "as_stored".
        split: how `gate_up` is cut: "contiguous" halves, gate first, or "interleaved".
    """

    stored: str = "out_in"
    down_stored: str = "as_stored"
    split: str = "contiguous"


@dataclass(frozen=True, kw_only=True)
class Network(NetworkForm):
    """A feed-forward network's weights.

    `gate_up` is gate and up fused; `gate_up_adapter` is two matrices whose product is added to it.
    """

    up: BlockNames = ()
    gate: BlockNames = ()
    gate_up: BlockNames = ()
    gate_up_adapter: BlockNames = ()
    down: BlockNames = ()


@dataclass(frozen=True, kw_only=True)
class Experts(Network):
    """Routed experts and shared experts.

    Attributes:
        count: config keys of the number of routed experts.
        stacked: "leading" where a tensor holds all experts along its first axis, "rows" where
            they follow each other along the rows (DBRX), "no" where each expert has its own
            tensor, named with {e}.
        part: the only one of the layout's `parts` that has experts.
        scale: a factor for what each expert writes.
        shared: the shared experts, as one network.
    """

    count: Names = ()
    stacked: str = "no"
    part: str = ""
    scale: BlockNames = ()
    shared: Network | None = None


@dataclass(frozen=True, kw_only=True)
class Condition:
    """Config values that a layout requires, where the model type alone does not decide.

    The first of `keys` that the config has must hold one of `values` (spelt as in Python, "None"
    for a config without any of the keys), or any value where `values` is empty.
    """

    keys: Names
    values: Names


@dataclass(frozen=True, kw_only=True)
class Layout:
    """One family of checkpoints.

    Attributes:
        name: the family's name, which is the file's name.
        model_types: values of config.json's `model_type` that belong to the family.
        prefixes: what can precede every name ("" for nothing), in order of preference.
        block: what precedes a block's tensors, with {i} for its index.
        layers: config keys of the number of blocks.
        parts, parts_of: the values of {s}, where a "layer" holds several blocks in sequence, or
            the "model" several stacks of layers.
        block_without_attention: "skip" in hybrid families, whose other blocks mix tokens by other
            means; otherwise "error".
        shared: a block's weights are used again by later blocks and stored once, in the first
            block that uses them; several shared blocks alternate. A block that uses one has an
            `out` of its own.
        ffn_reads: "stream", or "attention" where the feed-forward network reads only what
            attention writes.
        out: the block's own last linear map before the residual stream.
        last_reuse_keys: config keys of how many of the last blocks reuse an earlier block's keys
            and values; those blocks are skipped, even if the file holds keys for them.
        ffn_in_next_block: attention and feed-forward network are separate blocks.
        ignored: patterns of a block's tensors that the terms leave out.
        when: required of models of unknown type, and of a type that has several layouts.
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


def tensor_fields(part: object, start: str = "") -> dict[str, Names]:
    """The fields of a layout or its part that name tensors of a block, as role -> alternatives.

    A role is the field's dotted path, as "attention.latent.q_a".
    """
    found: dict[str, Names] = {}
    if is_dataclass(part):
        for field in fields(part):
            value = getattr(part, field.name)
            if names_tensors(field):
                found[start + field.name] = value
            else:
                found |= tensor_fields(value, f"{start}{field.name}.")
    return found
