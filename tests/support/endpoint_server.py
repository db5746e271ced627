"""An OpenAI-compatible endpoint on the loopback address, over a real tiny model.

Each variant and fault of real servers that huref must handle is a switch. The stub answers over a
socket (`LoopbackEndpoint`) or, for speed, inside the process (`transport`).
"""

import json
import math
import threading
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Protocol

import numpy as np
import torch
from huggingface_hub.utils import httpx

Logits = Callable[[str], np.ndarray]  # prompt -> (v,) float64


@dataclass
class Switches:
    """Settings of the endpoint.

    Attributes:
        apis: which of "completions" and "chat" it offers.
        top: largest number of log-probabilities in one answer; None for no limit, 0 for none.
        clamp: return fewer log-probabilities than requested, instead of refusing.
        chosen: whether it supports logprob_token_ids.
        bias: "visible" in log-probabilities, "invisible", "ignored" or "refused".
        most_biased: largest number of ids in one logit_bias.
        ids: how tokens are named: "id" (llama.cpp), "token_id" (vLLM) or "text" (OpenAI).
        precision: precision of the logits: "float32", "bfloat16" or "float16".
        step: log-probabilities are rounded to multiples of this.
        temperature: logits are divided by this.
        jitter: standard deviation (nat) of noise on the logits, new for every answer.
        defence: standard deviation (nat) of noise on the logits, fixed for each prompt.
        truncate: the server does not know ids from this one on.
        spell: id -> its text.
        key: the bearer token that it requires.
        failures: statuses of the next answers; 0 breaks the connection.
        nan: log-probabilities are NaN.
        usage: total_tokens in every answer; None for no usage.
        swap_after: after this many requests, ids have the text of the next token.
        sampling: whether the temperature has an effect ("honoured"), is always 1 ("ignored"), or
            always 0 ("greedy").
        seed: "honoured", "ignored", "refused", or "fixed", where one query always samples the same
            token unless it has a seed.
        echo: "scores", "ignored" or "refused".
        prompt_logprobs: whether the prompt's log-probabilities are given by that field.
        count: whether answers have the usage that the text model's tokenizer counts.
        inflate: this many tokens are added to every count.
        vanish_after: after this many requests, log-probabilities are null.
        lose: share of answers whose log-probabilities are null.
        change_after: after this many requests, `Stub.second` answers.
        fail: share of requests that are answered by status 500.
        html: answers are a web page with status 200.
        stream_only: queries without "stream": true are refused; other answers are streams.
        constant: this text is generated, whatever the model says.
        shuffle: a random token is generated.
        keep: only so many tokens of a scored prompt are returned.
        retry_after: the header of busy answers.
        rename: "max_tokens" is refused in favour of "max_completion_tokens".
        drop_all: log-probabilities are accepted, and null with status 200.
    """

    apis: tuple[str, ...] = ("completions", "chat")
    top: int | None = 20
    clamp: bool = False
    chosen: bool = False
    bias: str = "visible"
    most_biased: int = 1024
    ids: str = "text"
    precision: str = "float32"
    step: float = 0.0
    temperature: float = 1.0
    jitter: float = 0.0
    defence: float = 0.0
    truncate: int | None = None
    spell: Callable[[int], str] = " t{}".format
    key: str | None = None
    failures: list[int] = field(default_factory=list)
    nan: bool = False
    usage: int | None = None
    swap_after: int | None = None
    sampling: str = "honoured"
    seed: str = "honoured"
    echo: str = "refused"
    prompt_logprobs: bool = False
    count: bool = False
    inflate: int = 0
    vanish_after: int | None = None
    lose: float = 0.0
    change_after: int | None = None
    fail: float = 0.0
    html: bool = False
    stream_only: bool = False
    constant: str | None = None
    shuffle: bool = False
    keep: int | None = None
    retry_after: str = "0"
    rename: bool = False
    drop_all: bool = False


class TextModel(Protocol):
    """A model with its tokenizer, for answers of several tokens and for scores."""

    def encode(self, text: str) -> list[int]: ...

    def piece(self, token: int) -> str: ...

    def logits(self, ids: list[int]) -> np.ndarray:
        """Logits (len(ids), v) after each of the ids."""
        ...


