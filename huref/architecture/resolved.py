"""What one block of one model is: the tensors that the checkpoint holds, and its settings.

`huref.architecture.resolve` makes these from a `Layout`, the names and shapes of the checkpoint's
tensors and its config; `huref.architecture.assemble` reads them.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from huref.architecture.layout import AttentionForm, Names, NetworkForm, NormForm


@dataclass(frozen=True)
class Stored:
    """The tensors of one role.

    Attributes:
        names: one name, or several where each expert, each head or each factor of an adapter has
            its own tensor.
        shape: of the first of them, as stored.
    """

    names: Names
    shape: tuple[int, ...]

    @property
    def name(self) -> str:
        """The first name."""
        return self.names[0]

    @property
    def stacked_shape(self) -> tuple[int, ...]:
        """The shape as `read_roles` returns it: several tensors are stacked on a new first axis."""
        return self.shape if len(self.names) == 1 else (len(self.names), *self.shape)


Roles = Mapping[str, Stored]


@dataclass(frozen=True, kw_only=True)
class ResolvedNorms(NormForm):
    """A block's own norms.

    Attributes:
        tensors: stored gains by place, as "attention_out".
        streams: number of residual streams for which each gain holds one vector.
    """

    tensors: Roles
    streams: int = 1


@dataclass(frozen=True, kw_only=True)
class ResolvedHeadNorms:
    """Norms on queries, keys and values; `unlearned` lists the roles with a norm without gain."""

    kind: str
    offset: float
    unlearned: Names


@dataclass(frozen=True, kw_only=True)
class ResolvedLatent:
    """Settings of multi-head latent attention; see `layout.Latent`.

    Attributes:
        rope, nope: sizes of a head's rotary and other part.
        scaled: normalised latents of r numbers are multiplied by sqrt(width / r).
        q_both: queries are read from the latent after and before its norm.
    """

    rope: int
    nope: int
    scaled: bool
    q_both: bool


@dataclass(frozen=True, kw_only=True)
class ResolvedAttention(AttentionForm):
    """Attention of one block. The shapes of its tensors agree with its settings.

    Attributes:
        tensors: by role, as "q", "latent.q_a" or "norms.k".
        heads, kv_heads: number of query heads and of key-value heads.
        norms: on queries, keys and values.
        latent: where keys and values are read from a latent.
    """

    tensors: Roles
    heads: int
    kv_heads: int
    norms: ResolvedHeadNorms | None = None
    latent: ResolvedLatent | None = None


@dataclass(frozen=True, kw_only=True)
class ResolvedNetwork(NetworkForm):
    """A feed-forward network of one block; `tensors` by role, as "gate_up"."""

    tensors: Roles


@dataclass(frozen=True, kw_only=True)
class ResolvedExperts:
    """The experts of one block.

    Attributes:
        routed: the tensors of all routed experts.
        count: number of routed experts.
        stacked: see `layout.Experts`.
        scale: (count), a factor for what each expert writes.
        shared: the shared experts as one network.
    """

    routed: ResolvedNetwork
    count: int
    stacked: str
    scale: Stored | None = None
    shared: ResolvedNetwork | None = None


@dataclass(frozen=True, kw_only=True)
class ResolvedBlock:
    """One block of one model.

    Attributes:
        model: the model as the user called it.
        index: of the block.
        start: what precedes the names of the block's tensors.
        norms: its own norms.
        attention: None in a hybrid's block without softmax attention.
        ffn: None where the feed-forward network is the next block.
        convolutions: kernels by place, as "attention_out".
        out: (d, d), the block's own last linear map.
    """

    model: str
    index: int
    start: str
    norms: ResolvedNorms
    attention: ResolvedAttention | None
    ffn: ResolvedNetwork | ResolvedExperts | None
    convolutions: Roles
    out: Stored | None = None

    @property
    def tensors(self) -> dict[str, Stored]:
        """All tensors of the block by dotted role, as "attention.q" or "experts.shared.up"."""
        parts: dict[str, Roles] = {"norms": self.norms.tensors, "convolutions": self.convolutions}
        if self.attention is not None:
            parts["attention"] = self.attention.tensors
        if isinstance(self.ffn, ResolvedExperts):
            parts["experts"] = self.ffn.routed.tensors
            if self.ffn.scale is not None:
                parts["experts"] = {**parts["experts"], "scale": self.ffn.scale}
            if self.ffn.shared is not None:
                parts["experts.shared"] = self.ffn.shared.tensors
        elif self.ffn is not None:
            parts["ffn"] = self.ffn.tensors
        roles = {
            f"{part}.{role}": stored for part, of in parts.items() for role, stored in of.items()
        }
        return roles if self.out is None else roles | {"out": self.out}
