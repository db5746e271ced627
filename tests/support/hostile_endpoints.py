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

V = 120  # tokens of `WordModel`


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
