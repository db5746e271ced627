"""Answers of an endpoint: one generated token each, with the log-probabilities it returned.

Every answer is stored in an SQLite file as soon as it arrives. An interrupted measurement resumes
from there and sends no query twice.
"""

import hashlib
import json
import math
import re
import sqlite3
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from huref.errors import EndpointError
from huref.files import make_private

_TOKEN_ID = re.compile(r"token_id:(\d{1,10})")
_MINUS_INFINITY = -9000.0  # servers write -9999 for log 0


@dataclass(frozen=True)
class TokenAnswer:
    """The first token that an endpoint generated.

    Attributes:
        text: the generated text.
        by_id: token id -> log-probability (nat), where the server names ids.
        by_text: text or bytes of a token -> log-probability, where it does not name ids.
    """

    text: str
    by_id: dict[int, float] = field(default_factory=dict)
    by_text: dict[str, float] = field(default_factory=dict)

    @property
    def count(self) -> int:
        """Number of tokens that have a log-probability."""
        return max(len(self.by_id), len(self.by_text))

    @property
    def best(self) -> str | int:
        """Id or text of the most probable token; the generated text without log-probabilities."""
        if self.by_id:
            return max(self.by_id, key=self.by_id.__getitem__)
        if self.by_text:
            return max(self.by_text, key=self.by_text.__getitem__)
        return self.text

    def of(self, token: int, name: str | int | None) -> float | None:
        """Log-probability of a token, by its id or else by the name that answers give it."""
        found = self.by_id.get(token)
        return self.by_text.get(str(name)) if found is None else found


def parse_answer(payload: Any) -> TokenAnswer:
    """Parse a response of /completions or /chat/completions from OpenAI, vLLM or llama.cpp.

    Raises:
        EndpointError: it has no choices, or a log-probability that is not a number.
    """
    try:
        choice = payload["choices"][0]
        message = choice.get("message")
        text = str((message or {}).get("content") or "" if message else choice.get("text") or "")
        logprobs = choice.get("logprobs") or {}
        entries: dict[str | int, Any] = {}
        if logprobs.get("content"):  # chat, and llama.cpp for both
            position = logprobs["content"][0]
            for entry in [position, *(position.get("top_logprobs") or [])]:
                entries[_name_entry(entry)] = entry["logprob"]
        elif logprobs.get("tokens"):
            entries[_name_text(logprobs["tokens"][0])] = logprobs["token_logprobs"][0]
            for token, value in ((logprobs.get("top_logprobs") or [None])[0] or {}).items():
                entries[_name_text(token)] = value
        values = {name: _number(value) for name, value in entries.items()}
    except (KeyError, IndexError, TypeError, AttributeError, ValueError, OverflowError) as error:
        raise EndpointError(
            "the response is not that of an OpenAI-compatible server "
            f"({type(error).__name__}: {str(error)[:200]})",
            advice="give the base URL that ends in /v1",
        ) from error
    kept = {name: value for name, value in values.items() if value > _MINUS_INFINITY}
    return TokenAnswer(
        text,
        {name: value for name, value in kept.items() if isinstance(name, int)},
        {name: value for name, value in kept.items() if isinstance(name, str)},
    )


def _name_entry(entry: Mapping[str, Any]) -> str | int:
    if isinstance(entry.get("id"), int):
        return int(entry["id"])
    if _TOKEN_ID.fullmatch(str(entry["token"])):
        return _name_text(entry["token"])
    if text := entry.get("bytes"):  # different tokens may all be shown as a replacement character
        if not isinstance(text, list) or not all(type(n) is int and 0 <= n < 256 for n in text):
            raise TypeError("the bytes of a token are no list of bytes")
        return "bytes:" + bytes(text).hex()
    return str(entry["token"])


def _name_text(token: str) -> str | int:
    match = _TOKEN_ID.fullmatch(token)
    return int(match.group(1)) if match else token


# Some servers return logits as log-probabilities; those are smaller, and e^x does not overflow.
LARGEST = 700.0  # nat


def _number(value: Any) -> float:
    number = float("nan") if value is None else float(value)
    if math.isnan(number) or number > LARGEST:
        raise EndpointError(
            f"a log-probability is {number}, so the model behind the endpoint is broken"
        )
    return number


class AnswerStore:
    """Answers by query, in an SQLite file, or in memory if no path is given."""

    def __init__(self, path: Path | None = None):
        self.path = path
        try:
            if path:
                path.parent.mkdir(parents=True, exist_ok=True)
                make_private(path)
            self._file = sqlite3.connect(path or ":memory:", isolation_level=None)
            self._file.execute("PRAGMA synchronous=OFF")
            self._file.execute("CREATE TABLE IF NOT EXISTS answers (key TEXT PRIMARY KEY, value)")
        except sqlite3.Error as error:
            raise EndpointError(f"answers cannot be stored there ({error})", file=path) from error

    @staticmethod
    def key(*parts: Any) -> str:
        """The key of a query: a digest of its parts."""
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:32]

    def get(self, key: str) -> TokenAnswer | None:
        """The stored answer to a query, or None."""
        row = self._file.execute("SELECT value FROM answers WHERE key = ?", (key,)).fetchone()
        if row is None:
            return None
        data = json.loads(row[0])
        by_id = {int(token): value for token, value in data["by_id"].items()}
        return TokenAnswer(data["text"], by_id, data["by_text"])

    def put(self, key: str, answer: TokenAnswer) -> None:
        """Store an answer."""
        row = (key, json.dumps(asdict(answer)))
        self._file.execute("INSERT OR REPLACE INTO answers VALUES (?, ?)", row)

    def close(self) -> None:
        """Close the file."""
        self._file.close()
