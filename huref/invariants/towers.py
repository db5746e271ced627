"""Samples of what a multimodal model holds beside its language model: encoders and projector."""

import re
from collections.abc import Iterator

import torch

from huref.invariants.weight_samples import (
    OUTSIDE,
    RUNS,
    Place,
    WeightSamples,
    sampled_places,
)
from huref.loader.checkpoint import Checkpoint

# Words of the names of modules, the more particular ones first.
_KINDS = (
    ("projector", re.compile(
        r"project|merger|connector|aligner|resampler|perceiver|adapter|^mm_|^mlp1$|bridge"
    )),
    ("audio encoder", re.compile(r"audio|speech|whisper|wav2vec|sound")),
    ("vision encoder", re.compile(r"vision|visual|vit\b|image|siglip|clip|^vpm$|patch_embed")),
)  # fmt: skip
_VECTORS = re.compile(r"bias$|norm|^ln_|layernorm|class_embedding$|scale$")


def part_of(name: str) -> tuple[str, str]:
    """The part that a tensor beside a language model belongs to, and its name within the part.

    "projector", "audio encoder", "vision encoder", or else the first word of the name.
    """
    words = name.split(".")
    for part, pattern in _KINDS:
        found = [place for place, word in enumerate(words[:-1]) if pattern.search(word)]
        if not found:
            continue
        last = found[0]
        while last + 1 < len(words) - 1 and (
            pattern.search(words[last + 1]) or words[last + 1] in ("model", "encoder")
        ):
            last += 1
        return part, ".".join(words[last + 1 :])
    return words[0], ".".join(words[1:]) or words[0]


def sample_towers(checkpoint: Checkpoint) -> WeightSamples | None:
    """Samples of all matrices beside the language model; None where there are none.

    One tensor is in memory at a time.
    """
    found = list(_samples(checkpoint))
    if not found:
        return None
    return WeightSamples(torch.cat([values for _, values in found]), tuple(p for p, _ in found))


def _samples(checkpoint: Checkpoint) -> Iterator[tuple[Place, torch.Tensor]]:
    for name in checkpoint.names_beside:
        if _VECTORS.search(name.removesuffix(".weight").rpartition(".")[2]) or name.endswith(
            "bias"
        ):
            continue
        tensor = checkpoint.read_beside(name)
        if tensor.ndim < 2 or not tensor.dtype.is_floating_point or not tensor.numel():
            continue
        shape = tuple(tensor.shape)
        values = tensor.reshape(-1)[sampled_places(shape, RUNS)].float()
        if torch.isfinite(values).all():
            part, role = part_of(name)
            yield Place(OUTSIDE, f"{part}: {role}", part, shape, len(values)), values.clone()


def join_samples(a: WeightSamples | None, b: WeightSamples | None) -> WeightSamples | None:
    """Both samples as one."""
    if a is None or b is None:
        return a or b
    return WeightSamples(torch.cat([a.values, b.values]), (*a.places, *b.places))
