"""What measuring logits would take where no logit bias can be set: requests, by hidden size.

The rank of the logits shows in a table of prompts by tokens that is somewhat larger than the rank.
Without a bias the endpoint, not the query, chooses whose log-probabilities an answer has. The
prompt's own log-probabilities give one entry of the table a request, if it ends in the token. An
answer gives one only if the prompt leads the model to generate the token (NightVision, arXiv
2607.01313, estimates sizes in this way with an average error of 23 %). Frequencies of generated
texts give a logit to 0.001 nat, which the drop of the singular values needs, only from a million
answers.
"""

import math

from huref.blackbox.capabilities import Capabilities
from huref.blackbox.size import MARGIN

HIDDEN_SIZES = (576, 1024, 4096)
FREQUENCIES = 1_000_000  # answers that give one logit to 0.001 nat


def count_requests(hidden_size: int, gives_scores: bool = True) -> int:
    """Least number of requests for the rank of logits of a model of this hidden size.

    Args:
        hidden_size: of the model.
        gives_scores: whether the endpoint gives log-probabilities at all.
    """
    entries = math.ceil(hidden_size * MARGIN) ** 2
    return entries if gives_scores else entries * FREQUENCIES


def describe_effort(found: Capabilities) -> str:
    """The requests for models of some hidden sizes, in words."""
    needed = [count_requests(size, found.gives_scores) for size in HIDDEN_SIZES]
    sizes = f"{HIDDEN_SIZES[0]:,}, {HIDDEN_SIZES[1]:,} and {HIDDEN_SIZES[2]:,}"
    figures = f"{_round(needed[0])}, {_round(needed[1])} and {_round(needed[2])}"
    return f"hidden sizes of {sizes} would take at least {figures} requests"


def _round(count: int) -> str:
    """A count to two digits, with commas."""
    digits = 10 ** max(len(str(count)) - 2, 0)
    return f"{math.ceil(count / digits) * digits:,}"
