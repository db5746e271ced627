"""Collect one prompt's log-probabilities over chosen tokens, by the access that an endpoint gives.

full, chosen: the endpoint returns them. biased: adding the same bias to a reference token and
K - 1 others lifts them into the top K, and their differences are free of the bias (Carlini et al.
2024). paired, for K = 1: two lifted tokens share nearly all probability, so the probability of the
winner gives their difference. argmax: see `huref.blackbox.argmax`.
"""

import math
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from huref.blackbox.answers import TokenAnswer, VanishedError
from huref.blackbox.argmax import Differences, Method, next_bias
from huref.blackbox.capabilities import CHOSEN_AT_ONCE, MAX_BIAS, Capabilities
from huref.blackbox.client import Client
from huref.blackbox.query import TokenQuery
from huref.errors import EndpointError, locating

Vector = NDArray[np.float64]
TokenNames = Mapping[int, str | int]

LIFT = 60.0  # nat; more than the logits of a model differ, less than MAX_BIAS
SPAN = MAX_BIAS - LIFT - 2.0  # nat; how much further a lifted token may be biased
CLOSE = 5.0  # nat; for closer pairs float32 gives the difference to 1e-5 nat
_PAIR_ATTEMPTS = 8
_MAX_GROUP = 256  # tokens in one argmax search, whose matrix of bounds is quadratic


@dataclass(frozen=True)
class Settings:
    """Settings of argmax searches.

    Attributes:
        method: see `next_bias`.
        precision: width of the final intervals, nat.
    """

    method: Method = "one-of-n"
    precision: float = 1e-3


