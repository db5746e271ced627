"""A client for OpenAI-compatible endpoints that counts, limits, retries and stores its requests."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlsplit

from huggingface_hub.utils import httpx
from tqdm.auto import tqdm

from huref.blackbox.answers import (
    AnswerStore,
    TokenAnswer,
    UnreadableError,
    parse_answer,
    read_usage,
)
from huref.blackbox.prompts import TOKENS_PER_PROMPT
from huref.blackbox.query import Api, TokenQuery
from huref.bounded_json import JsonError, loads
from huref.errors import AccessError, BudgetError, EndpointError, NetworkError, locating

ATTEMPTS = 5
LONGEST_WAIT = 30.0  # seconds, whatever Retry-After says
TOO_LONG = 600.0  # seconds; a longer Retry-After ends the measurement
EXPECTED_TOKENS = TOKENS_PER_PROMPT + 1  # of a query and its answer, if no usage is returned
SMALL_ANSWER = 8 << 20  # bytes of any answer; of one with log-probabilities, more for each
BYTES_PER_TOKEN = 400  # of an answer; a token with its text, bytes and value takes about 80
LARGEST_ANSWER = 96 << 20  # bytes; a full vocabulary of 256k tokens takes about 20 MB
# 520 to 530 are what gateways answer when the server behind them is busy or cannot be reached.
BUSY = (408, 425, 429, 500, 502, 503, 504, *range(520, 531))
STREAMED = (b"data:", b"event:", b"id:", b"retry:", b":")  # how server-sent events begin
UNPAID = "insufficient_quota"  # OpenAI's code, with status 429, of an account without credit
# Words in a refusal -> how to change the body of the request: reasoning models of OpenAI rename a
# field, and some gateways answer in streams only.
ADAPTATIONS: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "max_completion_tokens": lambda body: {
        ("max_completion_tokens" if name == "max_tokens" else name): value
        for name, value in body.items()
    },
    "stream": lambda body: body | {"stream": True},
    "seed": lambda body: {name: value for name, value in body.items() if name != "seed"},
}


class RefusedError(EndpointError):
    """The endpoint refuses a query (status 3xx or 4xx).

    Attributes:
        status: the HTTP status.
        reply: the beginning of the response.
    """

    status = 0
    reply = ""


class FailedError(NetworkError):
    """The endpoint can be reached, but fails at a query at every attempt (status 500)."""


@dataclass
class Limits:
    """Limits on the requests to an endpoint.

    Attributes:
        requests: total number of requests, retries included.
        tokens: total number of tokens, as the endpoint counts them; None for no limit.
        concurrency: number of simultaneous requests.
        rate: requests per second; None for no limit.
        timeout: of one request, in seconds.
    """

    requests: int = 10_000
    tokens: int | None = None
    concurrency: int = 8
    rate: float | None = None
    timeout: float = 120.0


def require_base_url(url: str) -> None:
    """Raise EndpointError unless a URL can be the base URL of requests."""
    try:
        parts = urlsplit(url)
        is_valid = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        httpx.URL(url)
    except (ValueError, httpx.InvalidURL):  # such as a port that is not a number
        is_valid = False
    if not is_valid:
        raise EndpointError(
            "it is not a base URL", model=url, advice="give for instance http://127.0.0.1:8000/v1"
        )


class Client:
    """Sends queries to one endpoint, within limits.

    Args:
        url: base URL, to which /models, /completions and /chat/completions are appended.
        key: bearer token, or None.
        limits: limits on requests, tokens, concurrency and rate.
        store: where answers are stored; by default in memory.
        transport: replaces the network, for tests and simulations.
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
        self.busy_answers = 0  # requests that were repeated because the endpoint was busy
        self.tokens = 0
        self.bar: tqdm[Any] | None = None
        self._headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._transport = transport
        self._http: httpx.AsyncClient | None = None
        self._next_start = 0.0
        self._adaptations: list[str] = []

    @asynccontextmanager
    async def connected(self) -> AsyncIterator["Client"]:
        """Keep connections open for a series of queries in one event loop."""
        self._slots = asyncio.Semaphore(self.limits.concurrency)
        async with httpx.AsyncClient(
            headers={"Accept-Encoding": "identity", **self._headers},
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
        self,
        query: TokenQuery,
        api: Api,
        model: str,
        attempts: int = ATTEMPTS,
        final: tuple[int, ...] = (),
    ) -> TokenAnswer:
        """The answer to a query, from the store or from the endpoint.

        Args:
            query: the query.
            api: which of OpenAI's APIs.
            model: name of the model at the endpoint.
            attempts: how often a busy endpoint is asked.
            final: statuses after which it is not asked again.

        Raises:
            RefusedError: the endpoint refuses the query.
            HurefError: there is no answer; the subclass says why.
        """
        body = query.body(api, model)
        key = AnswerStore.key(self.url, api, body, query.repeat)
        answer = self.store.get(key)
        if answer is None:
            path = "/chat/completions" if api == "chat" else "/completions"
            expected = expect_tokens(query)
            payload = await self._request_adapted(path, body, attempts, final, expected)
            self.tokens += count_tokens(payload, expected) - expected
            with locating(model=self.url):
                answer = parse_answer(payload, query.echo)
            self.store.put(key, answer)
        return answer

    async def _request_adapted(
        self,
        path: str,
        body: Mapping[str, Any],
        attempts: int,
        final: tuple[int, ...],
        expected: int,
    ) -> Any:
        """The response; a refusal that names one of ADAPTATIONS is answered with that change."""
        while True:
            sent = dict(body)
            for change in self._adaptations:
                sent = ADAPTATIONS[change](sent)
            try:
                return await self.request(path, sent, attempts, final, expected)
            except RefusedError as error:
                reply = error.reply.lower()
                new = [c for c in ADAPTATIONS if c in reply and c not in self._adaptations]
                if error.status not in (400, 422) or not new:
                    raise
                self._adaptations.append(new[0])

    async def request(
        self,
        path: str,
        body: Mapping[str, Any] | None = None,
        attempts: int = ATTEMPTS,
        final: tuple[int, ...] = (),
        expected: int = EXPECTED_TOKENS,
    ) -> Any:
        """The JSON response at a path, after retries; without a body the request is a GET."""
        status = 0
        for attempt in range(attempts):
            async with self._slots:
                await self._take_turn(expected)
                try:
                    async with asyncio.timeout(self.limits.timeout):
                        status, headers, data = await self._send(path, body)
                    payload = self._decode(path, data) if status < 300 else None
                    status = _status_within(status, payload)
                except (httpx.TransportError, httpx.DecodingError, TimeoutError) as error:
                    status = 0
                    failure = f"{type(error).__name__} {error}".strip()[:200]
                    wait = 2.0**attempt / 4
                else:
                    if status < 300:
                        return payload
                    if status not in BUSY or UNPAID.encode() in data:
                        raise self._refusal(path, status, data)
                    failure = f"status {status} {_excerpt(data)}".strip()
                    wait = _retry_after(headers.get("Retry-After"), 2.0**attempt / 4)
                if wait > TOO_LONG:
                    raise NetworkError(
                        f"{path} answers {failure} and a Retry-After of {min(wait, 1e12):,.0f} s",
                        model=self.url,
                        advice=self._advise("wait, or send fewer requests at a time with --rate"),
                    )
                if status in final:
                    break
                self.busy_answers += 1
                if attempt < attempts - 1:
                    await asyncio.sleep(min(wait, LONGEST_WAIT))
        kind = FailedError if status == 500 else NetworkError
        raise kind(
            f"{path} gives no answer after {attempt + 1} attempts; the last one ended with "
            f"{failure}",
            model=self.url,
            advice=self._advise("check that the endpoint is running"),
        )

    async def _take_turn(self, expected: int) -> None:
        """Count a request, and wait as the rate demands."""
        if self.requests >= self.limits.requests:
            raise BudgetError(
                f"the budget of {self.limits.requests:,} requests is spent",
                model=self.url,
                advice=self._advise("allow more with --budget"),
            )
        if self.limits.tokens is not None and self.tokens >= self.limits.tokens:
            raise BudgetError(
                f"the budget of {self.limits.tokens:,} tokens is spent",
                model=self.url,
                advice=self._advise("allow more with --tokens"),
            )
        self.requests += 1
        self.tokens += expected  # counted before sending: failed requests cost tokens, too
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
            raise RuntimeError("requests need an enclosing `async with client.connected()`")
        method = "GET" if body is None else "POST"
        data = bytearray()
        largest = min(SMALL_ANSWER + BYTES_PER_TOKEN * _asked_tokens(body), LARGEST_ANSWER)
        async with self._http.stream(method, self.url + path, json=body) as response:
            encoding = response.headers.get("Content-Encoding", "identity")
            if encoding.strip().lower() not in ("", "identity"):
                raise EndpointError(
                    f"{path} answers with the encoding '{encoding[:40]}', although none was "
                    "asked for",
                    model=self.url,
                )
            async for chunk in response.aiter_bytes():  # which decodes nothing here
                data += chunk
                if len(data) > largest:
                    raise EndpointError(
                        f"{path} answers with more than {largest:,} bytes", model=self.url
                    )
            return response.status_code, response.headers, bytes(data)

    def _refusal(self, path: str, status: int, data: bytes) -> AccessError | RefusedError:
        """The error that a status of 3xx or more amounts to, if the endpoint is not busy."""
        if status == 402 or UNPAID.encode() in data:
            return AccessError(
                f"the endpoint asks for payment (status {status} {_excerpt(data)})",
                model=self.url,
                advice=self._advise("pay its provider, or name another key by --key-env"),
            )
        if status in (401, 403):
            return AccessError(
                f"the endpoint refuses the API key (status {status})",
                model=self.url,
                advice=self._advise("name the environment variable with the key by --key-env"),
            )
        refusal = RefusedError(f"{path} answers status {status} {_excerpt(data)}", model=self.url)
        refusal.status, refusal.reply = status, data[:4000].decode("utf-8", "replace")
        return refusal

    def _decode(self, path: str, data: bytes) -> Any:
        """The JSON of a response, or what its stream amounts to."""
        try:
            if data.lstrip().startswith(STREAMED):
                return join_stream(data)
            return loads(data, constants=True)
        except (JsonError, AttributeError, TypeError) as error:
            why = error if isinstance(error, JsonError) else type(error).__name__
            raise UnreadableError(
                f"the response of {path} is not JSON ({why}): {_excerpt(data)}", model=self.url
            ) from error

    def _advise(self, advice: str) -> str:
        """Advice, with a note that a repeated measurement resumes from the stored answers."""
        if self.store.path is None:
            return advice
        return f"{advice}; answers are stored in {self.store.path}, so the same command resumes"


