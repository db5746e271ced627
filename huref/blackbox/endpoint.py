"""A served model as a source of outputs."""

import asyncio
import secrets
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from tqdm.auto import tqdm

from huref.assets import user_cache
from huref.blackbox.answers import AnswerStore
from huref.blackbox.capabilities import Capabilities, detect
from huref.blackbox.client import Client
from huref.blackbox.collect import Collector, Settings
from huref.blackbox.prompts import order_ids
from huref.blackbox.question import Question
from huref.errors import EndpointError

T = TypeVar("T")
WATCHED = 20  # log-probabilities of one answer that are followed over time


class Endpoint:
    """A server that speaks OpenAI's API. The first thing it is asked is what it offers."""

    def __init__(self, client: Client, model: str | None = None, settings: Settings | None = None):
        self.name = client.url
        self.client = client
        self.can: Capabilities = asyncio.run(self._connected(lambda: detect(client, model)))
        self.collector = Collector(client, self.can, settings)
        self.vocabulary = self.can.vocabulary
        self.wobble = self.can.wobble if self.can.top else 0.0
        way = self.can.collector
        self.absolute = way in ("full", "chosen")
        self.resolution = self.collector.settings.precision if way == "argmax" else 0.0
        self._names: dict[int, str | int] = {}
        self._order = order_ids(self.vocabulary)

    @property
    def requests(self) -> int:
        """Asked so far, retries included."""
        return self.client.requests

    @property
    def room(self) -> int | None:
        """What the budget leaves."""
        return self.client.limits.requests - self.client.requests

    async def _connected(self, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        async with self.client.connected():
            return await work()

    async def _all(self, work: Sequence[Coroutine[Any, Any, T]]) -> list[T]:
        """Results of all, or the first failure after the others were called off."""
        try:
            async with self.client.connected(), asyncio.TaskGroup() as group:
                tasks = [group.create_task(one) for one in work]
        except ExceptionGroup as failures:
            raise failures.exceptions[0] from failures
        return [task.result() for task in tasks]

    @property
    def _learns_names(self) -> bool:
        return self.can.collector == "argmax" or not self.can.ids_given

    def choose_ids(self, count: int, start: int = 0) -> NDArray[np.int64]:
        """See Source. Ids whose text is empty or another id's too cannot be told apart.

        Raises:
            EndpointError: the endpoint shows too little to see its logits.
        """
        if self.can.collector == "none":
            raise EndpointError(
                f"{self.name}: the endpoint gives {self.can.summary}; that is not enough to see "
                "its logits"
            )
        if not self._learns_names:
            return self._order[start : start + count]
        wanted = self._order[: min(len(self._order), start + count + count // 8 + 8)]
        new = [int(token) for token in wanted if int(token) not in self._names]
        with self._progress("tokens"):
            named = asyncio.run(self._all([self.collector.name(token) for token in new]))
        self._names |= dict(zip(new, named, strict=True))
        seen: dict[str | int, int] = {}
        for token in wanted:
            seen[self._names[int(token)]] = seen.get(self._names[int(token)], 0) + 1
        usable = [t for t in wanted if self._names[int(t)] and seen[self._names[int(t)]] == 1]
        return np.array(usable[start : start + count], dtype=np.int64)

    def cost(self, prompts: int, tokens: int) -> int:
        """See Source."""
        names = tokens + tokens // 8 if self._learns_names else 0
        return prompts * self.collector.cost(tokens) + names

    def outputs(self, prompts: Sequence[str], ids: NDArray[np.int64]) -> NDArray[np.float64]:
        """See Source. Answers that came before a failure stay in the store.

        Raises:
            EndpointError: an answer lacks what it should hold, or the model changed in between.
            HurefError: another subclass, such as a spent budget or a lost connection.
        """
        tokens = [int(token) for token in ids]
        with self._progress("outputs"):
            rows = asyncio.run(
                self._all([self.collector.row(prompt, tokens, self._names) for prompt in prompts])
            )
            self._check_names(tokens[:2])
        return np.array(rows)

    def visit(self, prompts: Sequence[str], repeats: int) -> list[list[dict[str, float]]]:
        """Ask every prompt several times afresh: token -> log-probability, for `watch`.

        Raises:
            EndpointError: the endpoint gives no log-probabilities.
        """
        top = min(self.can.top, WATCHED)
        if not top:
            raise EndpointError(
                f"{self.name}: the endpoint gives {self.can.summary}; watching needs "
                "log-probabilities"
            )
        visit = secrets.token_hex(8)  # never answered from the store
        questions = [
            Question(prompt, top, greedy=True, repeat=f"{visit}/{i}")
            for prompt in prompts
            for i in range(repeats)
        ]
        with self._progress("visit"):
            answers = asyncio.run(self._all([self.collector.ask(q) for q in questions]))
        named = [
            {str(token): value for token, value in (a.by_id or a.by_text).items()} for a in answers
        ]
        return [named[i : i + repeats] for i in range(0, len(named), repeats)]

    def _check_names(self, tokens: Sequence[int]) -> None:
        if not self._learns_names:
            return
        again = f"after {len(self._names)}"
        named = asyncio.run(self._all([self.collector.name(t, again) for t in tokens]))
        for token, name in zip(tokens, named, strict=True):
            if name != self._names[token]:
                raise EndpointError(
                    f"{self.name}: token id {token} was {self._names[token]!r} and is now "
                    f"{name!r}; another model answers in between, so nothing can be concluded"
                )

    @contextmanager
    def _progress(self, what: str) -> Iterator[None]:
        with tqdm(desc=what, unit=" requests", leave=False, delay=2, disable=None) as bar:
            self.client.bar = bar
            try:
                yield
            finally:
                self.client.bar = None


def answers_path(url: str, model: str | None) -> Path:
    """Where an endpoint's answers are kept when the user names no file."""
    return user_cache() / "probe" / f"{AnswerStore.key(url, model)[:16]}.sqlite"