class Stub:
    """Answers requests for one model."""

    def __init__(
        self,
        logits: Logits,
        switches: Switches | None = None,
        name: str = "stub",
        text: TextModel | None = None,
    ):
        self.switches = switches or Switches()
        self.name = name
        self.text = text
        self.second: Logits | None = None  # answers after `Switches.change_after` requests
        self.paths: list[str] = []
        self.requests = 0
        self.logits = logits
        self._cache: dict[str, np.ndarray] = {}
        self._noise = np.random.default_rng(0)
        self._asked: dict[str, int] = {}
        self._lock = threading.RLock()

    def respond(
        self, path: str, body: dict[str, Any] | None, key: str | None
    ) -> tuple[int, dict[str, Any] | bytes]:
        """Status and JSON of the response; status 0 stands for a broken connection."""
        s = self.switches
        with self._lock:
            self.requests += 1
            self.paths.append(path)
            if s.html:
                return 200, b"<!DOCTYPE html><html><body>Welcome</body></html>"
            if s.fail and self._noise.random() < s.fail:
                return 500, {"error": {"message": "out of memory"}}
            if s.failures:
                return s.failures.pop(0), {"error": {"message": "try again"}}
            if s.key is not None and key != f"Bearer {s.key}":
                return 401, {"error": {"message": "wrong key"}}
            if path.endswith("/models"):
                return 200, {"data": [{"id": self.name}]}
            api = "chat" if path.endswith("/chat/completions") else "completions"
            if api not in s.apis or not path.endswith("completions"):
                return 404, {"error": {"message": f"no {path} here"}}
            try:
                self._refuse(body or {})
                answer = self._answer(api, body or {})
                return 200, _stream(answer, api) if s.stream_only else answer
            except ValueError as error:
                return 400, {"error": {"message": str(error)}}

    def _refuse(self, body: dict[str, Any]) -> None:
        """Raise ValueError for a query that the switches refuse."""
        s = self.switches
        if s.stream_only and not body.get("stream"):
            raise ValueError("this endpoint answers in streams only: set stream to true")
        if s.rename and "max_tokens" in body:
            raise ValueError("max_tokens is not supported, use 'max_completion_tokens' instead")
        if s.seed == "refused" and "seed" in body:
            raise ValueError("unknown field: seed")
        if s.echo == "refused" and body.get("echo"):
            raise ValueError("echo is not supported")

    def _answer(self, api: str, body: dict[str, Any]) -> dict[str, Any]:
        s = self.switches
        chat = api == "chat"
        prompt = body["messages"][0]["content"] if chat else body["prompt"]
        wants = body.get("logprobs") is True if chat else body.get("logprobs") is not None
        shows = wants and s.top != 0 and not s.drop_all
        if s.vanish_after is not None and self.requests > s.vanish_after:
            shows = False
        if s.lose and self._noise.random() < s.lose:
            shows = False
        ids = self.text.encode(prompt) if self.text else []
        length = int(body.get("max_tokens") or body.get("max_completion_tokens") or 1)
        steps: list[tuple[int, np.ndarray]] = []
        for _ in range(length if self.text else 1):
            after = [*ids, *(token for token, _ in steps)]
            logits = self._served(prompt) if not steps else self._after(after)
            biased = self._bias(logits, body.get("logit_bias") or {})
            winner = self._sample(biased, body)
            shown = self._show(biased if s.bias == "visible" else logits)
            steps.append((winner, shown))
        text = "".join(self._text(token) for token, _ in steps)
        text = text if s.constant is None else s.constant
        choice: dict[str, Any] = {"index": 0, "finish_reason": "length", "logprobs": None}
        if shows:
            entries = [
                self._entries(chat, token, self._tokens(body, chat, shown), shown)
                for token, shown in steps
            ]
            choice["logprobs"] = {
                name: [value for entry in entries for value in entry[name]] for name in entries[0]
            }
        if self.text and body.get("echo") and s.echo == "scores":
            scores = self._score(ids)[: s.keep]
            text = prompt + text
            if shows:
                echoed = {"tokens": [self._shown_as(t) for t, _ in scores],
                          "token_logprobs": [v for _, v in scores],
                          "top_logprobs": [None for _ in scores]}  # fmt: skip
                choice["logprobs"] = {n: echoed[n] + choice["logprobs"][n] for n in echoed}
        if self.text and s.prompt_logprobs and "prompt_logprobs" in body and shows:
            choice["prompt_logprobs"] = [
                None if v is None else {str(t): {"logprob": v, "rank": 1}}
                for t, v in self._score(ids)[: s.keep]
            ]
        choice |= {"message": {"role": "assistant", "content": text}} if chat else {"text": text}
        answer = {"object": "text_completion", "model": self.name, "choices": [choice]}
        if s.count:
            used = len(ids) + s.inflate + (4 if chat else 0)
            usage = {"prompt_tokens": used, "completion_tokens": len(steps)}
            return answer | {"usage": usage | {"total_tokens": used + len(steps)}}
        return answer if s.usage is None else answer | {"usage": {"total_tokens": s.usage}}

    def _sample(self, logits: np.ndarray, body: dict[str, Any]) -> int:
        s = self.switches
        temperature = float(body.get("temperature", 1))
        temperature = {"ignored": 1.0, "greedy": 0.0}.get(s.sampling, temperature)
        if s.shuffle:
            return int(self._noise.integers(len(logits)))
        if temperature == 0:
            return int(np.argmax(logits))
        random = self._noise_of(logits, "sampling")
        if s.seed in ("honoured", "fixed") and "seed" in body:
            random = np.random.default_rng(int(body["seed"]))
        elif s.seed == "fixed":
            random = np.random.default_rng(0)
        return int(np.argmax(logits / temperature + random.gumbel(size=len(logits))))

    def _noise_of(self, logits: np.ndarray, use: str) -> np.random.Generator:
        """Noise that depends on what was asked and how often, not on the order of threads.

        A test by permutation at a level of 1 % would otherwise fail in one run of a hundred.
        """
        key = f"{use} {zlib.crc32(np.round(logits, 4).tobytes())}"
        with self._lock:
            self._asked[key] = count = self._asked.get(key, 0) + 1
        return np.random.default_rng([zlib.crc32(key.encode()), count])

    def _show(self, logits: np.ndarray) -> np.ndarray:
        s = self.switches
        shown = _log_softmax(logits)
        if s.step:
            shown = np.round(shown / s.step) * s.step
        return np.full_like(shown, math.nan) if s.nan else shown

    def _after(self, ids: list[int]) -> np.ndarray:
        """Logits (v,) after token ids, rounded and noisy as those after a prompt."""
        assert self.text
        return self._disturb(self.text.logits(ids)[-1])

    def _score(self, ids: list[int]) -> list[tuple[int, float | None]]:
        """The ids of a prompt with their log-probabilities."""
        assert self.text
        rows = [self._show(self._disturb(row)) for row in self.text.logits(ids)[:-1]]
        scores = [float(row[token]) for row, token in zip(rows, ids[1:], strict=True)]
        return [(ids[0], None), *zip(ids[1:], scores, strict=True)]

    def _disturb(self, logits: np.ndarray) -> np.ndarray:
        s = self.switches
        rounded = torch.from_numpy(logits).to(getattr(torch, s.precision)).double().numpy()
        noise = self._noise_of(rounded, "jitter").standard_normal(len(rounded))
        return (rounded + s.jitter * noise).astype(np.float32)

    def _served(self, prompt: str) -> np.ndarray:
        s = self.switches
        if s.change_after is not None and self.requests > s.change_after and self.second:
            self.logits, self.second = self.second, None
            self._cache.clear()
        if prompt not in self._cache:
            logits = self.logits(prompt)[: s.truncate]
            if s.defence:
                seed = np.random.default_rng(abs(hash(prompt)))
                logits = logits + s.defence * seed.standard_normal(len(logits))
            kind = getattr(torch, s.precision)
            self._cache[prompt] = torch.from_numpy(logits).to(kind).double().numpy()
        logits = self._cache[prompt] / s.temperature
        if s.jitter:
            noise = self._noise_of(logits, "jitter").standard_normal(len(logits))
            logits = logits + s.jitter * noise
        return logits.astype(np.float32)

    def _bias(self, logits: np.ndarray, bias: dict[str, float]) -> np.ndarray:
        s = self.switches
        if bias and s.bias == "refused":
            raise ValueError("logit_bias is not supported")
        if len(bias) > s.most_biased:
            raise ValueError("too many ids in logit_bias")
        biased = logits.copy()
        for token, value in bias.items():
            if not -100 <= value <= 100 or not 0 <= int(token) < len(logits):
                raise ValueError(f"logit_bias of {token} is out of range")
            if s.bias != "ignored":
                biased[int(token)] += np.float32(value)
        return biased

    def _tokens(self, body: dict[str, Any], chat: bool, shown: np.ndarray) -> Iterable[int]:
        s = self.switches
        if s.chosen and body.get("logprob_token_ids"):
            ids = body["logprob_token_ids"]
            if len(ids) > 128 or max(ids) >= len(shown):
                raise ValueError("logprob_token_ids: too many, or beyond the vocabulary")
            return list(ids)
        requested = int(body.get("top_logprobs", 0) if chat else body["logprobs"])
        requested = len(shown) if requested == -1 else requested
        if s.top is not None and requested > s.top:
            if not s.clamp:
                raise ValueError(f"at most {s.top} logprobs")
            requested = s.top
        return [int(i) for i in np.argsort(-shown, kind="stable")[:requested]]

    def _entries(
        self, chat: bool, winner: int, tokens: Iterable[int], shown: np.ndarray
    ) -> dict[str, Any]:
        s = self.switches
        if chat or s.ids == "id":
            entries = [self._entry(token, float(shown[token])) for token in tokens]
            return {
                "content": [self._entry(winner, float(shown[winner])) | {"top_logprobs": entries}]
            }
        top = {self._shown_as(token): float(shown[token]) for token in tokens}
        return {
            "tokens": [self._shown_as(winner)],
            "token_logprobs": [float(shown[winner])],
            "top_logprobs": [top],
        }

    def _entry(self, token: int, value: float) -> dict[str, Any]:
        entry: dict[str, Any] = {"token": self._shown_as(token), "logprob": value}
        if self.switches.ids == "id":
            entry["id"] = token
        elif self.switches.ids == "text":
            entry["bytes"] = list(self._text(token).encode())
        return entry

    def _shown_as(self, token: int) -> str:
        return f"token_id:{token}" if self.switches.ids == "token_id" else self._text(token)

    def _text(self, token: int) -> str:
        s = self.switches
        swapped = s.swap_after is not None and self.requests > s.swap_after
        return s.spell(token + swapped)

    def transport(self) -> httpx.MockTransport:
        """An httpx transport that answers without a socket."""

        async def handle(request: httpx.Request) -> httpx.Response:
            body = json.loads(request.content) if request.content else None
            key = request.headers.get("Authorization")
            status, answer = self.respond(request.url.path, body, key)
            if status == 0:
                raise httpx.ReadError("connection broken")
            # JSON may contain NaN, as from real servers.
            data = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
            headers = {"Retry-After": self.switches.retry_after}
            return httpx.Response(status, content=data, headers=headers)

        return httpx.MockTransport(handle)


