"""What an endpoint tells, found out by asking: some two dozen requests at most.

From most to least: every token's log-probability; those of chosen ids; the top k with the logit
bias visible in them; a logit bias that moves the generated token; text alone.
"""

import math
from dataclasses import dataclass, replace
from typing import Any, Literal

from huref.blackbox.answers import Answer
from huref.blackbox.client import ATTEMPTS, Client, FailedError, RefusedError
from huref.blackbox.prompts import make_prompts
from huref.blackbox.question import Dialect, Question
from huref.errors import EndpointError

Collector = Literal["full", "chosen", "biased", "argmax", "none"]

DIALECTS: tuple[Dialect, ...] = ("completions", "chat")
MAX_BIAS = 100.0
CHOSEN_AT_ONCE = 128  # vLLM's limit for logprob_token_ids
_TOPS = (1_000_000, -1, 100, 20, 5, 1)
_BIASED_AT_ONCE = (1024, 300, 100, 20, 5)
_FEW = (40, 41, 42, 43, 44, 45, 46, 47)
_LARGEST_VOCABULARY = 1 << 20


@dataclass(frozen=True)
class Capabilities:
    """What an endpoint offers.

    Attributes:
        dialect: which of the two APIs it speaks.
        model: the model's name there.
        top: how many log-probabilities one answer holds, 0 for none.
        full: whether that is the whole vocabulary.
        chosen: whether ids can be chosen.
        steerable: whether a logit bias moves the generated token.
        bias_visible: whether a logit bias shows in the log-probabilities.
        ids_given: whether tokens come with their ids; else their texts are learnt.
        biased_at_once: how many ids may carry a bias in one request.
        vocabulary: number of token ids, 0 where it cannot be found out.
        wobble: largest change (nat) of a log-probability when the same is asked twice.
    """

    dialect: Dialect
    model: str
    top: int = 0
    full: bool = False
    chosen: bool = False
    steerable: bool = False
    bias_visible: bool = False
    ids_given: bool = False
    biased_at_once: int = 0
    vocabulary: int = 0
    wobble: float = 0.0

    @property
    def collector(self) -> Collector:
        """The cheapest way to all outputs."""
        if self.full and self.ids_given:
            return "full"
        if self.chosen:
            return "chosen"
        if self.top and self.bias_visible:
            return "biased"
        return "argmax" if self.steerable else "none"

    @property
    def summary(self) -> str:
        """One line for people."""
        ways = {
            "full": "all log-probabilities",
            "chosen": "log-probabilities of chosen ids",
            "biased": f"top {self.top} log-probabilities, logit bias visible in them",
            "argmax": "a logit bias that moves the generated token",
            "none": f"top {self.top} log-probabilities and no logit bias"
            if self.top
            else "neither log-probabilities nor a logit bias",
        }
        return f"{self.dialect}, {ways[self.collector]}, {self.vocabulary or 'unknown'} tokens"


async def detect(client: Client, model: str | None = None) -> Capabilities:
    """Find out what an endpoint offers.

    Raises:
        EndpointError: it speaks neither API, or serves nothing.
    """
    name = model or await _first_model(client)
    refusals: list[str] = []
    poorer: Capabilities | None = None
    for dialect in DIALECTS:
        detection = _Detection(client, dialect, name)
        try:
            await detection.ask()
        except RefusedError as error:
            refusals.append(str(error))
            continue
        await detection.find_top()
        await detection.find_chosen()
        await detection.find_bias()
        await detection.find_vocabulary()
        if detection.found.collector != "none":
            return detection.found
        # transformers' own server takes a logit_bias for chat only, so the other may give more.
        if poorer is None or detection.found.top > poorer.top:
            poorer = detection.found
    if poorer is None:
        raise EndpointError(f"{client.url}: neither completions nor chat: {'; '.join(refusals)}")
    return poorer


async def _first_model(client: Client) -> str:
    listing = await client.request("/models")
    try:
        return str(listing["data"][0]["id"])
    except (KeyError, IndexError, TypeError) as error:
        raise EndpointError(
            f"{client.url}/models names no model; name the served one with --model"
        ) from error


