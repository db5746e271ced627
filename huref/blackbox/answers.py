"""Answers of an endpoint: one generated token each, with the log-probabilities it returned.

Every answer is stored in an SQLite file as soon as it arrives. An interrupted measurement resumes
from there and sends no query twice.
"""

import hashlib
import json
import math
import re
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from huref.bounded_json import loads
from huref.errors import EndpointError, one_line
from huref.files import make_private

_TOKEN_ID = re.compile(r"token_id:(\d{1,10})")
_MINUS_INFINITY = -9000.0  # servers write -9999 for log 0


TokenScore = tuple[str | int, float | None]  # a token's name and its log-probability


class UnreadableError(EndpointError):
    """A response that is not that of an OpenAI-compatible server."""


class VanishedError(EndpointError):
    """A response with status 200 that lacks a field that the endpoint used to give."""


@dataclass(frozen=True)
class TokenAnswer:
    """The tokens that an endpoint generated; log-probabilities are those of the first one.

    Attributes:
        text: the generated text.
        by_id: token id -> log-probability (nat), where the server names ids.
        by_text: text or bytes of a token -> log-probability, where it does not name ids.
        generated: every generated token and its log-probability.
        prompt: every token of the prompt and its log-probability; None for the first.
        prompt_tokens: number of tokens of the prompt that the endpoint counted.
        used: number of tokens in all that the endpoint counted.
        served: what the answer names as its model and the fingerprint of its system, in words.
    """

    text: str
    by_id: dict[int, float] = field(default_factory=dict)
    by_text: dict[str, float] = field(default_factory=dict)
    generated: tuple[TokenScore, ...] = ()
    prompt: tuple[TokenScore, ...] = ()
    prompt_tokens: int | None = None
    used: int | None = None
    served: str = ""

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


def parse_answer(payload: Any, echo: bool = False) -> TokenAnswer:
    """Parse a response of /completions or /chat/completions from OpenAI, vLLM or llama.cpp.

    Args:
        payload: the JSON.
        echo: whether the query asked for the prompt's tokens in front of the generated ones.

    Raises:
        UnreadableError: it has no choices.
        EndpointError: a log-probability is not a number.
    """
    try:
        choice = payload["choices"][0]
        message = choice.get("message")
        text = str((message or {}).get("content") or "" if message else choice.get("text") or "")
        prompt_tokens, generated_tokens, used = read_usage(payload)
        logprobs = choice.get("logprobs") or {}
        tops: list[dict[str | int, Any]] = []
        sequence: list[tuple[str | int, Any]] = []
        if logprobs.get("content"):  # chat, and llama.cpp for both
            for position in logprobs["content"]:
                sequence.append((_name_entry(position), position["logprob"]))
                others = position.get("top_logprobs") or []
                tops.append({_name_entry(entry): entry["logprob"] for entry in others})
        elif logprobs.get("tokens"):
            tokens = [_name_text(token) for token in logprobs["tokens"]]
            sequence = list(zip(tokens, logprobs["token_logprobs"], strict=True))
            listed = logprobs.get("top_logprobs") or [None] * len(tokens)
            tops = [{_name_text(t): v for t, v in (top or {}).items()} for top in listed]
        prompt = _read_prompt_logprobs(payload, choice)
        if echo and sequence:
            # A server that ends at once generates nothing, which only its usage tells.
            end = len(sequence) - (1 if generated_tokens is None else generated_tokens)
            prompt, sequence, tops = sequence[:end], sequence[end:], tops[end:]
        entries = {} if not sequence else dict([sequence[0]]) | (tops[0] if tops else {})
        values = {name: _number(value) for name, value in entries.items()}
        scores = [
            tuple((name, None if v is None else _number(v)) for name, v in part)
            for part in (sequence, prompt)
        ]
    except (KeyError, IndexError, TypeError, AttributeError, ValueError, OverflowError) as error:
        raise UnreadableError(
            "the response is not that of an OpenAI-compatible server "
            f"({type(error).__name__}: {str(error)[:200]})",
            advice="give the base URL that ends in /v1",
        ) from error
    kept = {name: value for name, value in values.items() if value > _MINUS_INFINITY}
    return TokenAnswer(
        text,
        {name: value for name, value in kept.items() if isinstance(name, int)},
        {name: value for name, value in kept.items() if isinstance(name, str)},
        scores[0],
        scores[1],
        prompt_tokens,
        used,
        _read_served(payload),
    )


def _read_served(payload: Any) -> str:
    """What an answer names as its model, and the fingerprint of its system, if it names them."""
    named = [payload.get(field) for field in ("model", "system_fingerprint")]
    return " ".join(one_line(name)[:80] for name in named if isinstance(name, str) and name)


