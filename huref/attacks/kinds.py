"""The attacks by name: each changes a model in memory and preserves its function."""

from collections.abc import Callable

from torch import Generator

from huref.attacks.depth import duplicate_layer, insert_noops
from huref.attacks.editable import Editable
from huref.attacks.stream import absorb_gains, flip_signs, rotate_stream, shift_means
from huref.attacks.upcycling import find_mixture, upcycle
from huref.attacks.vocabulary import extend_vocabulary, permute_vocabulary
from huref.attacks.within_blocks import map_heads, permute_ffn, permute_heads, scale_ffn

Attack = Callable[[Editable, Generator], None]

KINDS: dict[str, Attack] = {
    "ffn-permutation": permute_ffn,
    "ffn-scaling": scale_ffn,
    "head-maps": map_heads,
    "head-permutation": permute_heads,
    "gain-absorption": absorb_gains,
    "rotation": rotate_stream,
    "sign-flips": flip_signs,
    "mean-shift": shift_means,
    "vocabulary-permutation": permute_vocabulary,
    "vocabulary-extension": extend_vocabulary,
    "no-op-layers": insert_noops,
    "layer-duplication": duplicate_layer,
    "upcycling": upcycle,
}
EXACT = tuple(kind for kind in KINDS if kind != "layer-duplication")


def why_inexact(kind: str, model: Editable) -> str:
    """Why a kind would change what a model computes; "" where it would not."""
    gated = "gate" in model.blocks[0].weights
    rms = model.layout.norms.kind == "rms"
    if kind == "ffn-scaling" and not gated:
        return "its feed-forward network has no gate, and its activation is not linear"
    if kind == "sign-flips" and not rms:
        return "LayerNorm subtracts the mean, which sign flips do not preserve"
    if kind == "mean-shift" and rms:
        return "RMSNorm does not subtract the mean"
    if kind == "upcycling" and (find_mixture(model) is None or model.blocks[0].biases):
        return "transformers has no mixture of experts with such blocks"
    return ""
