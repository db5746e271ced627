"""Multi-head latent attention from the tensors of a resolved block."""

from collections.abc import Mapping

from torch import Tensor

from huref.architecture.block import FeatureNorm, LatentAttention
from huref.architecture.folding import Folding
from huref.architecture.heads import drop_output_gate
from huref.architecture.resolved import ResolvedAttention, ResolvedLatent

Tensors = Mapping[str, Tensor]


def latent_norm(role: str, tensors: Tensors, factor: float = 1.0) -> FeatureNorm | None:
    """The norm of a latent with its gain multiplied by a factor; None where it has no norm."""
    gain = tensors.get(f"latent.{role}")
    return None if gain is None else FeatureNorm("rms", "width", gain * factor)


def assemble_latent(
    attention: ResolvedAttention, latent: ResolvedLatent, tensors: Tensors, folding: Folding
) -> LatentAttention:
    """Attention whose keys and values are read from a latent.

    Args:
        attention: the block's attention.
        latent: its settings of the latents.
        tensors: by role, as stored.
        folding: the block's norms.
    """
    heads, nope = attention.heads, latent.nope
    kv_a, kv_b, o = tensors["latent.kv_a"].T, tensors["latent.kv_b"].T, tensors["o"].T
    rank, width = len(kv_b), o.shape[1]
    q_a, q_b = None, tensors["q" if "latent.q_b" not in tensors else "latent.q_b"].T
    if attention.q_gated:
        q_b = drop_output_gate(q_b, heads, nope + latent.rope)
    q_scale, kv_scale = 1.0, (width / rank) ** 0.5 if latent.scaled else 1.0
    if "latent.q_b" in tensors:
        q_a = folding.reading("attention", tensors["latent.q_a"].T)
        q_scale = (width / len(q_b)) ** 0.5 if latent.scaled else 1.0
    else:
        q_b = folding.reading("attention", q_b)
    per_head = kv_b.reshape(rank, heads, -1)
    return LatentAttention(
        q_a=q_a,
        q_norm=latent_norm("q_norm", tensors, q_scale),
        q_b=q_b,
        kv_a=folding.reading("attention", kv_a[:, :rank]),
        kv_norm=latent_norm("kv_norm", tensors, kv_scale),
        k_rope=folding.reading("attention", kv_a[:, rank:]),
        k_b=per_head[:, :, :nope].flatten(1),
        v_b=per_head[:, :, nope:].flatten(1),
        o=folding.writing("attention", o),
        heads=heads,
        k_rope_norm=latent_norm("k_rope_norm", tensors),
        q_both=latent.q_both,
    )