def _asked_tokens(body: Mapping[str, Any] | None) -> int:
    """How many log-probabilities a request asks for."""
    asked = [(body or {}).get(key) for key in ("logprobs", "top_logprobs", "logprob_token_ids")]
    if -1 in asked:  # all of the vocabulary
        return LARGEST_ANSWER
    counts = [len(value) if isinstance(value, list) else value for value in asked]
    return sum(count for count in counts if type(count) is int)


def _status_within(status: int, payload: Any) -> int:
    """The status of an error that a gateway sends with status 200; otherwise `status`."""
    if not isinstance(payload, dict) or not payload.get("error") or payload.get("choices"):
        return status
    error = payload["error"]
    code = error.get("code") if isinstance(error, dict) else None
    return code if type(code) is int and 400 <= code < 600 else 400


def join_stream(data: bytes) -> dict[str, Any]:
    """The answer that server-sent events amount to, in the form of an answer without a stream.

    An error in the stream is all that is returned: what came before it is no whole answer.
    """
    texts: list[str] = []
    lists: dict[str, list[Any]] = {}
    usage, chat = None, False
    for line in data.decode("utf-8", "replace").splitlines():
        payload = line.removeprefix("data:").strip()
        if not line.startswith("data:") or payload in ("", "[DONE]"):
            continue
        event = loads(payload, constants=True)
        if event.get("error"):
            return {"error": event["error"]}
        usage = event.get("usage") or usage
        for choice in event.get("choices") or ():
            if choice.get("index"):  # another answer to the same query
                continue
            delta = choice.get("delta")
            chat = chat or delta is not None
            texts.append(str((delta or {}).get("content") or choice.get("text") or ""))
            for name, values in (choice.get("logprobs") or {}).items():
                if isinstance(values, list):
                    lists.setdefault(name, []).extend(values)
    text = "".join(texts)
    joined: dict[str, Any] = {"message": {"content": text}} if chat else {"text": text}
    return {"choices": [joined | {"logprobs": lists or None}], "usage": usage}


def expect_tokens(query: TokenQuery) -> int:
    """Tokens of a query and its answer, as they are counted if no usage is returned."""
    return max(EXPECTED_TOKENS, len(query.prompt) // 3 + query.length)


def count_tokens(payload: Any, expected: int = EXPECTED_TOKENS) -> int:
    """The tokens that a response reports as used, or else an estimate."""
    return read_usage(payload)[2] or expected


def _retry_after(header: str | None, default: float) -> float:
    if not header:
        return default
    try:
        seconds = float(header)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(header).timestamp() - time.time()
        except (ValueError, OverflowError):
            return default
    return max(0.0, seconds)


def _excerpt(data: bytes) -> str:
    return " ".join(data[:200].decode("utf-8", "replace").split())
