"""How a mixture weighs its experts."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from huref.architecture.complete_config import routed_scale, router_traits

CLEAR = 0.01  # between the scores of the last expert that is chosen and of the next one
# Keys of the number of experts that a token is given to.
CHOSEN_KEYS = ("num_experts_per_tok", "moe_topk", "moe_k")

# Ends of the names of what is added to scores for the choice.
CORRECTIONS = ("e_score_correction_bias", "expert_bias")


@dataclass(frozen=True)
class Router:
    """A mixture's router: scores of experts, the best of which are chosen.

    Attributes:
        weight: (d, experts), the norm's gain folded in.
        bias: (experts,), what is added to the logits, or None.
        correction: (experts,), what is added to the scores for the choice alone, or None.
        sigmoid: whether scores are sigmoids of the logits, not their softmax.
        chosen: how many experts are.
        groups: experts are chosen from the best `groups[1]` of `groups[0]` equal groups.
        normalised: whether the weights of the chosen sum to one before `scale`.
        scale: what the family multiplies routed experts by.
    """

    weight: Tensor
    bias: Tensor | None
    correction: Tensor | None
    sigmoid: bool
    chosen: int
    groups: tuple[int, int]
    normalised: bool
    scale: float

    def weigh(self, x: Tensor) -> Tensor:
        """The weight of each expert for each token, (tokens, experts), of tokens (tokens, d)."""
        scores = self._scores(x @ self.weight)
        places = self._for_choice(scores).topk(self.chosen, dim=1).indices
        kept = scores.gather(1, places)
        if self.normalised:
            kept = kept / kept.sum(dim=1, keepdim=True).clamp(min=1e-20)
        return torch.zeros_like(scores).scatter(1, places, kept * self.scale)

    def constant(self, even: float) -> Tensor | None:
        """The weights (experts,) that all tokens have in common, or None.

        Args:
            even: largest norm of what tells the columns of `weight` apart, over the root of the
                width, that is taken for rounding.
        """
        apart = self.weight if self.sigmoid else self.weight - self.weight.mean(1, keepdim=True)
        if float(apart.norm()) > even * len(apart) ** 0.5:
            return None
        scores = self._scores(torch.zeros_like(self.weight[:1]))
        ranked = self._for_choice(scores)[0].sort(descending=True).values
        if self.chosen < len(ranked) and ranked[self.chosen - 1] - ranked[self.chosen] < CLEAR:
            return None
        return self.weigh(torch.zeros(1, len(self.weight)))[0]

    def _scores(self, logits: Tensor) -> Tensor:
        logits = logits if self.bias is None else logits + self.bias
        return logits.sigmoid() if self.sigmoid else logits.softmax(dim=1)

    def _for_choice(self, scores: Tensor) -> Tensor:
        """What experts are chosen by: scores, corrected, and without those of other groups."""
        scores = scores if self.correction is None else scores + self.correction
        count, chosen = self.groups
        size = scores.shape[1] // max(count, 1)
        if not 0 < chosen < count or size < 2 or size * count != scores.shape[1]:
            return scores
        grouped = scores.reshape(len(scores), count, size)
        best = grouped.topk(2, dim=2).values.sum(dim=2).topk(chosen, dim=1).indices
        outside = torch.ones(len(scores), count, dtype=torch.bool).scatter(1, best, value=False)
        left: Tensor = grouped.masked_fill(outside[:, :, None], -torch.inf)
        return left.flatten(1)


def make_router(
    config: Mapping[str, Any], weight: Tensor, shift: Tensor | None, beside: Mapping[str, Tensor]
) -> Router:
    """The router of a block as its family's module runs it.

    Args:
        config: the model's.
        weight: (d, experts), the norm's gain folded in.
        shift: (experts,), what the norm's own bias adds to the logits, or None.
        beside: the router's "bias" and CORRECTIONS as far as they are stored, (experts,).
    """
    count, traits = weight.shape[1], router_traits(config)
    biases = [shift, beside.get("bias") if traits.biased else None]
    known = [bias for bias in biases if bias is not None]
    stated = next((v for key in CHOSEN_KEYS if (v := config.get(key)) is not None), None)
    usable = isinstance(stated, int) and not isinstance(stated, bool) and stated > 0
    pair = [config.get(key) if traits.grouped else None for key in ("n_group", "topk_group")]
    groups = tuple(value if isinstance(value, int) else 1 for value in pair)
    return Router(
        weight,
        torch.stack(known).sum(dim=0) if known else None,
        beside.get(traits.correction) if traits.correction else None,
        traits.sigmoid,
        min(stated, count) if usable and isinstance(stated, int) else count,
        (groups[0], groups[1]),
        bool(config.get("norm_topk_prob", True)),
        routed_scale(config),
    )
