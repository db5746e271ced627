"""An OpenAI-compatible endpoint on the loopback address, over a real tiny model.

Each variant and fault of real servers that huref must handle is a switch. The stub answers over a
socket (`LoopbackEndpoint`) or, for speed, inside the process (`transport`).
"""

import json
import math
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

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


class Stub:
    """Answers requests for one model."""

    def __init__(self, logits: Logits, switches: Switches | None = None, name: str = "stub"):
        self.switches = switches or Switches()
        self.name = name
        self.requests = 0
        self.logits = logits
        self._cache: dict[str, np.ndarray] = {}
        self._noise = np.random.default_rng(0)
        self._lock = threading.Lock()

    def respond(
        self, path: str, body: dict[str, Any] | None, key: str | None
    ) -> tuple[int, dict[str, Any]]:
        """Status and JSON of the response; status 0 stands for a broken connection."""
        s = self.switches
        with self._lock:
            self.requests += 1
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
                return 200, self._answer(api, body or {})
            except ValueError as error:
                return 400, {"error": {"message": str(error)}}

    def _answer(self, api: str, body: dict[str, Any]) -> dict[str, Any]:
        s = self.switches
        chat = api == "chat"
        prompt = body["messages"][0]["content"] if chat else body["prompt"]
        logits = self._served(prompt)
        biased = self._bias(logits, body.get("logit_bias") or {})
        if body.get("temperature") == 0:
            winner = int(np.argmax(biased))
        else:
            winner = int(np.argmax(biased + self._noise.gumbel(size=len(biased))))
        shown = _log_softmax(biased if s.bias == "visible" else logits)
        if s.step:
            shown = np.round(shown / s.step) * s.step
        if s.nan:
            shown = np.full_like(shown, math.nan)
        text = self._text(winner)
        choice: dict[str, Any] = {"index": 0, "finish_reason": "length", "logprobs": None}
        choice |= {"message": {"role": "assistant", "content": text}} if chat else {"text": text}
        wants = body.get("logprobs") is True if chat else body.get("logprobs") is not None
        if wants and s.top != 0:
            tokens = self._tokens(body, chat, shown)
            choice["logprobs"] = self._entries(chat, winner, tokens, shown)
        answer = {"object": "text_completion", "model": self.name, "choices": [choice]}
        return answer if s.usage is None else answer | {"usage": {"total_tokens": s.usage}}

    def _served(self, prompt: str) -> np.ndarray:
        s = self.switches
        if prompt not in self._cache:
            logits = self.logits(prompt)[: s.truncate]
            if s.defence:
                seed = np.random.default_rng(abs(hash(prompt)))
                logits = logits + s.defence * seed.standard_normal(len(logits))
            kind = getattr(torch, s.precision)
            self._cache[prompt] = torch.from_numpy(logits).to(kind).double().numpy()
        logits = self._cache[prompt] / s.temperature
        if s.jitter:
            logits = logits + s.jitter * self._noise.standard_normal(len(logits))
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
            data = json.dumps(answer).encode()  # may contain NaN, as from real servers
            return httpx.Response(status, content=data, headers={"Retry-After": "0"})

        return httpx.MockTransport(handle)


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
        data = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.send_header("Retry-After", "0")
        self.end_headers()
        self.wfile.write(data)
