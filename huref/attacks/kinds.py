"""The attacks by name: each changes a model in memory and preserves its function."""

from collections.abc import Callable

import torch
from torch import Generator

from huref.attacks import padding
from huref.attacks.dead_dimensions import add_dead_dimensions
from huref.attacks.decoy_blocks import (
    add_cancelling_blocks,
    add_silent_blocks,
    add_silent_blocks_between,
)
from huref.attacks.depth import duplicate_layer, halve_blocks, insert_noops
from huref.attacks.disguised_vocabulary import (
    add_decoy_strings,
    add_outlier_rows,
    drop_config_keys,
    drop_tokens,
    list_added_tokens,
    renumber_anchors,
    renumber_strings,
    renumber_words,
)
from huref.attacks.editable import Editable
from huref.attacks.extreme_scales import scale_extremely
from huref.attacks.framing import add_foreign_units, graft_blocks
from huref.attacks.known_text import answer_known_text
from huref.attacks.linear_units import (
    add_linear_units,
    is_smooth,
    reverse_gates,
    write_even_units,
)
from huref.attacks.noisy_experts import add_noisy_experts
from huref.attacks.opposite_gates import (
    add_opposing_units,
    has_linear_difference,
    oppose_gates,
)
from huref.attacks.parasite import add_parasite
from huref.attacks.sink_heads import add_sink_heads
from huref.attacks.stream import absorb_gains, flip_signs, rotate_stream, shift_means
from huref.attacks.student import Effort
from huref.attacks.trained_blocks import distil_blocks, push_away
from huref.attacks.upcycling import find_mixture, upcycle
from huref.attacks.vocabulary import extend_vocabulary, permute_vocabulary
from huref.attacks.within_blocks import (
    map_heads,
    move_value_biases,
    permute_ffn,
    permute_heads,
    scale_ffn,
)

Attack = Callable[[Editable, Generator], None]
Framing = Callable[[Editable, Generator, Editable], None]
Trained = Callable[[Editable, Generator, Effort], None]

