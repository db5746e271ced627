"""A Hub, mirror, proxy or captive portal that answers wrongly, slowly or with other files."""

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import huref
from huref.errors import HurefError, NetworkError
from huref.loader.checkpoint import open_checkpoint
from huref.loader.hub import answers, file, rate
from huref.loader.hub.addresses import is_private
from huref.loader.hub.answers import ChangedFileError, check_range
from huref.loader.hub.rate import RateLimiter
from tests.support.hub_server import Handler, LoopbackHub

MakeModel = Callable[..., Path]
Headers = dict[str, str | None]


class Tampering(LoopbackHub):
    """A Hub whose answers about files a function may change; None as a value drops a header."""

    def __init__(self, tamper: Callable[[int, Headers], bytes | None]) -> None:
        super().__init__()
        self.tamper = tamper
        self.answered = 0

    def handler(self) -> type[Handler]:
        return _TamperingHandler


class _TamperingHandler(Handler):
    """Collects a file's answer, has it changed, and sends it."""

    def _file(self, path: str) -> None:
        hub = self.server_hub
        assert isinstance(hub, Tampering)
        name, _, rest = path.partition("/resolve/")
        data = (hub.repositories[name].folder / rest.partition("/")[2]).read_bytes()
        first, last = map(int, (self.headers["Range"] or "bytes=0-0")[6:].split("-"))
        body = data[first : last + 1]
        headers: Headers = {
            "ETag": '"one"',
            "Content-Range": f"bytes {first}-{first + len(body) - 1}/{len(data)}",
            "Content-Length": str(len(body)),
        }
        hub.answered += 1
        changed = hub.tamper(hub.answered, headers)
        self.send_response(206)
        for key, value in headers.items():
            if value is not None:
                self.send_header(key, value)
        self.end_headers()
        self.wfile.write(body if changed is None else changed)


@pytest.fixture
def tampering(hub: LoopbackHub, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Any]]:
    """A function that starts a tampering Hub, which the client is set to use."""
    from huggingface_hub import constants

    started: list[Tampering] = []

    def start(folder: Path, tamper: Callable[[int, Headers], bytes | None]) -> Tampering:
        server = Tampering(tamper).__enter__()
        server.add("org/tiny", folder)
        started.append(server)
        monkeypatch.setattr(constants, "ENDPOINT", server.url)
        template = server.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        return server

    yield start
    for server in started:
        server.__exit__()


def _shift(text: str | None) -> str:
    first, rest = str(text).removeprefix("bytes ").split("-", 1)
    last, size = rest.split("/")
    return f"bytes {int(first) + 1}-{int(last) + 1}/{size}"


