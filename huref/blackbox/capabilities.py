"""What an endpoint offers, as it was detected and is remembered with the answers.

From most to least informative: log-probabilities of all tokens; those of chosen ids; the top k
with the logit bias applied; a logit bias that changes the generated token; text alone. Besides:
the log-probabilities of a prompt's own tokens, whether a seed and a temperature of 0 have an
effect, and whether answers count tokens.
"""

import math
from dataclasses import asdict, dataclass
from typing import Any, Literal

from huref.blackbox.answers import AnswerStore
from huref.blackbox.query import Api

Access = Literal["full", "chosen", "biased", "argmax", "none"]

MAX_BIAS = 100.0
CHOSEN_AT_ONCE = 128  # vLLM's limit for logprob_token_ids


@dataclass(frozen=True)
class Capabilities:
    """What an endpoint offers by one of OpenAI's two APIs.

    Attributes:
        api: which of OpenAI's two APIs to use.
        model: name of the model at the endpoint.
        top: number of log-probabilities in one answer, 0 for none.
        full: whether an answer covers the whole vocabulary.
        chosen: whether log-probabilities of chosen ids can be requested.
        steerable: whether a logit bias changes the generated token.
        bias_visible: whether a logit bias changes the log-probabilities.
        ids_given: whether answers name token ids; otherwise each id's text must be found first.
        biased_at_once: number of ids that one request may bias; found when it is needed.
        vocabulary: number of token ids, 0 if unknown; found when it is needed.
        jitter: largest change (nat) of a log-probability between two identical queries.
        dropped: whether requested log-probabilities are null with status 200.
        misplaced: whether a greedy token is not the most probable one of its log-probabilities,
            which are then those of another place in the text.
        prompt_scores: how the log-probabilities of a prompt's tokens can be had, or None.
        seed: whether the same seed gave the same text; None if that was not tried.
        greedy: whether temperature 0 gave the same token twice; None if that was not tried.
        usage: whether answers count the tokens of the prompt.
        detected: UTC date and time, ISO 8601.
        requests: requests that the detection took, over both APIs.
        others: the same for the other API, if it is offered.
    """

    api: Api
    model: str
    top: int = 0
    full: bool = False
    chosen: bool = False
    steerable: bool = False
    bias_visible: bool = False
    ids_given: bool = False
    biased_at_once: int = 0
    vocabulary: int = 0
    jitter: float = 0.0
    dropped: bool = False
    misplaced: bool = False
    prompt_scores: Literal["echo", "prompt_logprobs"] | None = None
    seed: bool | None = None
    greedy: bool | None = None
    usage: bool = False
    detected: str = ""
    requests: int = 0
    others: tuple["Capabilities", ...] = ()

    @property
    def access(self) -> Access:
        """The way to collect outputs that takes the fewest requests."""
        if self.full and self.ids_given:
            return "full"
        if self.chosen:
            return "chosen"
        if self.top and self.bias_visible:
            return "biased"
        return "argmax" if self.steerable else "none"

    @property
    def gives_scores(self) -> bool:
        """Whether log-probabilities of tokens of a text can be had."""
        return bool(self.prompt_scores or self.top)

    @property
    def prefers_scores(self) -> bool:
        """Whether scores say more of the model than outputs, at a few requests each."""
        return self.access in ("none", "argmax") and self.gives_scores

    @property
    def summary(self) -> str:
        """The access in words, on one line."""
        ways = {
            "full": "all log-probabilities",
            "chosen": "log-probabilities of chosen ids",
            "biased": f"top {self.top} log-probabilities with logit bias",
            "argmax": "a logit bias that changes the generated token",
            "none": f"top {self.top} log-probabilities and no logit bias"
            if self.top
            else "neither log-probabilities nor a logit bias",
        }
        words = [self.api, ways[self.access]]
        if self.access == "argmax" and self.top:
            words.append(f"top {self.top} log-probabilities")
        if self.misplaced:
            words.append("log-probabilities are not those of the generated tokens")
        if self.dropped:
            words.append("log-probabilities are null with status 200")
        if self.prompt_scores:
            words.append(f"log-probabilities of the prompt by {self.prompt_scores}")
        if self.vocabulary:
            words.append(f"{self.vocabulary} tokens")
        return ", ".join(words)

    def to_json(self) -> dict[str, Any]:
        """The fields of this API as `huref probe capabilities --json` prints them."""
        names = (
            "api", "top", "full", "chosen", "steerable", "bias_visible", "ids_given", "jitter",
            "dropped", "misplaced", "prompt_scores", "seed", "greedy", "usage",
        )  # fmt: skip
        found = {name: getattr(self, name) for name in names}
        return found | {"jitter": self.jitter if math.isfinite(self.jitter) else None}


def lost_fields(before: Capabilities, after: Capabilities) -> list[str]:
    """What an endpoint gave and gives no longer, in words."""
    lost = []
    if before.top > after.top:
        what = "no log-probabilities" if not after.top else f"only {after.top} log-probabilities"
        silently = ", with status 200" if after.dropped else ""
        lost.append(f"{what} where it gave {before.top}{silently}")
    if before.prompt_scores and not after.prompt_scores:
        lost.append("no log-probabilities of a prompt any more")
    for name, words in (
        ("chosen", "log-probabilities of chosen ids"),
        ("steerable", "effect of a logit bias"),
        ("bias_visible", "effect of a logit bias on log-probabilities"),
    ):
        if getattr(before, name) and not getattr(after, name):
            lost.append(f"no {words} any more")
    return lost


def recall(store: AnswerStore, url: str, model: str | None) -> Capabilities | None:
    """The capabilities that `detect` stored, or None; of another version of huref, too."""
    fact = store.recall(_key(url, model))
    try:
        others = tuple(Capabilities(**other | {"others": ()}) for other in fact["others"])
        return Capabilities(**fact | {"others": others})
    except (TypeError, KeyError):  # none, or with other fields
        return None


def remember(store: AnswerStore, url: str, model: str | None, found: Capabilities) -> None:
    """Store capabilities, for `recall`."""
    store.remember(_key(url, model), asdict(found))


def _key(url: str, model: str | None) -> str:
    return AnswerStore.key("capabilities", url, model)