def _stream(answer: dict[str, Any], api: str) -> bytes:
    """An answer as server-sent events, one choice in two chunks."""
    choice = answer["choices"][0]
    text = choice["message"]["content"] if api == "chat" else choice["text"]
    events: list[dict[str, Any]] = []
    for part, logprobs in ((text[:1], choice["logprobs"]), (text[1:], None)):
        body = {"delta": {"content": part}} if api == "chat" else {"text": part}
        events.append({"choices": [{"index": 0, "logprobs": logprobs, **body}]})
    if "usage" in answer:
        events.append({"choices": [], "usage": answer["usage"]})
    lines = [f"data: {json.dumps(event)}\n\n" for event in events]
    return "".join([*lines, "data: [DONE]\n\n"]).encode()


def _log_softmax(logits: np.ndarray) -> np.ndarray:
    centred = logits - logits.max()
    normalised: np.ndarray = centred - np.log(np.exp(centred.astype(np.float64)).sum())
    return normalised.astype(np.float32)


class LoopbackEndpoint:
    """A context manager that serves a stub over a socket."""

    def __init__(self, stub: Stub):
        self.stub = stub

    def __enter__(self) -> "LoopbackEndpoint":
        endpoint = self

        class Handler(_Handler):
            stub = endpoint.stub

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Handler(BaseHTTPRequestHandler):
    stub: Stub
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, *_: object) -> None:
        """Keep the test output quiet."""

    def do_GET(self) -> None:
        self._send(None)

    def do_POST(self) -> None:
        self._send(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

    def _send(self, body: dict[str, Any] | None) -> None:
        status, answer = self.stub.respond(self.path, body, self.headers.get("Authorization"))
        if status == 0:
            self.close_connection = True
            return
        data = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.send_header("Retry-After", self.stub.switches.retry_after)
        self.end_headers()
        self.wfile.write(data)
