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
from huref.blackbox.answers import AnswerStore, TokenAnswer
from huref.blackbox.capabilities import Capabilities, lost_fields, recall, remember
from huref.blackbox.client import Client
from huref.blackbox.collect import Collector, Settings
from huref.blackbox.detection import complete, detect
from huref.blackbox.effort import describe_effort
from huref.blackbox.prompts import order_ids
from huref.blackbox.query import TokenQuery
from huref.errors import AccessError, BudgetError, EndpointError, HurefError, NetworkError
from huref.progress import is_hidden

T = TypeVar("T")


class Endpoint:
    """A server with OpenAI's API. The constructor detects its capabilities, or recalls them.

    Args:
        client: sends the requests.
        model: name of the model at the endpoint; None for the first one that it lists.
        settings: of argmax searches.
        ask_again: detect the capabilities although the store has them.

    Attributes:
        findings: what the endpoint gave at an earlier detection and gives no longer, in words.
    """

    def __init__(
        self,
        client: Client,
        model: str | None = None,
        settings: Settings | None = None,
        ask_again: bool = False,
    ):
        self.name = client.url
        self.client = client
        self._model = model
        self.findings: list[str] = []
        known = recall(client.store, client.url, model)
        visit = secrets.token_hex(8) if ask_again else ""
        if known is None or ask_again:
            found = asyncio.run(self._connected(lambda: detect(client, model, visit)))
            self.findings = lost_fields(known, found) if known else []
            remember(client.store, client.url, model, found)
        else:
            found = known
        self._settings = settings
        self._use(found)

    def _use(self, found: Capabilities) -> None:
        self.capabilities = found
        self.collector = Collector(self.client, found, self._settings)
        self.jitter = found.jitter if found.top else 0.0
        self.absolute = found.access in ("full", "chosen")
        self.resolution = self.collector.settings.precision if found.access == "argmax" else 0.0
        self._names: dict[int, str | int] = {}
        self._order: NDArray[np.int64] | None = None

    @property
    def vocabulary(self) -> int:
        """Number of token ids; found, and remembered, when it is needed."""
        if self._order is None:
            found = self.capabilities
            lacks_bias = found.access in ("biased", "argmax") and not found.biased_at_once
            if found.access != "none" and (not found.vocabulary or lacks_bias):
                found = asyncio.run(self._connected(lambda: complete(self.client, found)))
                remember(self.client.store, self.client.url, self._model, found)
                self._use(found)
            self._order = order_ids(found.vocabulary)
        return len(self._order)

    @property
    def obstacle(self) -> str | None:
        """Why outputs cannot be measured, and what it would take; None if they can."""
        found = self.capabilities
        if found.access != "none":
            return None
        return (
            f"the endpoint gives {found.summary}, which is not enough to measure logits"
            f"; {describe_effort(found)}"
        )

    @property
    def order(self) -> NDArray[np.int64]:
        """All token ids in the order in which they are measured."""
        return order_ids(0) if not self.vocabulary or self._order is None else self._order

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
        if self.obstacle is not None:
            raise EndpointError(self.obstacle, model=self.name)
        order = self.order
        if not self._needs_names:
            return order[start : start + count]
        wanted = order[: min(len(order), start + count + count // 8 + 8)]
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
        _ = self.vocabulary  # finds what the collector must know
        with self._progress("outputs"):
            rows = asyncio.run(
                self._all([self.collector.row(prompt, tokens, self._names) for prompt in prompts])
            )
            self._check_names(tokens[:2])
        return np.array(rows)

    def ask_all(
        self, queries: Sequence[TokenQuery], label: str, most_failures: float = 0.0
    ) -> list[TokenAnswer | None]:
        """The answer to every query.

        Args:
            queries: the queries.
            label: of the progress bar.
            most_failures: share of queries that may fail; their answers are None.

        Raises:
            HurefError: more queries fail, the budget is spent, or the key is refused.
        """
        failures: list[HurefError] = []

        async def ask(query: TokenQuery) -> TokenAnswer | None:
            try:
                return await self.collector.ask(query)
            except (BudgetError, AccessError):
                raise
            except (NetworkError, EndpointError) as error:
                failures.append(error)
                if len(failures) > max(most_failures * len(queries), 1 if most_failures else 0):
                    raise
                return None

        with self._progress(label):
            return asyncio.run(self._all([ask(query) for query in queries]))

    def require(self, requests: int) -> None:
        """Raise BudgetError unless so many requests are left."""
        left = self.requests_left
        if left is not None and left < requests:
            raise BudgetError(
                f"{requests:,} more requests are needed, {left:,} are left",
                model=self.name,
                advice="allow more with --budget",
            )

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
        with tqdm(desc=label, unit=" requests", leave=False, delay=2, disable=is_hidden()) as bar:
            self.client.bar = bar
            try:
                yield
            finally:
                self.client.bar = None


def answers_path(url: str, model: str | None) -> Path:
    """Default path of the file with an endpoint's answers, in the user's cache."""
    return user_cache() / "probe" / f"{AnswerStore.key(url, model)[:16]}.sqlite"
