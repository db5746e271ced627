"""Detect what an endpoint offers, in at most MOST requests."""

import datetime as dt
import math
import re
from dataclasses import replace
from typing import Any

from huref.blackbox.answers import TokenAnswer, UnreadableError
from huref.blackbox.capabilities import MAX_BIAS, Capabilities
from huref.blackbox.client import Client, FailedError, RefusedError
from huref.blackbox.prompts import make_prompts
from huref.blackbox.query import Api, TokenQuery
from huref.errors import EndpointError

APIS: tuple[Api, ...] = ("completions", "chat")
MOST = 12  # requests of `detect`, apart from those that a busy server did not answer
ALL = 1_000_000  # a number of log-probabilities that no vocabulary has
_TOPS = (20, 5)  # tried where a refusal of ALL does not say how many are allowed
_BIASED_AT_ONCE = (1024, 300, 100, 20, 5)
_PROBE_IDS = (40, 41, 42, 43, 44, 45, 46, 47)
_BIASED_IDS = (45, 300)  # far apart: neighbours may all be control tokens without a text
_LARGEST_VOCABULARY = 1 << 20
MISPLACED = 0.5  # nat; more than rounding and batching change a log-probability
_SEEDED = 8  # tokens that are generated to see the effect of a seed
_CAP = re.compile(
    r"(?:at most|max[a-z]*|less than or equal to|<=|≤|up to|allowed|\ble\b|between \d+ and)"
    r"[^0-9]{0,24}(\d+)",
    re.IGNORECASE,
)


async def detect(client: Client, model: str | None = None, visit: str = "") -> Capabilities:
    """Detect what an endpoint offers, in at most MOST requests.

    Raises:
        EndpointError: it offers neither API, or lists no model.
    """
    purse = _Purse(client)
    name = model or await _first_model(client)
    refusals: list[str] = []
    detections: list[_Detection] = []
    for api in APIS:
        detection = _Detection(client, api, name, purse, detections[0] if detections else None)
        detection.visit = visit
        try:
            await detection.find_top()
        except (RefusedError, UnreadableError) as error:
            refusals.append(error.what)
            continue
        await detection.find_the_rest()
        detections.append(detection)
    if not detections:
        raise EndpointError(
            f"it offers neither completions nor chat ({'; '.join(refusals)})", model=client.url
        )
    order = ("full", "chosen", "biased", "argmax", "none")

    def rank(detection: _Detection) -> tuple[int, int, bool]:
        found = detection.found
        return order.index(found.access), -found.top, found.prompt_scores is None

    detections.sort(key=rank)
    for detection in detections:  # the seed tells least of a model
        await detection.find_seed()
    best, *rest = (detection.found for detection in detections)
    now = dt.datetime.now(dt.UTC).isoformat(timespec="seconds")
    return replace(best, detected=now, requests=purse.spent, others=tuple(rest))


async def complete(client: Client, found: Capabilities) -> Capabilities:
    """Find the vocabulary's length and the number of ids that can be biased at once.

    Only measurements of logits need them; they take up to 25 requests.
    """
    detection = _Detection(client, found.api, found.model, None, None)
    detection.found = found
    await detection.find_biased_at_once()
    await detection.find_vocabulary()
    return detection.found


async def _first_model(client: Client) -> str:
    listing = await client.request("/models")
    try:
        name = listing["data"][0]["id"]
    except (KeyError, IndexError, TypeError):
        name = None
    if not isinstance(name, str) or not name:
        raise EndpointError(
            "/models lists no model", model=client.url, advice="name the served one with --model"
        )
    return name


class _Purse:
    """Counts the requests of a detection."""

    def __init__(self, client: Client):
        self._client = client
        self._before = client.requests
        self._waits = client.busy_answers

    @property
    def spent(self) -> int:
        """Requests so far, without those that a busy server did not answer."""
        waits = self._client.busy_answers - self._waits
        return self._client.requests - self._before - waits

    @property
    def left(self) -> int:
        return MOST - self.spent


