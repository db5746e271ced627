"""Endpoints that lie, shuffle, truncate, charge, limit, answer pages or streams, or change.

An honest stub answers over a socket; each kind of trouble changes its replies.
"""

import hashlib
import json
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np

from tests.support.endpoint_server import Stub, Switches

V = 320  # tokens of `WordModel`


class WordModel:
    """A text model without weights: each word is a token, and logits are drawn by a hash of ids."""

    def __init__(self, seed: int = 0):
        self.seed = seed

    def encode(self, text: str) -> list[int]:
        """A token a word."""
        return [int(hashlib.sha256(word.encode()).hexdigest(), 16) % V for word in text.split()]

    def piece(self, token: int) -> str:
        """The text of a token."""
        return f" t{token}"

    def logits(self, ids: list[int]) -> np.ndarray:
        """Logits (len(ids), V), which depend on the last two ids."""
        pairs = zip([0, *ids], ids, strict=False)
        rows = [np.random.default_rng([self.seed, *pair]).normal(0, 2, V) for pair in pairs]
        return np.array(rows)

    def after(self, prompt: str) -> np.ndarray:
        """Logits (V,) after a prompt."""
        row: np.ndarray = self.logits(self.encode(prompt))[-1]
        return row

    def serve(self, **switches: Any) -> Stub:
        """An honest stub."""
        own: dict[str, Any] = {"bias": "ignored", "count": True, "spell": self.piece}
        return Stub(self.after, Switches(**own | switches), text=self)


@dataclass
class Reply:
    """One reply that is about to be sent.

    Attributes:
        number: of the request, from 1.
        path: of the request.
        query: the body of the request.
        status: HTTP status; 0 to close the connection.
        answer: the JSON, or the bytes themselves.
        headers: further headers.
        cut: bytes that are not sent, although Content-Length counts them.
    """

    number: int
    path: str
    query: dict[str, Any]
    status: int
    answer: Any
    headers: dict[str, str] = field(default_factory=dict)
    cut: int = 0

    @property
    def choice(self) -> dict[str, Any]:
        """The first choice of an answer; an empty one where there is none."""
        choices = self.answer.get("choices") if isinstance(self.answer, dict) else None
        return choices[0] if choices else {}

    @property
    def is_generated(self) -> bool:
        """Whether this answers a query for text."""
        return bool(self.choice)


Trouble = Callable[[Reply], None]


class HostileEndpoint:
    """A context manager that serves a stub over a socket, with its replies changed."""

    def __init__(self, stub: Stub, trouble: Trouble | None = None):
        self.stub = stub
        self.trouble = trouble
        self.requests = 0

    def __enter__(self) -> "HostileEndpoint":
        endpoint = self

        class Handler(_Handler):
            served = endpoint

        self._server = _QuietServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _QuietServer(ThreadingHTTPServer):
    def handle_error(self, *_: object) -> None:
        """A client that stops listening is no error."""


class _Handler(BaseHTTPRequestHandler):
    served: HostileEndpoint
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, *_: object) -> None:
        """Keep the test output quiet."""

    def do_GET(self) -> None:
        self._send({})

    def do_POST(self) -> None:
        self._send(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

    def _send(self, query: dict[str, Any]) -> None:
        served = self.served
        status, answer = served.stub.respond(self.path, query, None)
        served.requests += 1
        reply = Reply(served.requests, self.path, query, status, answer)
        if served.trouble is not None:
            served.trouble(reply)
        if reply.status == 0:
            self.close_connection = True
            return
        data = reply.answer
        data = data if isinstance(data, bytes) else json.dumps(data).encode()
        self.send_response(reply.status)
        headers = {"Content-Type": "application/json", "Content-Length": str(len(data))}
        for name, value in (headers | reply.headers).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data[: len(data) - reply.cut])
        self.close_connection = self.close_connection or bool(reply.cut)


Change = Callable[[Any], Any]


def on_answers(change: Callable[[Reply], None]) -> Trouble:
    """Change the replies that are answers to a query for text."""

    def trouble(reply: Reply) -> None:
        if reply.is_generated:
            change(reply)

    return trouble


def set_fields(**fields: Any) -> Trouble:
    """Replace fields of the answers."""
    return on_answers(lambda reply: reply.answer.update(fields))


def set_text(text: Any) -> Trouble:
    """Replace the generated text."""

    def change(reply: Reply) -> None:
        if "message" in reply.choice:
            reply.choice["message"]["content"] = text
        else:
            reply.choice["text"] = text

    return on_answers(change)


def send(answer: Any, status: int = 200, every: int = 1, **headers: str) -> Trouble:
    """Answer every n-th query in this way."""

    def trouble(reply: Reply) -> None:
        if reply.path.endswith("completions") and reply.number % every == 0:
            reply.answer, reply.status = answer, status
            reply.headers |= {name.replace("_", "-"): value for name, value in headers.items()}

    return trouble


def change_scores(change: Change) -> Trouble:
    """Change every log-probability."""

    def edit(reply: Reply) -> None:
        found = reply.choice.get("logprobs") or {}
        for position in found.get("content", ()):
            for entry in (position, *position["top_logprobs"]):
                entry["logprob"] = change(entry["logprob"])
        if "tokens" in found:
            listed = found["token_logprobs"]
            found["token_logprobs"] = [None if v is None else change(v) for v in listed]
            found["top_logprobs"] = [
                top and {name: change(v) for name, v in top.items()}
                for top in found["top_logprobs"]
            ]

    return on_answers(edit)


def change_lists(change: Callable[[dict[str, Any]], None], echoed: bool = False) -> Trouble:
    """Change the lists of log-probabilities of a completion, or of an echoed prompt alone."""

    def edit(reply: Reply) -> None:
        found = reply.choice.get("logprobs") or {}
        if "tokens" in found and (reply.query.get("echo") or not echoed):
            change(found)

    return on_answers(edit)


def stream(
    before: bytes = b"",
    end: bytes = b"data: [DONE]\n\n",
    line_end: str = "\n",
    change: Callable[[list[Any]], list[Any]] = lambda events: events,
    refusal: str = "this endpoint answers in streams only: set stream to true",
) -> Trouble:
    """Refuse queries for anything but a stream, and answer the others by one."""

    def edit(reply: Reply) -> None:
        if not reply.query.get("stream"):
            reply.status, reply.answer = 400, {"error": {"message": refusal}}
            return
        choice = reply.choice
        chat = "message" in choice
        text = choice["message"]["content"] if chat else choice["text"]
        events: list[Any] = [
            {
                "choices": [
                    {"index": 0, "logprobs": logprobs}
                    | ({"delta": {"content": part}} if chat else {"text": part})
                ]
            }
            for part, logprobs in ((text[:1], choice["logprobs"]), (text[1:], None))
        ]
        lines = [f"data: {json.dumps(event)}{line_end}{line_end}" for event in change(events)]
        reply.answer = before + "".join(lines).encode() + end

    return on_answers(edit)


def route(stub: Stub, when: Callable[[int], bool]) -> Trouble:
    """Let another stub answer the requests whose number from now on `when` accepts."""
    count = 0

    def edit(reply: Reply) -> None:
        nonlocal count
        count += 1
        if when(count):
            reply.status, reply.answer = stub.respond(reply.path, reply.query, None)

    return on_answers(edit)
