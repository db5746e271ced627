"""A served model as a source of outputs."""

import asyncio
import secrets
from collections import Counter
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
from huref.blackbox.query import TokenQuery
from huref.errors import EndpointError

T = TypeVar("T")
WATCHED = 20  # log-probabilities per answer that `watch` compares over time


class Endpoint:
    """A server with OpenAI's API. The constructor detects its capabilities."""

    def __init__(self, client: Client, model: str | None = None, settings: Settings | None = None):
        self.name = client.url
        self.client = client
        self.capabilities: Capabilities = asyncio.run(
            self._connected(lambda: detect(client, model))
        )
        self.collector = Collector(client, self.capabilities, settings)
        self.vocabulary = self.capabilities.vocabulary
        self.jitter = self.capabilities.jitter if self.capabilities.top else 0.0
        access = self.capabilities.access
        self.absolute = access in ("full", "chosen")
        self.resolution = self.collector.settings.precision if access == "argmax" else 0.0
        self._names: dict[int, str | int] = {}
        self._order = order_ids(self.vocabulary)

    @property
    def requests(self) -> int:
        """Number of requests so far, retries included."""
        return self.client.requests

    @property
    def requests_left(self) -> int | None:
        """Number of requests that the budget still allows."""
        return self.client.limits.requests - self.client.requests

    async def _connected(self, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        async with self.client.connected():
            return await work()

    async def _all(self, work: Sequence[Coroutine[Any, Any, T]]) -> list[T]:
        """Results of all, or the first failure after the others have been cancelled."""
        try:
            async with self.client.connected(), asyncio.TaskGroup() as group:
                tasks = [group.create_task(coroutine) for coroutine in work]
        except ExceptionGroup as failures:
            raise failures.exceptions[0] from failures
        return [task.result() for task in tasks]

    @property
    def _needs_names(self) -> bool:
        return self.capabilities.access == "argmax" or not self.capabilities.ids_given

    def choose_ids(self, count: int, start: int = 0) -> NDArray[np.int64]:
        """See Source. Omits ids whose text is empty or shared, where answers give only texts.

        Raises:
            EndpointError: the endpoint gives too little to measure its logits.
        """
        if self.capabilities.access == "none":
            raise EndpointError(
                f"the endpoint gives {self.capabilities.summary}, which is not enough to measure "
                "logits",
                model=self.name,
            )
        if not self._needs_names:
            return self._order[start : start + count]
        wanted = self._order[: min(len(self._order), start + count + count // 8 + 8)]
        new = [int(token) for token in wanted if int(token) not in self._names]
        with self._progress("tokens"):
            names = asyncio.run(self._all([self.collector.name(token) for token in new]))
        self._names |= dict(zip(new, names, strict=True))
        uses = Counter(self._names[int(token)] for token in wanted)
        usable = [t for t in wanted if self._names[int(t)] and uses[self._names[int(t)]] == 1]
        return np.array(usable[start : start + count], dtype=np.int64)

    def cost(self, prompts: int, tokens: int) -> int:
        """See Source."""
        names = tokens + tokens // 8 if self._needs_names else 0
        return prompts * self.collector.cost(tokens) + names

    def outputs(self, prompts: Sequence[str], ids: NDArray[np.int64]) -> NDArray[np.float64]:
        """See Source. Answers received before a failure remain in the store.

        Raises:
            EndpointError: an answer lacks expected tokens, or the model changed meanwhile.
            HurefError: the budget is spent or the connection lost, for instance.
        """
        tokens = [int(token) for token in ids]
        with self._progress("outputs"):
            rows = asyncio.run(
                self._all([self.collector.row(prompt, tokens, self._names) for prompt in prompts])
            )
            self._check_names(tokens[:2])
        return np.array(rows)

    def visit(self, prompts: Sequence[str], repeats: int) -> list[list[dict[str, float]]]:
        """Fresh answers to every prompt, for `watch`.

        Returns:
            For each prompt and repeat, token -> log-probability.

        Raises:
            EndpointError: the endpoint gives no log-probabilities.
        """
        top = min(self.capabilities.top, WATCHED)
        if not top:
            raise EndpointError(
                f"the endpoint gives {self.capabilities.summary}; watching needs log-probabilities",
                model=self.name,
            )
        visit = secrets.token_hex(8)  # a new key, so that no answer comes from the store
        queries = [
            TokenQuery(prompt, top, greedy=True, repeat=f"{visit}/{i}")
            for prompt in prompts
            for i in range(repeats)
        ]
        with self._progress("visit"):
            answers = asyncio.run(self._all([self.collector.ask(q) for q in queries]))
        tables = [
            {str(token): value for token, value in (a.by_id or a.by_text).items()} for a in answers
        ]
        return [tables[i : i + repeats] for i in range(0, len(tables), repeats)]

    def _check_names(self, tokens: Sequence[int]) -> None:
        if not self._needs_names:
            return
        again = f"after {len(self._names)}"
        names = asyncio.run(self._all([self.collector.name(t, again) for t in tokens]))
        for token, name in zip(tokens, names, strict=True):
            if name != self._names[token]:
                raise EndpointError(
                    f"token id {token} was {self._names[token]!r} and is now {name!r}; another "
                    "model answers meanwhile, so nothing can be concluded",
                    model=self.name,
                )

    @contextmanager
    def _progress(self, label: str) -> Iterator[None]:
        with tqdm(desc=label, unit=" requests", leave=False, delay=2, disable=None) as bar:
            self.client.bar = bar
            try:
                yield
            finally:
                self.client.bar = None


def answers_path(url: str, model: str | None) -> Path:
    """Default path of the file with an endpoint's answers, in the user's cache."""
    return user_cache() / "probe" / f"{AnswerStore.key(url, model)[:16]}.sqlite"