class _Detection:
    """Queries with one prompt, and the capabilities they have shown so far."""

    def __init__(
        self,
        client: Client,
        api: Api,
        model: str,
        purse: _Purse | None,
        first: "_Detection | None",
    ):
        self.found = Capabilities(api, model)
        self.visit = ""  # distinguishes this detection from others in the store
        self._client = client
        self._purse = purse
        self._first = None if first is None else first.found  # what the other API offers
        self._prompt = make_prompts(1, "detect")[0]
        self._plain: TokenAnswer | None = None
        # As transformers' server, with status 500.
        self._fails_when_refusing: bool = first is not None and first._fails_when_refusing

    @property
    def _left(self) -> float:
        return math.inf if self._purse is None else self._purse.left

    async def ask(self, **options: Any) -> TokenAnswer:
        """The answer to a query; after status 500 once more, unless that proved to be a refusal."""
        found = self.found
        options["repeat"] = options.get("repeat", "") + self.visit
        query = TokenQuery(self._prompt, **options)
        repeatable = not self._fails_when_refusing and self._left > 2
        try:
            return await self._client.ask(query, found.api, found.model, final=(500,))
        except FailedError:
            if not repeatable:
                raise
        try:
            answer = await self._client.ask(query, found.api, found.model, final=(500,))
        except FailedError:
            self._fails_when_refusing = True
            raise
        except RefusedError:
            self._client.busy_answers += 1
            raise
        self._client.busy_answers += 1  # the first failure was no refusal
        return answer

    async def try_to_ask(self, **options: Any) -> TokenAnswer | None:
        """None if the endpoint refuses the query, or no request is left."""
        if self._left < 1:
            return None
        try:
            return await self.ask(**options)
        except (RefusedError, FailedError, UnreadableError):
            return None

    async def find_top(self) -> None:
        """Find how many log-probabilities an answer has.

        Raises:
            RefusedError, UnreadableError: the endpoint does not offer this API.
            NetworkError: it fails at every query.
        """
        tops = [ALL, *_TOPS] if self._first is None else [max(self._first.top, 1)]
        if self._first is not None and self._first.top == 0:
            tops = [_TOPS[0]]
        while tops:
            top = tops.pop(0)
            try:
                # Greedy, because servers append a sampled token that is outside the top k.
                answer = await self.ask(top=top, greedy=True)
            except RefusedError as error:
                if error.status in (404, 405, 501):
                    raise
                caps = [int(number) for number in _CAP.findall(error.reply)]
                caps = [cap for cap in caps if 0 < cap < top]
                if caps and top not in caps:
                    tops = [max(caps)]
            except FailedError:
                tops = tops if top == ALL else []
            else:
                self._read_usage(answer)
                if answer.count:
                    self._plain = answer
                    self._learn_top(top, answer)
                    return
                self.found = replace(self.found, dropped=True)
                if top != _TOPS[-1]:
                    tops = tops and [_TOPS[-1]]
                self._plain = answer
        if self._plain is None or not self.found.dropped:
            self._plain = await self.ask(greedy=True)
            self._read_usage(self._plain)

    def _learn_top(self, top: int, answer: TokenAnswer) -> None:
        mass = math.fsum(math.exp(v) for v in answer.by_id.values())
        full = set(answer.by_id) == set(range(answer.count)) and abs(mass - 1) < 1e-2
        self.found = replace(
            self.found,
            dropped=False,
            top=min(answer.count, top),
            full=full,
            ids_given=bool(answer.by_id),
            vocabulary=answer.count if full else 0,
        )

    def _read_usage(self, answer: TokenAnswer) -> None:
        if answer.prompt_tokens is not None:
            self.found = replace(self.found, usage=True)

    async def find_the_rest(self) -> None:
        """The other capabilities, the most useful first, while requests are left."""
        if self._first is None or self._first.access == "none":
            await self._find_again()
            if self.found.top and not self.found.full:
                await self._find_chosen()
            if not self.found.full:
                await self._find_bias()
        # The other API needs two requests, or five where this one gives too little.
        reserve = 0 if self._first is not None else 5 if self.found.access == "none" else 2
        if self._left > reserve:
            await self._find_prompt_scores()

    async def _find_again(self) -> None:
        top = self.found.top or None
        again = await self.try_to_ask(top=top, greedy=True, repeat="again")
        if again is not None and self._plain is not None:
            jitter = _largest_change(self._plain, again) if top else 0.0
            steady = again.text == self._plain.text
            misplaced = steady and (_is_misplaced(self._plain) or _is_misplaced(again))
            self.found = replace(self.found, greedy=steady, jitter=jitter, misplaced=misplaced)

    async def _find_chosen(self) -> None:
        answer = await self.try_to_ask(ids=_PROBE_IDS)
        if answer is not None and set(_PROBE_IDS) <= set(answer.by_id):
            self.found = replace(self.found, chosen=True, ids_given=True)

    async def _find_bias(self) -> None:
        """Bias two tokens in turn: the generated token must change both times."""
        plain = self._plain
        top = 1 if self.found.top else None
        answers: list[TokenAnswer] = []
        if plain is None:
            return
        for token in _BIASED_IDS:
            answer = await self.try_to_ask(top=top, bias={token: MAX_BIAS}, greedy=True)
            if answer is None:
                return
            answers.append(answer)
            if answer.text == plain.text and (top is None or answer.best == plain.best):
                return
        # Where greedy answers vary, any two of three may differ.
        steady = self.found.greedy is not False
        texts = {answer.text for answer in (plain, *answers)}
        steerable = plain.text not in {a.text for a in answers} and (steady or len(texts) == 3)
        visible = (
            bool(top)
            and min(answer.count for answer in answers) > 0
            and plain.best not in {answer.best for answer in answers}
        )
        self.found = replace(self.found, steerable=steerable, bias_visible=visible)

    async def _find_prompt_scores(self) -> None:
        """Ask for the prompt's own log-probabilities, and for seeded text in the same request."""
        if not self.found.top:
            return
        if self.found.api == "completions":
            answer = await self.try_to_ask(top=1, echo=True)
            if answer is not None and _has_scores(answer):
                self.found = replace(self.found, prompt_scores="echo")
                return
        if self._left < 1:
            return
        answer = await self.try_to_ask(top=1, prompt_scores=True)
        if answer is not None and _has_scores(answer):
            self.found = replace(self.found, prompt_scores="prompt_logprobs")

    async def find_seed(self) -> None:
        """Whether the same seed gives the same text: two requests."""
        if self._left < 2:
            return
        texts = []
        for repeat in ("first", "second"):
            answer = await self.try_to_ask(length=_SEEDED, seed=7, repeat=repeat)
            if answer is None:
                if repeat == "first":
                    self.found = replace(self.found, seed=False)
                return
            texts.append(answer.text)
        self.found = replace(self.found, seed=texts[0] == texts[1])

    async def find_biased_at_once(self) -> None:
        """Find how many ids one request may bias."""
        if self.found.biased_at_once or self.found.access not in ("biased", "argmax"):
            return
        top = 1 if self.found.top else None
        for count in _BIASED_AT_ONCE:
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


def _has_scores(answer: TokenAnswer) -> bool:
    """Whether an answer has log-probabilities of at least half of a prompt of several tokens."""
    known = [value for _, value in answer.prompt if value is not None]
    return len(answer.prompt) > 1 and 2 * len(known) >= len(answer.prompt)


def _is_misplaced(answer: TokenAnswer) -> bool:
    """Whether the greedy token is much less probable than another that is listed beside it."""
    own = answer.generated[0][1] if answer.generated else None
    return own is not None and answer.count > 1 and _peak(answer) - own > MISPLACED


def _peak(answer: TokenAnswer) -> float:
    return max([*answer.by_id.values(), *answer.by_text.values()])


def _largest_change(first: TokenAnswer, second: TokenAnswer) -> float:
    changes = [abs(v - second.by_id[k]) for k, v in first.by_id.items() if k in second.by_id]
    changes += [abs(v - second.by_text[k]) for k, v in first.by_text.items() if k in second.by_text]
    return max(changes, default=math.inf)
