"""Two targets that read whole models: a folder of files, and a repository of a hostile Hub.

They reach what no single parser does: sources, adapters, schemes of quantisation, tokenizers that
run, and what is done with a server's answers. The oracles are huref's own promises: a tensor has
the shape that was announced, its rows are the same read alone, and what a Hub with odd headers
sends is either refused or equal to the files.
"""

import contextlib
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor

from huref.errors import HurefError
from huref.loader.checkpoint import Checkpoint, open_checkpoint
from scripts.fuzz.folders import safetensors_file, sections, write_folder

MOST_TENSORS = 40
MOST_VALUES = 1 << 20  # of a tensor that is read
MOST_REQUESTS = 60  # of one input
TOKEN = "hf_0123456789"
MODEL = safetensors_file(b"a F32 4,8\nb F16 3\nc BF16 2,2,2\n")
COMMIT = "0123456789abcdef0123456789abcdef01234567"


class BrokenPromiseError(AssertionError):
    """A model was read otherwise than huref promises."""


def read_folder(data: bytes, folder: Path) -> None:
    """Read all of a folder that an input describes; `base/` in it is an adapter's base.

    Raises:
        BrokenPromiseError: rows or shapes differ from those of the whole tensor.
        HurefError: it is refused.
    """
    import huggingface_hub.constants as constants

    write_folder(data, folder)
    is_adapter = (folder / "adapter_config.json").exists()
    with mock.patch.object(constants, "HF_HUB_OFFLINE", True):  # an adapter's base may be anywhere
        checkpoint = open_checkpoint(str(folder), str(folder / "base") if is_adapter else "")
        for look in (_config, _vocabulary, _describe):
            with contextlib.suppress(HurefError):
                look(checkpoint)
        for name in sorted(checkpoint.names)[:MOST_TENSORS]:
            with contextlib.suppress(HurefError):
                _read(checkpoint, name)
        for name in checkpoint.names_beside[:3]:
            checkpoint.read_beside(name)


def _config(checkpoint: Checkpoint) -> None:
    _ = checkpoint.config
    checkpoint.estimate_bytes(2)


def _vocabulary(checkpoint: Checkpoint) -> None:
    tokens = checkpoint.vocabulary
    encoder = checkpoint.encoder
    if encoder is not None:
        for token in tokens[:20]:
            encoder.emits(token)
        encoder.encode("A text. 12")


def _describe(checkpoint: Checkpoint) -> None:
    checkpoint.describe_files()


def _read(checkpoint: Checkpoint, name: str) -> None:
    shape = checkpoint.entry(name).shape
    if torch.Size(shape).numel() > MOST_VALUES:
        return
    whole = checkpoint.read([name])[name]
    if tuple(whole.shape) != tuple(shape):
        raise BrokenPromiseError(f"{name!r} has the shape {tuple(whole.shape)}, not {shape}")
    if whole.ndim >= 1 and len(whole):
        rows = [len(whole) - 1, 0]
        if not _are_equal(checkpoint.read_rows(name, rows), whole[rows]):
            raise BrokenPromiseError(f"other rows of {name!r}")
        checkpoint.read_sample(name, 2)


