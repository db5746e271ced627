"""Multi-head latent attention from the tensors that a layout names."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from huref.architecture.block import FeatureNorm, LatentAttention
from huref.architecture.config_values import config_ints
from huref.architecture.folding import Folding
from huref.architecture.heads import ungated
from huref.architecture.layout import Heads
from huref.errors import CheckpointError

Tensors = Mapping[str, Tensor]


def latent_norm(spec: Heads, role: str, tensors: Tensors, factor: float) -> FeatureNorm | None:
    """The norm of a latent, whose gain is multiplied by a factor, or None where it has none."""
    gain = tensors.get(f"latent.{role}")
    return None if gain is None else FeatureNorm("rms", "width", gain * factor)


def assemble_latent(
    spec: Heads,
    tensors: Tensors,
    folding: Folding,
    config: Mapping[str, Any],
    index: int,
    model: str,
) -> LatentAttention:
    """See `huref.architecture.assemble.assemble_attention`.

    Raises:
        CheckpointError: a tensor's shape contradicts the config.
    """
    latent = spec.latent
    assert latent is not None
    named = {
        role.removeprefix("latent."): tensor.T if tensor.dim() == 2 else tensor
        for role, tensor in tensors.items()
        if role.startswith("latent.")
    }
    heads = config_ints(config, spec.heads, model, index)[0]
    rope = config_ints(config, latent.rope, model, index)[0]
    nope = config_ints(config, latent.nope, model, index)[0]
    q_b = named["q_b"] if "q_b" in named else tensors["q"].T
    kv_a, kv_b, o = named["kv_a"], named["kv_b"], tensors["o"].T
    rank, width = len(kv_b), o.shape[1]
    value_dim = kv_b.shape[1] // heads - nope
    both = latent.q_b_reads == "both"
    q_rank = named["q_a"].shape[1] * (2 if both else 1) if "q_b" in named else width
    of_query = nope + rope + (value_dim if spec.q_gated else 0)
    for what, matrix, expected in (
        ("q_b", q_b, (q_rank, heads * of_query)),
        ("kv_a", kv_a, (width, rank + rope)),
        ("kv_b", kv_b, (rank, heads * (nope + value_dim))),
        ("o", o, (heads * value_dim, width)),
    ):
        if tuple(matrix.shape) != expected:
            name = (getattr(latent, what, ()) or getattr(spec, what, ()) or spec.q)[0]
            raise CheckpointError(
                f"{model}: '{name}' has shape {list(matrix.shape)} (in, out), but config.json "
                f"({heads} heads of {nope} + {rope}) asks for {list(expected)}; config and weights "
                "do not belong together"
            )
    per_head = kv_b.reshape(rank, heads, -1)
    q_b = ungated(q_b, heads, nope + rope) if spec.q_gated else q_b
    q_scale = kv_scale = 1.0
    if latent.scaled:
        kv_scale = (width / rank) ** 0.5
        q_scale = (width / q_rank) ** 0.5 if "q_b" in named else 1.0
    return LatentAttention(
        q_a=folding.reading("attention", named["q_a"]) if "q_b" in named else None,
        q_norm=latent_norm(spec, "q_norm", tensors, q_scale),
        q_b=q_b if "q_b" in named else folding.reading("attention", q_b),
        kv_a=folding.reading("attention", kv_a[:, :rank]),
        kv_norm=latent_norm(spec, "kv_norm", tensors, kv_scale),
        k_rope=folding.reading("attention", kv_a[:, rank:]),
        k_b=per_head[:, :, :nope].flatten(1),
        v_b=per_head[:, :, nope:].flatten(1),
        o=folding.writing("attention", o),
        heads=heads,
        k_rope_norm=latent_norm(spec, "k_rope_norm", tensors, 1.0),
        q_both=both,
    )
