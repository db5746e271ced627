"""A loopback Hub with rate limits, a listing of models, and random faults."""

import json
import random
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import numpy as np
from safetensors.numpy import save_file

from tests.support.hub_server import Handler, LoopbackHub
from tests.support.small_models import some_words, write_tokenizer

PAGE = 3  # models per page of the listing
WIDTH, HIDDEN, BLOCKS, VOCABULARY = 64, 96, 3, 2048


@dataclass
class FleetHub(LoopbackHub):
    """Counts requests in windows, like the Hub, and states in each response what is left."""

    limits: dict[str, tuple[int, int]] = field(default_factory=dict)  # kind: requests, seconds
    faults: dict[str, float] = field(
        default_factory=dict
    )  # "429", "503", "cut": their probabilities
    seen: dict[str, int] = field(default_factory=dict)  # faults that happened, and "over" limits
    windows: dict[str, tuple[float, int]] = field(default_factory=dict)  # kind: begin, requests
    lock: threading.Lock = field(default_factory=threading.Lock)
    chance: random.Random = field(default_factory=lambda: random.Random(7))

    def handler(self) -> type[Handler]:
        """See LoopbackHub."""
        return _FleetHandler

    def count(self, kind: str) -> tuple[int, int]:
        """Requests left in a kind's window (negative if exceeded), and seconds to its end."""
        allowed, seconds = self.limits[kind]
        with self.lock:
            now = time.monotonic()
            began, used = self.windows.get(kind, (now, 0))
            if now >= began + seconds:
                began, used = now, 0
            self.windows[kind] = began, used + 1
            return allowed - used - 1, max(round(began + seconds - now + 0.5), 1)

    def fault(self, kind: str) -> str | None:
        """The fault of the next response, or None."""
        with self.lock:
            roll = self.chance.random()
            for name, share in self.faults.items():
                if roll < share and (name != "cut" or kind == "resolvers"):
                    self.seen[name] = self.seen.get(name, 0) + 1
                    return name
                roll -= share
        return None


class _FleetHandler(Handler):
    server_hub: FleetHub
    stated: tuple[str, int, int] | None = None

    def end_headers(self) -> None:
        if self.stated is not None:
            kind, left, seconds = self.stated
            allowed, window = self.server_hub.limits[kind]
            self.send_header("RateLimit", f'"{kind}";r={max(left, 0)};t={seconds}')
            self.send_header("RateLimit-Policy", f'"fixed window";"{kind}";q={allowed};w={window}')
        super().end_headers()

    def do_GET(self) -> None:  # noqa: N802
        hub, path = self.server_hub, urlsplit(self.path).path
        self._ignore_case()
        kind = "api" if path.startswith("/api/") else "resolvers"
        self.stated = None
        if kind in hub.limits:
            left, seconds = hub.count(kind)
            self.stated = kind, left, seconds
            if left < 0:
                hub.seen["over"] = hub.seen.get("over", 0) + 1
                self._answer(429)
                return
        match hub.fault(kind):
            case "429":
                self.stated = None
                self._answer(429, b"", Retry_After="0.2")
            case "503":
                self._answer(503, b"", Retry_After="0.1")
            case "cut":
                hub.cut_after = 2000
                super().do_GET()
            case _ if path == "/api/models":
                self._list()
            case _:
                super().do_GET()

    do_HEAD = do_GET  # noqa: N815

    def _ignore_case(self) -> None:
        prefix = "/api/models/" if self.path.startswith("/api/models/") else "/"
        parts = self.path.removeprefix(prefix).split("/")
        requested = "/".join(parts[:2]).partition("?")[0]
        canonical = {name.lower(): name for name in self.server_hub.repositories}
        name = canonical.get(requested.lower(), requested)
        self.path = prefix + name + self.path.removeprefix(prefix)[len(requested) :]

    def _list(self) -> None:
        query = parse_qs(urlsplit(self.path).query)
        author = query.get("author", [""])[0]
        start = int(query.get("cursor", ["0"])[0])
        named = [
            (name, repository)
            for name, repository in self.server_hub.repositories.items()
            if name.startswith(author)
        ]
        body = [{"id": name, "sha": r.commit} for name, r in named[start : start + PAGE]]
        headers = {"Content_Type": "application/json"}
        if start + PAGE < len(named):
            rest = f"{self.server_hub.url}/api/models?author={author}&cursor={start + PAGE}"
            headers["Link"] = f'<{rest}>; rel="next"'
        self._answer(200, json.dumps(body).encode(), **headers)


def write_small_llama(folder: Path, seed: int) -> Path:
    """A Llama of random numbers, about 1.4 MB, written without transformers."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(seed)

    def matrix(*shape: int) -> "np.ndarray":
        return (rng.standard_normal(shape) * 0.05).astype(np.float32)

    tensors = {"model.embed_tokens.weight": matrix(VOCABULARY, WIDTH)}
    for i in range(BLOCKS):
        block = f"model.layers.{i}"
        for name in "qkvo":
            tensors[f"{block}.self_attn.{name}_proj.weight"] = matrix(WIDTH, WIDTH)
        tensors[f"{block}.mlp.gate_proj.weight"] = matrix(HIDDEN, WIDTH)
        tensors[f"{block}.mlp.up_proj.weight"] = matrix(HIDDEN, WIDTH)
        tensors[f"{block}.mlp.down_proj.weight"] = matrix(WIDTH, HIDDEN)
        for name in ("input", "post_attention"):
            tensors[f"{block}.{name}_layernorm.weight"] = np.ones(WIDTH, np.float32)
    tensors["model.norm.weight"] = np.ones(WIDTH, np.float32)
    save_file(tensors, folder / "model.safetensors")
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": VOCABULARY,
        "hidden_size": WIDTH,
        "intermediate_size": HIDDEN,
        "num_hidden_layers": BLOCKS,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "rms_norm_eps": 1e-6,
        "tie_word_embeddings": True,
    }
    (folder / "config.json").write_text(json.dumps(config))
    write_tokenizer(folder, some_words(VOCABULARY))
    return folder