class Collector:
    """Collects log-probabilities from one endpoint."""

    def __init__(
        self, client: Client, capabilities: Capabilities, settings: Settings | None = None
    ):
        self.capabilities = capabilities
        self.settings = settings or Settings()
        self._client = client
        self._offsets: dict[int, float] = {}  # token -> its last difference to the reference

    async def row(self, prompt: str, ids: Sequence[int], names: TokenNames) -> Vector:
        """Log-probabilities of `ids`, (len(ids),), up to an additive constant.

        Args:
            prompt: the text.
            ids: distinct token ids.
            names: token id -> its name in answers, for endpoints that do not name ids.

        Raises:
            EndpointError: the access is insufficient, or an answer lacks an expected token.
        """
        methods: dict[str, Callable[[str, Sequence[int], TokenNames], Awaitable[Vector]]] = {
            "full": self._full,
            "chosen": self._chosen,
            "biased": self._biased if self.capabilities.top > 1 else self._paired,
            "argmax": self._argmax,
        }
        if self.capabilities.access not in methods:
            raise EndpointError(
                f"the endpoint gives {self.capabilities.summary}, which is not enough to measure "
                "logits",
                model=self._client.url,
            )
        return await methods[self.capabilities.access](prompt, ids, names)

    def cost(self, tokens: int) -> int:
        """Estimated number of requests for one prompt and so many tokens."""
        if self.capabilities.access == "full":
            return 1
        if self.capabilities.access == "chosen":
            return -(-tokens // CHOSEN_AT_ONCE)
        if self.capabilities.access == "biased":
            group = self.capabilities.top - 1
            return -(-(tokens - 1) // group) if group else math.ceil(1.2 * (tokens - 1))
        bits = math.log2(2 * SPAN / self.settings.precision)
        group = min(self.capabilities.biased_at_once, _MAX_GROUP, tokens)
        each = bits if self.settings.method == "bisection" else 1.6 * bits / math.log2(group)
        return math.ceil(each * tokens)

    async def ask(self, query: TokenQuery) -> TokenAnswer:
        """The answer to one query."""
        return await self._client.ask(query, self.capabilities.api, self.capabilities.model)

    async def name(self, token: int, repeat: str = "") -> str | int:
        """The name of a token in answers, found by adding the largest bias to it."""
        top = 1 if self.capabilities.top else None
        bias = {token: MAX_BIAS}
        answer = await self.ask(TokenQuery("x", top, (), bias, greedy=True, repeat=repeat))
        return answer.text if self.capabilities.access == "argmax" else answer.best

    async def _full(self, prompt: str, ids: Sequence[int], names: TokenNames) -> Vector:
        answer = await self.ask(TokenQuery(prompt, top=self.capabilities.vocabulary))
        return self._pick(answer, ids, names)

    async def _chosen(self, prompt: str, ids: Sequence[int], names: TokenNames) -> Vector:
        parts = []
        for start in range(0, len(ids), CHOSEN_AT_ONCE):
            group = tuple(ids[start : start + CHOSEN_AT_ONCE])
            answer = await self.ask(TokenQuery(prompt, ids=group))
            parts.append(self._pick(answer, group, names))
        return np.concatenate(parts)

    async def _biased(self, prompt: str, ids: Sequence[int], names: TokenNames) -> Vector:
        reference, rest = ids[0], ids[1:]
        parts = [np.zeros(1)]
        for start in range(0, len(rest), self.capabilities.top - 1):
            group = [reference, *rest[start : start + self.capabilities.top - 1]]
            for lift in (LIFT, MAX_BIAS):
                bias = dict.fromkeys(group, lift)
                answer = await self.ask(TokenQuery(prompt, self.capabilities.top, (), bias))
                if all(answer.of(token, names.get(token)) is not None for token in group):
                    break
            values = self._pick(answer, group, names)
            parts.append(values[1:] - values[0])
        return np.concatenate(parts)

    async def _paired(self, prompt: str, ids: Sequence[int], names: TokenNames) -> Vector:
        reference = ids[0]
        row = np.zeros(len(ids))
        for place, token in enumerate(ids[1:], start=1):
            row[place] = await self._pair(prompt, reference, token, names)
            self._offsets[token] = row[place]
        return row

    async def _pair(self, prompt: str, reference: int, token: int, names: TokenNames) -> float:
        """l_token - l_reference. Starts at the last value, so that one request mostly suffices."""
        guess = self._offsets.get(token, 0.0)
        for _ in range(_PAIR_ATTEMPTS):
            bias = {reference: LIFT + guess / 2, token: LIFT - guess / 2}
            answer = await self.ask(TokenQuery(prompt, 1, (), bias))
            ahead = answer.of(token, names.get(token))
            behind = answer.of(reference, names.get(reference))
            found = ahead if ahead is not None else behind
            if found is None:
                break
            gap = -math.log(math.expm1(-found)) if found < -1e-7 else 16.0
            gap = gap if ahead is not None else -gap
            if abs(gap) <= CLOSE:
                return guess + gap
            guess += gap
        raise EndpointError(
            f"neither token {reference} nor {token} is generated although both have a large bias, "
            "so the endpoint caps or changes the bias",
            model=self._client.url,
        )

    async def _argmax(self, prompt: str, ids: Sequence[int], names: TokenNames) -> Vector:
        size = min(self.capabilities.biased_at_once, _MAX_GROUP)
        if size < 2:
            raise EndpointError(
                "the endpoint refuses a bias on two tokens at once", model=self._client.url
            )
        parts = [np.zeros(1)]
        for start in range(1, len(ids), size - 1):
            group = [ids[0], *ids[start : start + size - 1]]
            middle = await self._search(prompt, group, names)
            parts.append(middle[1:] - middle[0])
        return np.concatenate(parts)

    async def _search(self, prompt: str, group: Sequence[int], names: TokenNames) -> Vector:
        precision = self.settings.precision
        known = Differences(len(group), SPAN, slack=max(1e-4, precision / 4))
        places = {names[token]: place for place, token in enumerate(group)}
        bias: Vector | None = np.zeros(len(group))
        for attempt in range(self.cost(len(group)) * 4 + 64):
            if bias is None:
                return known.middle
            lifted = {t: round(LIFT + float(b), 6) for t, b in zip(group, bias, strict=True)}
            answer = await self.ask(TokenQuery(prompt, None, (), lifted, greedy=True))
            winner = places.get(answer.text)
            if winner is None:
                raise EndpointError(
                    f"'{answer.text[:40]}' was generated although other tokens have a large bias; "
                    "token ids changed their meaning, or the endpoint caps the bias",
                    model=self._client.url,
                )
            with locating(model=self._client.url):
                known.learn(winner, np.array(list(lifted.values())))
            if attempt == 0:
                known.reference = winner
            bias = next_bias(known, precision, self.settings.method)
        raise EndpointError("the search for logits does not converge", model=self._client.url)

    def _pick(self, answer: TokenAnswer, ids: Sequence[int], names: TokenNames) -> Vector:
        values = [answer.of(token, names.get(token)) for token in ids]
        missing = [token for token, value in zip(ids, values, strict=True) if value is None]
        if not answer.count and self.capabilities.top:
            raise VanishedError(
                f"an answer with status 200 has no log-probabilities, where the endpoint gave "
                f"{self.capabilities.top}",
                model=self._client.url,
                advice="detect its capabilities again with --ask-again",
            )
        if missing:
            raise EndpointError(
                f"{len(missing)} of {len(ids)} tokens are missing from an answer, the first with "
                f"id {missing[0]}; its vocabulary is truncated, or smaller than detected",
                model=self._client.url,
            )
        return np.array([value for value in values if value is not None])