# What exporters do as well; "all" applies every one that is exact.
PLAIN: dict[str, Attack] = {
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
# What only somebody does who wants to hide a model, or to make a copy look like its source.
DISGUISES: dict[str, Attack] = {
    "dead-units": padding.add_dead_units,
    "quiet-units": padding.add_quiet_units,
    "cancelling-units": padding.add_cancelling_units,
    "split-units": padding.split_units,
    "opposite-gates": oppose_gates,
    "opposing-units": add_opposing_units,
    "linear-units": add_linear_units,
    "reversed-gates": reverse_gates,
    "even-units": write_even_units,
    "duplicated-units": padding.duplicate_units,
    "dead-heads": padding.add_dead_heads,
    "mute-heads": padding.add_mute_heads,
    "cancelling-heads": padding.add_cancelling_heads,
    "even-heads": padding.add_even_heads,
    "split-heads": padding.split_heads,
    "sink-heads": add_sink_heads,
    "value-biases": move_value_biases,
    "extreme-scales": scale_extremely,
    "dead-dimensions": add_dead_dimensions,
    "half-blocks": halve_blocks,
    "silent-blocks": add_silent_blocks,
    "silent-blocks-between": add_silent_blocks_between,
    "cancelling-blocks": add_cancelling_blocks,
    "noisy-experts": add_noisy_experts,
    "decoy-strings": add_decoy_strings,
    "outlier-rows": add_outlier_rows,
    "renumbered-strings": renumber_strings,
    "renumbered-words": renumber_words,
    "renumbered-anchors": renumber_anchors,
    "added-tokens": list_added_tokens,
    "missing-config-keys": drop_config_keys,
    "fewer-tokens": drop_tokens,
    "known-text": answer_known_text,
}
# What costs some perplexity and time; the copy is trained to predict what its source predicts.
TRAINED: dict[str, Trained] = {
    "distilled-blocks": distil_blocks,
    "gradient-push": push_away,
}
# What puts parts of another model, named by --other, into a model.
FRAMINGS: dict[str, Framing] = {
    "graft": graft_blocks,
    "foreign-units": add_foreign_units,
    "parasite": add_parasite,
}
KINDS = (*PLAIN, *DISGUISES, *TRAINED, *FRAMINGS)
# Kinds that change the outputs a little: by about what is written after the name.
INEXACT = {
    "layer-duplication": "a block acts twice",
    "quiet-units": "1e-3",
    "linear-units": "1e-2",
    "reversed-gates": "1e-2",
    "even-units": "1e-2",
    "silent-blocks": "1e-2",
    "silent-blocks-between": "1e-2",
    "cancelling-blocks": "1e-2",
    "even-heads": "1e-6",
    "known-text": "nothing, in texts without huref's own phrases",
    "sink-heads": "1e-5, in texts that begin with the first special token",
    "distilled-blocks": "a few percent of perplexity",
    "gradient-push": "a few percent of perplexity",
    "graft": "1e-3",
    "foreign-units": "1e-3",
    "parasite": "1e-1",
}
EXACT = tuple(kind for kind in PLAIN if kind not in INEXACT)
HEADS = (
    "dead-heads", "mute-heads", "cancelling-heads", "even-heads", "split-heads", "sink-heads",
    "parasite",
)  # fmt: skip
OPPOSING = ("opposite-gates", "opposing-units")
LINEAR = ("linear-units", "reversed-gates", "even-units")
WIDER = ("dead-dimensions", "sink-heads", "known-text", "parasite")
MIXTURES = ("upcycling", "noisy-experts")


def why_inexact(kind: str, model: Editable) -> str:
    """Why a kind would change what a model computes; "" where it would not."""
    block = model.blocks[0]
    gated = "gate" in block.weights
    rms = model.layout.norms.kind == "rms"
    one_head_size = model.layout.name in ("gpt2", "gpt_neox")
    if kind == "ffn-scaling" and not gated:
        return "its feed-forward network has no gate, and its activation is not linear"
    if kind == "sign-flips" and not rms:
        return "LayerNorm subtracts the mean, which sign flips do not preserve"
    if kind == "mean-shift" and rms:
        return "RMSNorm does not subtract the mean"
    if kind == "value-biases" and not {"v", "o"} <= block.biases.keys():
        return "its values or what attention writes have no biases"
    if kind == "extreme-scales" and model.dtype == torch.float16:
        return "float16 has no room for such factors"
    if kind in MIXTURES and (find_mixture(model) is None or block.biases):
        return "transformers has no mixture of experts with such blocks"
    if kind in (*HEADS, *WIDER) and one_head_size:
        return "the size of its heads follows from its width and their number"
    if kind in WIDER and not rms:
        return "LayerNorm subtracts the mean over all dimensions"
    norms = [t for name, t in block.others.items() if "norm" in name]
    if kind in HEADS and any(t.numel() > padding.head_size(model) for t in norms):
        return "a norm acts on all heads together"
    if kind in OPPOSING and not has_linear_difference(model):
        return "its activation has no linear difference act(x) - act(-x)"
    if kind in LINEAR and not (is_smooth(model) and has_linear_difference(model)):
        return "its activation is not linear near zero"
    if kind == "half-blocks" and model.running.parallel:
        return "attention and network of a block read the same stream"
    if kind == "even-heads" and norms:
        return "norms inside its blocks make every score count"
    if kind == "known-text" and model.gains_on_output:
        return "norms on what blocks write are never silent"
    if kind in ("sink-heads", "parasite") and (norms or model.gains_on_output):
        return "norms inside its blocks limit what a head can attend to"
    if kind == "dead-dimensions" and model.layout.name == "olmo2":
        return "norms over the width and over heads share one epsilon"
    if kind == "parasite" and model.layout.name != "llama":
        return "it needs Llama's blocks"
    return ""