WRONG: dict[str, tuple[Callable[[Headers], None], str]] = {
    "another range": (lambda h: h.update({"Content-Range": _shift(h["Content-Range"])}), "sends"),
    "no range": (lambda h: h.update({"Content-Range": None}), "no range"),
    "an odd range": (lambda h: h.update({"Content-Range": "bytes */*"}), "asked for"),
    "a huge range": (lambda h: h.update({"Content-Range": "bytes 0-9/" + "9" * 400}), "asked for"),
    "another size": (
        lambda h: h.update({"Content-Range": str(h["Content-Range"]) + "7"}),
        "the Hub lists",
    ),
    "compressed": (lambda h: h.update({"Content-Encoding": "gzip"}), "the encoding 'gzip'"),
    "brotli": (lambda h: h.update({"Content-Encoding": "br"}), "the encoding 'br'"),
    "another commit": (lambda h: h.update({"X-Repo-Commit": "f" * 40}), "at the commit"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_an_answer_that_is_not_what_was_asked_for_is_refused(
    kind: str, tampering: Callable[..., Tampering], make_llama: MakeModel
) -> None:
    change, wanted = WRONG[kind]
    tampering(make_llama("model"), lambda _, headers: change(headers))
    with pytest.raises(NetworkError, match=wanted) as caught:
        _ = open_checkpoint("org/tiny").names
    assert "\n" not in str(caught.value)


def test_a_file_that_changes_once_is_read_again_from_the_start(
    tampering: Callable[..., Tampering], make_llama: MakeModel, tmp_path: Path
) -> None:
    folder = make_llama("model")

    def tamper(number: int, headers: Headers) -> None:
        headers["ETag"] = '"before"' if number <= 3 else '"after"'

    server = tampering(folder, tamper)
    found = huref.fingerprint("org/tiny")
    assert (found.latent == huref.fingerprint(folder).latent).all()
    assert server.answered > 4


def test_a_file_that_keeps_changing_is_refused(
    tampering: Callable[..., Tampering], make_llama: MakeModel
) -> None:
    server = tampering(make_llama("model"), lambda n, headers: headers.update(ETag=f'"{n}"'))
    with pytest.raises(ChangedFileError, match="changed while it was being read"):
        huref.fingerprint("org/tiny")
    assert server.answered < 12  # read twice, not over and over


def test_cached_headers_are_never_joined_with_another_state_of_the_file(
    tampering: Callable[..., Tampering], make_llama: MakeModel
) -> None:
    tag = ['"before"']
    tampering(make_llama("model"), lambda _, headers: headers.update(ETag=tag[0]))
    name = "model.layers.1.mlp.up_proj.weight"
    open_checkpoint("org/tiny").read([name])
    tag[0] = '"after"'
    with pytest.raises(ChangedFileError):
        open_checkpoint("org/tiny").read([name])
    open_checkpoint("org/tiny").read([name])  # what was cached is gone


DESCRIPTIONS: dict[str, bytes] = {
    "a page": b"<!DOCTYPE html><html><body>Sign in to the hotel's network</body></html>",
    "nothing": b"",
    "null": b"null",
    "a list": b"[]",
    "a text": b'"ok"',
    "a number": b"7",
    "odd files": b'{"siblings": 7}',
    "files of text": b'{"siblings": ["a"]}',
    "files without names": b'{"siblings": [{"size": 1}]}',
    "a negative size": b'{"siblings": [{"rfilename": "a", "size": -1}]}',
    "a fractional size": b'{"siblings": [{"rfilename": "a", "size": 1.5}]}',
    "a size in words": b'{"siblings": [{"rfilename": "a", "size": "big"}]}',
    "an infinite size": b'{"siblings": [{"rfilename": "a", "size": Infinity}]}',
    "an odd commit": b'{"sha": {"a": 1}, "siblings": []}',
    "an odd id": b'{"id": [], "siblings": []}',
    "deep": b'{"cardData":' * 5000,
    "cut short": b'{"siblings": [{"rfilename": "a"',
    "a lone surrogate": b'{"id": "\\ud800", "siblings": []}',
    "another alphabet": '{"siblings": []}'.encode("utf-16"),
}


@pytest.mark.parametrize("kind", DESCRIPTIONS)
def test_an_odd_description_of_a_model_is_one_line(
    kind: str, hub: LoopbackHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    def answer(self: Handler, rest: str) -> None:
        self._answer(200, DESCRIPTIONS[kind], Content_Type="text/html")

    monkeypatch.setattr(Handler, "_model_info", answer)
    with pytest.raises(NetworkError, match="describes no model") as caught:
        open_checkpoint("org/tiny")
    assert "\n" not in str(caught.value)


def test_a_compressed_or_endless_description_is_refused(
    hub: LoopbackHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    def compressed(self: Handler, rest: str) -> None:
        self._answer(200, b"\x1f\x8b", Content_Encoding="gzip")

    monkeypatch.setattr(Handler, "_model_info", compressed)
    with pytest.raises(NetworkError, match="the encoding 'gzip'"):
        open_checkpoint("org/tiny")
    monkeypatch.setattr(answers, "LARGEST_DESCRIPTION", 1000)
    monkeypatch.setattr(answers.body_of, "__defaults__", (1000,))
    monkeypatch.setattr(Handler, "_model_info", lambda self, rest: self._answer(200, bytes(2000)))
    with pytest.raises(NetworkError, match="more than 1,000 bytes"):
        open_checkpoint("org/tiny")


def test_another_commit_than_asked_for_is_refused(hub: LoopbackHub, make_llama: MakeModel) -> None:
    hub.add("org/tiny", make_llama("model"))
    commit = hub.repositories["org/tiny"].commit
    other = json.dumps({"sha": "e" * 40, "siblings": []}).encode()
    from huref.loader.hub.repository import _parse_description

    assert _parse_description(other, "main").commit == "e" * 40
    with pytest.raises(NetworkError, match="the Hub describes"):
        _parse_description(other, commit)


@pytest.mark.parametrize("seconds", ["1000000000", "1e300", "99999999999999999999"])
def test_a_retry_after_of_years_ends_the_reading(
    seconds: str, hub: LoopbackHub, make_llama: MakeModel
) -> None:
    hub.add("org/tiny", make_llama("model"))
    hub.retry_after = seconds
    hub.refuse_api_with = [429] * 9
    previous = rate.share(RateLimiter())
    began = time.monotonic()
    try:
        with pytest.raises(NetworkError, match="asks to wait"):
            open_checkpoint("org/tiny")
    finally:
        rate.share(previous)
    assert time.monotonic() - began < 30


def test_a_window_is_never_waited_for_longer_than_its_limit() -> None:
    now = [0.0]
    limiter = RateLimiter(clock=lambda: now[0])
    for odd in ("1e300", "1000000000", "nan", "-7", "inf", "tomorrow"):
        limiter.learn("api", 429, {"Retry-After": odd})
        assert 0 <= limiter.reserve("api") <= rate.LONGEST_WAIT
        now[0] += 2 * rate.LONGEST_WAIT
    limits = {"RateLimit": '"api";r=0;t=' + "9" * 150, "RateLimit-Policy": '"a";q=0;w=' + "9" * 150}
    limiter.learn("api", 429, limits)
    assert 0 <= limiter.reserve("api") <= rate.LONGEST_WAIT


def test_long_waits_are_said_without_a_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(time, "sleep", lambda _: None)
    file.wait(0, 30.0)
    assert "waiting 30 s" in capsys.readouterr().err
    limiter = RateLimiter()
    limiter.learn("api", 429, {"Retry-After": "30"})
    limiter.close()
    with pytest.raises(NetworkError):
        limiter.acquire("api")
    assert "waiting 30 s" in capsys.readouterr().err


def test_a_trickle_of_bytes_is_a_broken_connection(
    hub: LoopbackHub, make_llama: MakeModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.add("org/tiny", make_llama("model"))
    checkpoint = open_checkpoint("org/tiny")

    def trickle(self: Handler, path: str) -> None:
        self.send_response(206)
        first, last = self.headers["Range"][6:].split("-")
        size = hub.repositories["org/tiny"].folder.joinpath(path.split("/")[-1]).stat().st_size
        self.send_header("Content-Range", f"bytes {first}-{last}/{size}")
        self.end_headers()
        for _ in range(60):
            self.wfile.write(b" ")
            self.wfile.flush()
            time.sleep(0.02)

    monkeypatch.setattr(Handler, "_file", trickle)
    monkeypatch.setattr(answers, "STALLED", 0.1)
    monkeypatch.setattr(file, "ATTEMPTS", 2)
    monkeypatch.setattr(file, "LONGEST_WAIT", 0.0)
    with pytest.raises(NetworkError, match="bytes per second"):
        _ = checkpoint.names


def test_headers_that_never_end_are_a_broken_connection(
    hub: LoopbackHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    def endless(self: Handler, rest: str) -> None:
        self.wfile.write(b"HTTP/1.1 200 OK\r\n")
        for number in range(100):
            self.wfile.write(b"X-%d: a\r\n" % number)
            self.wfile.flush()
            time.sleep(0.05)

    monkeypatch.setattr(Handler, "_model_info", endless)
    monkeypatch.setattr(answers, "HEADERS_WITHIN", 0.2)
    monkeypatch.setattr("huref.loader.hub.repository.ATTEMPTS", 1)
    began = time.monotonic()
    with pytest.raises(HurefError):
        open_checkpoint("org/tiny")
    assert time.monotonic() - began < 4


def test_a_redirect_never_leaves_https(monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", "https://93.184.215.14")
    with pytest.raises(NetworkError, match="from HTTPS to HTTP"):
        answers._redirected("https://93.184.215.14/a", "http://93.184.215.14/a")
    assert answers._redirected("https://93.184.215.14/a", "/b") == "https://93.184.215.14/b"


def test_private_addresses_are_known() -> None:
    private = ("127.0.0.1", "localhost", "10.1.2.3", "192.168.0.1", "172.16.0.1", "169.254.0.1",
               "::1", "fe80::1", "fc00::1", "0.0.0.0", "100.64.0.1")  # fmt: skip
    assert all(map(is_private, private))
    assert not is_private("93.184.215.14")
    assert not is_private("2606:2800:21f:cb07:6820:80da:af6b:8b2c")


def test_a_whole_file_may_come_without_a_range() -> None:
    from huggingface_hub.utils import httpx

    whole = httpx.Response(200, headers={"Content-Length": "10"})
    check_range(whole, 0, 10, 10)
    with pytest.raises(ChangedFileError):
        check_range(whole, 0, 11, 11)
