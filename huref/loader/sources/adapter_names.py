"""Which tensor of its base an adapter's module is, when both write its name differently.

An adapter has the names of the modules in memory (`model.language_model.layers.0...`), its base
those of its files (`language_model.model.layers.0...`). Words that only say "the language model"
may differ; any other, such as `vision_tower`, must be in both names, so that a vision tower's
deltas never meet blocks of the language model.
"""

import re
from collections import defaultdict
from collections.abc import Iterable
from functools import cached_property

from huref.errors import CheckpointError

NEUTRAL = frozenset({
    "model", "base_model", "module", "transformer", "language_model", "text_model", "llm",
    "thinker", "_orig_mod", "decoder", "lm", "backbone", "gpt_neox", "language_backbone",
    "pretrained_model", "text_decoder",
})  # fmt: skip
# Words that torch.compile, FSDP and activation checkpointing put into names, at any place.
FRAMEWORK_WORDS = re.compile(
    r"(?<![^.])(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module|_forward_module"
    r"|_dp_wrapped_module)\."
)
# Parts of a multimodal model beside the language model.
_OTHER_PART = re.compile(
    r"vision|visual|image|img|audio|speech|whisper|sound|video|clip|siglip|vit(?![a-z])|projector|modality"
    r"|connector|multi_modal|multimodal|mm_|merger|resampler|perceiver|aligner|abstractor"
    r"|talker|token2wav|codec|patch_embed"
)
# Output heads, which the terms do not use.
_HEAD = re.compile(
    r"(?:^|\.)(?:v_head|value_head|score|classifier|classification_head|summary|qa_outputs|lm_head"
    r"|embed_out|reward_head|regression_head|rm_head|head|output|pooler|dense|out_proj)(?:\.|$)"
)
# Buffers that are computed from settings.
_BUFFER = re.compile(
    r"\.(?:inv_freq|original_inv_freq|position_ids|masked_bias|cos_cached|sin_cached)$"
)
_NUMBER = re.compile(r"\.\d+\.")
_ENDINGS = (4, 3, 2)  # words by which names are looked up


class BaseNames:
    """The names of all tensors of a base, its other parts' among them."""

    def __init__(self, names: Iterable[str]):
        self._names = frozenset(names)

    @cached_property
    def _by_ending(self) -> dict[tuple[str, ...], list[str]]:
        """The last two, three and four words of names -> the names that have them."""
        found: dict[tuple[str, ...], list[str]] = defaultdict(list)
        for name in self._names:
            words = name.split(".")
            for count in _ENDINGS:
                if len(words) >= count:
                    found[tuple(words[-count:])].append(name)
        return found

    def find(self, wanted: str) -> str | None:
        """The base's tensor of an adapter's name, or None: the one with the longest same ending.

        Raises:
            CheckpointError: several fit equally well.
        """
        if wanted in self._names:
            return wanted
        words = wanted.split(".")
        for count in _ENDINGS:
            by_length: dict[int, list[str]] = defaultdict(list)
            for name in self._by_ending.get(tuple(words[-count:]), ()):
                others = name.split(".")
                same = _same_at_end(words, others)
                if _agree(words[:-same], others[:-same]):
                    by_length[same].append(name)
            if by_length:
                fitting = by_length[max(by_length)]
                if len(fitting) > 1:
                    raise CheckpointError(
                        f"the adapter changes '{wanted}', which may be any of "
                        f"{', '.join(sorted(fitting)[:3])} of its base",
                        advice="merge the adapter with PEFT",
                    )
                return fitting[0]
        return None


def _same_at_end(words: list[str], others: list[str]) -> int:
    """How many words at their ends two names have in common."""
    pairs = zip(reversed(words), reversed(others), strict=False)
    return next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(words), len(others)))


def _agree(words: list[str], others: list[str]) -> bool:
    """Whether two names' beginnings differ in neutral words only."""
    return [w for w in words if w not in NEUTRAL] == [w for w in others if w not in NEUTRAL]


def is_beside_language_model(name: str) -> bool:
    """Whether a name is that of a part of a multimodal model, or of an output head."""
    return bool(_OTHER_PART.search(name) or _BUFFER.search(name)) or (
        not in_block(name) and bool(_HEAD.search(name))
    )


def in_block(name: str) -> bool:
    """Whether a name has a number, as those of tensors of blocks have."""
    return _NUMBER.search(name) is not None
