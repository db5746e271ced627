"""Detect what an endpoint offers, with about two dozen requests.

From most to least informative: log-probabilities of all tokens; those of chosen ids; the top k
with the logit bias applied; a logit bias that changes the generated token; text alone.
"""

import math
from dataclasses import dataclass, replace
from typing import Any, Literal

from huref.blackbox.answers import TokenAnswer
from huref.blackbox.client import ATTEMPTS, Client, FailedError, RefusedError
from huref.blackbox.prompts import make_prompts
from huref.blackbox.query import Api, TokenQuery
from huref.errors import EndpointError

Access = Literal["full", "chosen", "biased", "argmax", "none"]

APIS: tuple[Api, ...] = ("completions", "chat")
MAX_BIAS = 100.0
CHOSEN_AT_ONCE = 128  # vLLM's limit for logprob_token_ids
# Values to try, from the most informative: of top_logprobs, and of the number of biased ids.
_TOPS = (1_000_000, -1, 100, 20, 5, 1)
_BIASED_AT_ONCE = (1024, 300, 100, 20, 5)
_PROBE_IDS = (40, 41, 42, 43, 44, 45, 46, 47)
_LARGEST_VOCABULARY = 1 << 20


@dataclass(frozen=True)
class Capabilities:
    """What an endpoint offers.

    Attributes:
        api: which of OpenAI's two APIs to use.
        model: name of the model at the endpoint.
        top: number of log-probabilities in one answer, 0 for none.
        full: whether an answer covers the whole vocabulary.
        chosen: whether log-probabilities of chosen ids can be requested.
        steerable: whether a logit bias changes the generated token.
        bias_visible: whether a logit bias changes the log-probabilities.
        ids_given: whether answers name token ids; otherwise each id's text must be found first.
        biased_at_once: number of ids that one request may bias.
        vocabulary: number of token ids, 0 if unknown.
        jitter: largest change (nat) of a log-probability between two identical queries.
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
        return f"{self.api}, {ways[self.access]}, {self.vocabulary or 'unknown'} tokens"


async def detect(client: Client, model: str | None = None) -> Capabilities:
    """Detect what an endpoint offers.

    Raises:
        EndpointError: it offers neither API, or lists no model.
    """
    name = model or await _first_model(client)
    refusals: list[str] = []
    insufficient: Capabilities | None = None
    for api in APIS:
        detection = _Detection(client, api, name)
        try:
            await detection.ask()
        except RefusedError as error:
            refusals.append(error.what)
            continue
        await detection.find_top()
        await detection.find_chosen()
        await detection.find_bias()
        await detection.find_vocabulary()
        if detection.found.access != "none":
            return detection.found
        # transformers' own server accepts a logit_bias for chat only, so the other API is tried.
        if insufficient is None or detection.found.top > insufficient.top:
            insufficient = detection.found
    if insufficient is None:
        raise EndpointError(
            f"it offers neither completions nor chat ({'; '.join(refusals)})", model=client.url
        )
    return insufficient


async def _first_model(client: Client) -> str:
    listing = await client.request("/models")
    try:
        return str(listing["data"][0]["id"])
    except (KeyError, IndexError, TypeError) as error:
        raise EndpointError(
            "/models lists no model", model=client.url, advice="name the served one with --model"
        ) from error


class _Detection:
    """Queries with one prompt, and the capabilities they have shown so far."""

    def __init__(self, client: Client, api: Api, model: str):
        self.found = Capabilities(api, model)
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
    ) -> TokenAnswer:
        query = TokenQuery(self._prompt, top, ids, bias or {}, greedy, repeat)
        found = self.found
        return await self._client.ask(query, found.api, found.model, attempts)

    async def try_to_ask(self, **options: Any) -> TokenAnswer | None:
        """None if the endpoint refuses the query; transformers' server does so with status 500."""
        try:
            return await self.ask(**options, attempts=2)
        except (RefusedError, FailedError):
            return None

    async def find_top(self) -> None:
        for top in _TOPS:
            # Greedy, because servers append a sampled token that is outside the top k.
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
                jitter=_largest_change(answer, again),
            )
            return

    async def find_chosen(self) -> None:
        if self.found.top and not self.found.full:
            answer = await self.try_to_ask(ids=_PROBE_IDS)
            if answer is not None and set(_PROBE_IDS) <= set(answer.by_id):
                self.found = replace(self.found, chosen=True, ids_given=True)

    async def find_bias(self) -> None:
        """Bias one token after the other: the most probable token must change with the bias."""
        top = None if not self.found.top else 1
        plain = await self.ask(top=top, greedy=True)
        biased = []
        for token in _PROBE_IDS[::2]:
            answer = await self.try_to_ask(top=top, bias={token: MAX_BIAS}, greedy=True)
            if answer is None:
                return
            biased.append(answer)
        # Tokens may share a text or have an empty one; three different answers of five suffice.
        steerable = len({answer.text for answer in (plain, *biased)}) >= 3
        visible = bool(top) and len({answer.best for answer in (plain, *biased)}) >= 3
        visible = visible and min(answer.count for answer in biased) > 0
        self.found = replace(self.found, steerable=steerable, bias_visible=visible)
        for count in _BIASED_AT_ONCE if steerable or visible else ():
            small_bias = dict.fromkeys(range(count), 1.0)
            if await self.try_to_ask(top=top, bias=small_bias, greedy=True) is not None:
                self.found = replace(self.found, biased_at_once=count)
                return

    async def find_vocabulary(self) -> None:
        """Find the first id that the endpoint does not accept, by bisection."""
        if self.found.vocabulary or self.found.access == "none":
            return
        low, high = max(_PROBE_IDS), _LARGEST_VOCABULARY
        while high - low > 1:
            middle = (low + high) // 2
            if await self._accepts(middle):
                low = middle
            else:
                high = middle
        self.found = replace(self.found, vocabulary=low + 1)

    async def _accepts(self, token: int) -> bool:
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


def _peak(answer: TokenAnswer) -> float:
    return max([*answer.by_id.values(), *answer.by_text.values()])


def _largest_change(first: TokenAnswer, second: TokenAnswer) -> float:
    changes = [abs(v - second.by_id[k]) for k, v in first.by_id.items() if k in second.by_id]
    changes += [abs(v - second.by_text[k]) for k, v in first.by_text.items() if k in second.by_text]
    return max(changes, default=math.inf)
