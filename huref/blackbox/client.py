"""Questions to an OpenAI-compatible endpoint: counted, limited, retried, and asked only once."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from huggingface_hub.utils import httpx
from tqdm.auto import tqdm

from huref.blackbox.answers import Answer, AnswerStore, parse_answer
from huref.blackbox.prompts import TOKENS_PER_PROMPT
from huref.blackbox.question import Dialect, Question
from huref.errors import AccessError, BudgetError, EndpointError, NetworkError

ATTEMPTS = 5
LONGEST_WAIT = 30.0  # seconds, whatever a Retry-After asks for
TOO_LONG = 600.0  # seconds; who asks for more is not asked again
EXPECTED_TOKENS = TOKENS_PER_PROMPT + 1  # of a prompt and its answer, until the endpoint says
LARGEST_ANSWER = 256 << 20  # bytes; a full vocabulary of 256k tokens takes about 20 MB
BUSY = (408, 425, 429, 500, 502, 503, 504)


class RefusedError(EndpointError):
    """The endpoint understands the question and will not answer it (status 4xx)."""


class FailedError(NetworkError):
    """The endpoint is there, but fails at this question again and again (status 500)."""


@dataclass
class Limits:
    """What an endpoint may be asked for.

    Attributes:
        requests: how many requests in all, retries included.
        tokens: how many tokens in all, as the endpoint counts them; None for no limit.
        concurrency: how many at a time.
        rate: how many a second, None for as fast as it answers.
        timeout: seconds for one answer.
    """

    requests: int = 10_000
    tokens: int | None = None
    concurrency: int = 8
    rate: float | None = None
    timeout: float = 120.0


def require_base_url(url: str) -> None:
    """Raise EndpointError when requests cannot be sent below an address."""
    try:
        parts = urlsplit(url)
        is_one = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        httpx.URL(url)
    except (ValueError, httpx.InvalidURL):  # such as a port that is no number
        is_one = False
    if not is_one:
        raise EndpointError(f"{url}: not a base URL; give for instance http://127.0.0.1:8000/v1")


class Client:
    """Asks one endpoint, within limits.

    Args:
        url: base URL; the paths /models, /completions and /chat/completions lie below it.
        key: bearer token, or None.
        limits: requests, concurrency, rate.
        store: where answers are kept and found again.
        transport: replaces the network, for measurements without one.
    """

    def __init__(
        self,
        url: str,
        key: str | None = None,
        limits: Limits | None = None,
        store: AnswerStore | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
    ):
        require_base_url(url)
        self.url = url.rstrip("/")
        self.limits = limits or Limits()
        self.store = store or AnswerStore()
        self.requests = 0
        self.tokens = 0
        self.bar: tqdm[Any] | None = None
        self._headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._transport = transport
        self._http: httpx.AsyncClient | None = None
        self._next_start = 0.0

    @asynccontextmanager
    async def connected(self) -> AsyncIterator["Client"]:
        """Hold connections open for a series of questions, in one event loop."""
        self._slots = asyncio.Semaphore(self.limits.concurrency)
        async with httpx.AsyncClient(
            headers=self._headers,
            timeout=self.limits.timeout,
            follow_redirects=False,  # a redirect would carry the key to another host
            transport=self._transport,
        ) as http:
            self._http = http
            try:
                yield self
            finally:
                self._http = None

    async def ask(
        self, question: Question, dialect: Dialect, model: str, attempts: int = ATTEMPTS
    ) -> Answer:
        """The answer to a question, from the store or from the endpoint.

        Raises:
            RefusedError: the endpoint does not offer what was asked.
            HurefError: another subclass says why there is no answer.
        """
        body = question.body(dialect, model)
        key = AnswerStore.key(self.url, dialect, body, question.repeat)
        answer = self.store.get(key)
        if answer is None:
            path = "/chat/completions" if dialect == "chat" else "/completions"
            payload = await self.request(path, body, attempts)
            self.tokens += count_tokens(payload) - EXPECTED_TOKENS
            answer = parse_answer(payload, self.url + path)
            self.store.put(key, answer)
        return answer

    async def request(
        self, path: str, body: Mapping[str, Any] | None = None, attempts: int = ATTEMPTS
    ) -> Any:
        """The JSON that a path answers, after retries; GET without a body."""
        status = 0
        for attempt in range(attempts):
            async with self._slots:
                await self._take_turn(path)
                try:
                    status, headers, data = await self._send(path, body)
                except (httpx.TransportError, httpx.DecodingError) as error:
                    failure = f"{type(error).__name__} {error}".strip()
                    wait = 2.0**attempt / 4
                else:
                    if status not in BUSY:
                        return self._read(path, status, data)
                    failure = f"status {status} {_excerpt(data)}".strip()
                    wait = _retry_after(headers.get("Retry-After"), 2.0**attempt / 4)
                if wait > TOO_LONG:
                    raise NetworkError(
                        f"{self.url}{path}: {failure}; it asks to come back in {wait:,.0f} s; do "
                        f"so, or ask for less at a time with --rate. {self._kept()}"
                    )
                if attempt < attempts - 1:
                    await asyncio.sleep(min(wait, LONGEST_WAIT))
        kind = FailedError if status == 500 else NetworkError
        raise kind(
            f"{self.url}{path}: no answer after {attempts} attempts, last with {failure}; is the "
            f"endpoint up? {self._kept()}"
        )

    async def _take_turn(self, path: str) -> None:
        if self.requests >= self.limits.requests:
            raise BudgetError(
                f"{self.url}{path}: the budget of {self.limits.requests:,} requests is spent; "
                f"allow more with --budget. {self._kept()}"
            )
        if self.limits.tokens is not None and self.tokens >= self.limits.tokens:
            raise BudgetError(
                f"{self.url}{path}: the budget of {self.limits.tokens:,} tokens is spent; "
                f"allow more with --tokens. {self._kept()}"
            )
        self.requests += 1
        self.tokens += EXPECTED_TOKENS  # so that requests under way and failed ones count, too
        if self.bar is not None:
            self.bar.update()
        if self.limits.rate:
            now = time.monotonic()
            start = max(now, self._next_start)
            self._next_start = start + 1 / self.limits.rate
            await asyncio.sleep(start - now)

    async def _send(
        self, path: str, body: Mapping[str, Any] | None
    ) -> tuple[int, Mapping[str, str], bytes]:
        if self._http is None:
            raise RuntimeError("ask inside `async with client.connected()`")
        method = "GET" if body is None else "POST"
        data = bytearray()
        async with self._http.stream(method, self.url + path, json=body) as response:
            async for chunk in response.aiter_bytes():
                data += chunk
                if len(data) > LARGEST_ANSWER:
                    raise EndpointError(f"{self.url}{path}: the answer is too large to be one")
            return response.status_code, response.headers, bytes(data)

    def _read(self, path: str, status: int, data: bytes) -> Any:
        if status in (401, 403):
            raise AccessError(
                f"{self.url}: the endpoint refuses the key (status {status}); name the "
                f"environment variable that holds the right one with --key-env. {self._kept()}"
            )
        if status >= 300:
            raise RefusedError(f"{self.url}{path}: status {status} {_excerpt(data)}")
        try:
            return json.loads(data)
        except (ValueError, RecursionError) as error:
            raise EndpointError(
                f"{self.url}{path}: the answer is not JSON: {_excerpt(data)}"
            ) from (error)

    def _kept(self) -> str:
        path = self.store.path
        return f"Answers so far are kept in {path}; the same command goes on from there" * bool(
            path
        )


def count_tokens(payload: Any) -> int:
    """What an answer cost, by its own account or else by our estimate for a prompt and a token."""
    usage = payload.get("usage") if isinstance(payload, dict) else None
    counted = usage.get("total_tokens") if isinstance(usage, dict) else None
    return counted if type(counted) is int and counted > 0 else EXPECTED_TOKENS


def _retry_after(asked: str | None, otherwise: float) -> float:
    try:
        return max(0.0, float(asked)) if asked else otherwise
    except ValueError:  # an HTTP date; our own back-off will do
        return otherwise


def _excerpt(data: bytes) -> str:
    return " ".join(data[:200].decode("utf-8", "replace").split())