class _Detection:
    """Questions about one prompt, and what they have shown so far."""

    def __init__(self, client: Client, dialect: Dialect, model: str):
        self.found = Capabilities(dialect, model)
        self._client = client
        self._prompt = make_prompts(1, "detect")[0]

    async def ask(
        self,
        top: int | None = None,
        ids: tuple[int, ...] = (),
        bias: dict[int, float] | None = None,
        greedy: bool = False,
        repeat: str = "",
        attempts: int = ATTEMPTS,
    ) -> Answer:
        question = Question(self._prompt, top, ids, bias or {}, greedy, repeat)
        found = self.found
        return await self._client.ask(question, found.dialect, found.model, attempts)

    async def try_to_ask(self, **options: Any) -> Answer | None:
        """None where the endpoint will not answer; transformers' server says so with a 500."""
        try:
            return await self.ask(**options, attempts=2)
        except (RefusedError, FailedError):
            return None

    async def find_top(self) -> None:
        for top in _TOPS:
            # Greedily, or a sampled token outside the top k would come on top of them.
            answer = await self.try_to_ask(top=top, greedy=True)
            if answer is None or not answer.count:
                continue
            again = await self.ask(top=top, greedy=True, repeat="again")
            mass = math.fsum(math.exp(v) for v in answer.by_id.values())
            full = set(answer.by_id) == set(range(answer.count)) and abs(mass - 1) < 1e-2
            self.found = replace(
                self.found,
                top=min(answer.count, top) if top > 0 else answer.count,
                full=full,
                ids_given=bool(answer.by_id),
                vocabulary=answer.count if full else 0,
                wobble=_largest_change(answer, again),
            )
            return

    async def find_chosen(self) -> None:
        if self.found.top and not self.found.full:
            answer = await self.try_to_ask(ids=_FEW)
            if answer is not None and set(_FEW) <= set(answer.by_id):
                self.found = replace(self.found, chosen=True, ids_given=True)

    async def find_bias(self) -> None:
        """Push tokens in turn: the generated token must follow, and not always be the same."""
        top = None if not self.found.top else 1
        plain = await self.ask(top=top, greedy=True)
        pushed = []
        for token in _FEW[::2]:
            answer = await self.try_to_ask(top=top, bias={token: MAX_BIAS}, greedy=True)
            if answer is None:
                return
            pushed.append(answer)
        # Some tokens share a text, or have none; three of five suffice.
        steerable = len({answer.text for answer in (plain, *pushed)}) >= 3
        visible = bool(top) and len({answer.best for answer in (plain, *pushed)}) >= 3
        visible = visible and min(answer.count for answer in pushed) > 0
        self.found = replace(self.found, steerable=steerable, bias_visible=visible)
        for count in _BIASED_AT_ONCE if steerable or visible else ():
            bias = dict.fromkeys(range(count), 1.0)
            if await self.try_to_ask(top=top, bias=bias, greedy=True) is not None:
                self.found = replace(self.found, biased_at_once=count)
                return

    async def find_vocabulary(self) -> None:
        """Bisect for the first id that the endpoint does not know."""
        if self.found.vocabulary or self.found.collector == "none":
            return
        low, high = max(_FEW), _LARGEST_VOCABULARY
        while high - low > 1:
            middle = (low + high) // 2
            if await self._knows(middle):
                low = middle
            else:
                high = middle
        self.found = replace(self.found, vocabulary=low + 1)

    async def _knows(self, token: int) -> bool:
        if self.found.chosen:
            answer = await self.try_to_ask(ids=(token,))
            return answer is not None and token in answer.by_id
        top = (self.found.top and 1) or None
        plain = await self.ask(top=top, greedy=True)
        answer = await self.try_to_ask(top=top, bias={token: MAX_BIAS}, greedy=True)
        if answer is None:
            return False
        if self.found.bias_visible:
            return answer.best != plain.best or abs(_peak(answer) - _peak(plain)) > 0.1
        return answer.text != plain.text


def _peak(answer: Answer) -> float:
    return max([*answer.by_id.values(), *answer.by_text.values()])


def _largest_change(one: Answer, two: Answer) -> float:
    changes = [abs(v - two.by_id[k]) for k, v in one.by_id.items() if k in two.by_id]
    changes += [abs(v - two.by_text[k]) for k, v in one.by_text.items() if k in two.by_text]
    return max(changes, default=math.inf)