def _are_equal(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors are equal up to rounding; nan and infinity equal themselves."""
    if one.shape != other.shape or one.dtype != other.dtype:
        return False
    return torch.allclose(one.double(), other.double(), rtol=1e-4, atol=1e-6, equal_nan=True)


def read_hub(data: bytes, home: Path) -> None:
    """Read a repository of three tensors from a Hub whose answers an input describes.

    A section's first line is a status, with `own` where the body after an empty line is sent in
    place of what was asked for; the lines after it are headers, which replace or, without a value,
    drop those of a good answer. The last section answers all further requests.

    Raises:
        BrokenPromiseError: other bytes than the file's were read, or another server got the token.
        HurefError: it is refused.
    """
    from huggingface_hub import constants

    hub = _Hub(list(sections(data)))
    shutil.rmtree(home, ignore_errors=True)
    with (
        _answered_by(hub),
        mock.patch.object(constants, "ENDPOINT", "https://93.184.215.14"),
        mock.patch.object(constants, "HUGGINGFACE_CO_URL_TEMPLATE",
                          "https://93.184.215.14/{repo_id}/resolve/{revision}/{filename}"),
        mock.patch.object(constants, "HF_ASSETS_CACHE", str(home)),
        mock.patch.object(constants, "HF_HUB_CACHE", str(home / "hub")),
        mock.patch.dict(os.environ, {"HF_TOKEN": TOKEN}),
        _no_waiting(),
    ):  # fmt: skip
        checkpoint = open_checkpoint("org/tiny")
        found = checkpoint.read(list(checkpoint.names)[:MOST_TENSORS])
    if not hub.sent_own and not _are_the_files(found):
        raise BrokenPromiseError("other tensors than the file's were read")
    if hub.told:
        raise BrokenPromiseError(f"{hub.told} got the token")


@contextlib.contextmanager
def _answered_by(hub: "_Hub") -> Iterator[None]:
    """All requests of the Hub's library are answered by this hub."""
    from huggingface_hub import set_client_factory
    from huggingface_hub.utils import _http, close_session, httpx

    transport = httpx.MockTransport(hub.answer)
    set_client_factory(lambda: httpx.Client(transport=transport, follow_redirects=True))
    close_session()
    try:
        yield
    finally:
        set_client_factory(_http.default_client_factory)
        close_session()


@contextlib.contextmanager
def _no_waiting() -> Iterator[None]:
    """Waits between attempts take no time, and a limiter of requests learns of no other input."""
    from huref.loader.hub import rate

    limiter = rate.RateLimiter()
    previous = rate.share(limiter)
    try:
        with (
            mock.patch.object(time, "sleep"),
            mock.patch.object(limiter, "acquire"),
            mock.patch("huref.loader.hub.file.tqdm.write"),
        ):
            yield
    finally:
        rate.share(previous)


def _are_the_files(found: dict[str, Tensor]) -> bool:
    from safetensors.torch import load

    expected = load(MODEL)
    return all(
        name in expected and torch.equal(tensor.nan_to_num(7), expected[name].nan_to_num(7))
        for name, tensor in found.items()
    )


class _Hub:
    """Answers each request by a section of an input."""

    def __init__(self, answers: list[tuple[bytes, bytes]]):
        self._answers = answers
        self._asked = 0
        self.sent_own = False  # whether an answer had a body of its own
        self.told = ""  # the host of another server that got the token

    def answer(self, request: Any) -> Any:
        """The next answer; see `read_hub`."""
        from huggingface_hub.utils import httpx

        self._asked += 1
        if not self._answers or self._asked > MOST_REQUESTS:
            raise httpx.ConnectError("the server is gone", request=request)
        if request.url.host != "93.184.215.14" and TOKEN in str(request.headers):
            self.told = request.url.host
        head, rest = self._answers[min(self._asked, len(self._answers)) - 1]
        status, _, kind = head.decode("latin-1").partition(" ")
        lines, _, own = (b"\n" + rest).partition(b"\n\n")
        code, headers, body = self._good(request)
        if kind.strip() == "own":
            self.sent_own, body = True, own
            headers.pop("content-length", None)
        _replace(headers, lines)
        if status.isdecimal() and 100 <= int(status[:3]) < 600:
            code = int(status[:3])
        raw = [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]
        return httpx.Response(code, headers=raw, content=iter([body]))

    @staticmethod
    def _good(request: Any) -> tuple[int, dict[str, str], bytes]:
        """Status, headers and body as the Hub sends them."""
        if "/api/" in request.url.path:
            described = (
                b'{"id":"org/tiny","sha":"%s","siblings":[{"rfilename":"config.json","size":24},'
                b'{"rfilename":"model.safetensors","size":%d}]}' % (COMMIT.encode(), len(MODEL))
            )
            return 200, {"content-length": str(len(described))}, described
        data = b'{"model_type": "llama" }' if request.url.path.endswith("config.json") else MODEL
        wanted = request.headers.get("range", "bytes=0-0").removeprefix("bytes=")
        first, last = map(int, wanted.split("-"))
        part = data[first : last + 1]
        stated = f"bytes {first}-{first + len(part) - 1}/{len(data)}"
        return 206, {"etag": '"one"', "content-range": stated, "content-length": str(len(part)),
                     "x-repo-commit": COMMIT}, part  # fmt: skip


def _replace(headers: dict[str, str], lines: bytes) -> None:
    for line in lines.decode("latin-1").split("\n")[:20]:
        name, colon, value = line.partition(":")
        name = name.strip().lower()
        if not colon or not name.isascii() or not name.replace("-", "").isalnum():
            continue
        if value.strip():
            headers[name] = value.strip()
        else:
            headers.pop(name, None)