def read_usage(payload: Any) -> tuple[int | None, int | None, int | None]:
    """Numbers of tokens that a response counts: of the prompt, generated, and in all.

    None for what it does not count, or not by a number. A total that is not given, or smaller than
    its parts, is their sum.
    """
    usage = payload.get("usage") if isinstance(payload, dict) else None
    given = usage if isinstance(usage, dict) else {}
    counts = [_count(given.get(f"{kind}_tokens")) for kind in ("prompt", "completion", "total")]
    parts = [count for count in counts[:2] if count is not None]
    total = max(counts[2] or 0, sum(parts)) if parts or counts[2] is not None else None
    return counts[0], counts[1], total


def _count(value: Any) -> int | None:
    """A number of tokens; None for anything else."""
    if type(value) not in (int, float) or not 0 <= value < math.inf:
        return None
    return int(value)


def _read_prompt_logprobs(payload: Any, choice: Any) -> list[tuple[str | int, Any]]:
    """The prompt's tokens from vLLM's prompt_logprobs, whose entries begin with the token."""
    found = choice.get("prompt_logprobs") or payload.get("prompt_logprobs") or []
    scores: list[tuple[str | int, Any]] = []
    for position in found:
        if not position:
            scores.append(("", None))
            continue
        name, entry = next(iter(position.items()))
        scores.append((int(name) if name.isdigit() else name, entry["logprob"]))
    return scores


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
    if type(value) is bool:
        raise TypeError("a log-probability is true or false")
    number = float("nan") if value is None else float(value)
    if math.isnan(number) or number > LARGEST:
        raise EndpointError(
            f"a log-probability is {number}, so the model behind the endpoint is broken"
        )
    return number


def _stored(data: dict[str, Any]) -> TokenAnswer:
    """An answer as `AnswerStore.put` wrote it."""
    return TokenAnswer(
        str(data["text"]),
        {int(token): float(value) for token, value in data["by_id"].items()},
        {str(token): float(value) for token, value in data["by_text"].items()},
        tuple((name, value) for name, value in data.get("generated", ())),
        tuple((name, value) for name, value in data.get("prompt", ())),
        data.get("prompt_tokens"),
        data.get("used"),
        str(data.get("served", "")),
    )


class AnswerStore:
    """Answers by query, in an SQLite file, or in memory if no path is given."""

    def __init__(self, path: Path | None = None):
        self.path = path
        with self._explained("answers cannot be stored there"):
            if path:
                path.parent.mkdir(parents=True, exist_ok=True)
                make_private(path)
            self._file = sqlite3.connect(path or ":memory:", isolation_level=None)
            self._file.execute("PRAGMA synchronous=OFF")
            for table in ("answers", "facts"):
                self._file.execute(
                    f"CREATE TABLE IF NOT EXISTS {table} (key TEXT PRIMARY KEY, value)"
                )

    @staticmethod
    def key(*parts: Any) -> str:
        """The key of a query: a digest of its parts."""
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:32]

    def get(self, key: str) -> TokenAnswer | None:
        """The stored answer to a query; None where there is none that can be read."""
        try:
            return _stored(self._read("answers", key))
        except (ValueError, TypeError, KeyError, AttributeError):
            return None

    def put(self, key: str, answer: TokenAnswer) -> None:
        """Store an answer."""
        self._write("answers", key, json.dumps(asdict(answer)))

    def recall(self, key: str) -> Any:
        """What `remember` stored under a key; None where it is nothing that can be read."""
        try:
            return self._read("facts", key)
        except ValueError:
            return None

    def _read(self, table: str, key: str) -> Any:
        """The JSON value of a row, or None. Raises ValueError where it is no JSON."""
        with self._explained("it holds no stored answers"):
            query = f"SELECT value FROM {table} WHERE key = ?"
            row = self._file.execute(query, (key,)).fetchone()
        return loads(row[0], constants=True) if row and isinstance(row[0], str) else None

    def remember(self, key: str, fact: Any) -> None:
        """Store a fact about the endpoint, in JSON; None deletes it."""
        if fact is not None:
            self._write("facts", key, json.dumps(fact))
            return
        with self._explained("answers cannot be stored there"):
            self._file.execute("DELETE FROM facts WHERE key = ?", (key,))

    def _write(self, table: str, key: str, value: str) -> None:
        with self._explained("answers cannot be stored there"):
            self._file.execute(f"INSERT OR REPLACE INTO {table} VALUES (?, ?)", (key, value))

    @contextmanager
    def _explained(self, what: str) -> Iterator[None]:
        """Turn errors of the disk and of SQLite into EndpointErrors."""
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            raise EndpointError(f"{what} ({one_line(error)})", file=self.path) from error

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def count_answers(path: Path) -> int:
    """Number of answers in a store's file; 0 if there is none. Creates nothing."""
    if not path.is_file():
        return 0
    try:
        file = sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)
        try:
            return int(file.execute("SELECT COUNT(*) FROM answers").fetchone()[0])
        finally:
            file.close()
    except sqlite3.Error as error:
        raise EndpointError(f"it holds no stored answers ({error})", file=path) from error
