"""Redirects: none leads from a public server inside, and no other server gets the token.

Names resolve as `NAMES` says: to one address when a name is looked up, to another one when it is
connected to. So the "public" servers of these tests are on the loopback address as well.
"""

import socket
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any, Self
from urllib.parse import parse_qs, quote, urlsplit

import pytest
from huggingface_hub import constants
from huggingface_hub.utils import close_session, httpx

from huref.errors import HurefError, NetworkError
from huref.loader.hub.addresses import is_private, may_be_private
from huref.loader.hub.answers import body_of, opened
from huref.registry.fleet.model_list import list_hub
from huref.registry.pull import address_of

PUBLIC = "93.184.215.14"
NAMES: dict[str, list[str]] = {  # found when a name is looked up; all connections go to loopback
    "hub.test": [PUBLIC],
    "moves.test": [PUBLIC],  # it has moved inside when it is connected to
    "inside.test": ["127.0.0.1"],
    "both.test": [PUBLIC, "10.0.0.1"],
    "mapped.test": ["::ffff:192.168.0.1"],
    "xn--bcher-kva.test": ["10.0.0.1"],
}


@dataclass
class Server:
    """Answers /to?LOCATION with a redirect and all else with "ok"; remembers what it was asked."""

    seen: list[tuple[str, str, str | None]] = field(default_factory=list)  # host, path, token

    def __enter__(self) -> Self:
        seen = self.seen

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *_: object) -> None:
                """Print nothing."""

            def do_GET(self) -> None:
                asked = urlsplit(self.path)
                host = self.headers["Host"].rpartition(":")[0]
                seen.append((host, asked.path, self.headers.get("Authorization")))
                target = parse_qs(asked.query).get("to")
                self.send_response(302 if target else 200)
                if target:
                    self.send_header("Location", target[0])
                self.send_header("Content-Length", "2")
                self.end_headers()
                self.wfile.write(b"ok")

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self._server.server_port
        Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A public Hub, for which the user has a token."""
    plain = socket.getaddrinfo

    def resolve(host: Any, port: Any, *rest: Any, **more: Any) -> Any:
        name = host.decode() if isinstance(host, bytes) else str(host)
        if name not in NAMES:
            return plain(host, port, *rest, **more)
        found = NAMES[name] if port is None else ["127.0.0.1"]
        return [entry for address in found for entry in plain(address, port, *rest, **more)]

    close_session()
    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    monkeypatch.setenv("HF_TOKEN", "secret")
    with Server() as started:
        monkeypatch.setattr(constants, "ENDPOINT", f"http://hub.test:{started.port}")
        yield started
    close_session()


@pytest.fixture
def inside() -> Iterator[Server]:
    """A server of the private network."""
    with Server() as started:
        yield started


def get(url: str, **options: Any) -> bytes:
    with opened(url, {}, **options) as response:
        return body_of(response)


LEADS_INSIDE = [
    "http://127.0.0.1:{port}/", "http://localhost:{port}/", "http://LOCALHOST:{port}/",
    "http://127.1:{port}/", "http://0x7f.1:{port}/", "http://2130706433:{port}/",
    "http://017700000001:{port}/", "http://0.0.0.0:{port}/", "http://user:word@127.0.0.1:{port}/",
    "//127.0.0.1:{port}/", "http:\t//127.0.0.1:{port}/", "HTTP://127.0.0.1:{port}/#hub.test",
    "http://hub.test@127.0.0.1:{port}/", "http://[::1]:{port}/", "http://[::]:{port}/",
    "http://[::ffff:127.0.0.1]:{port}/", "http://[::ffff:7f00:1]:{port}/",
    "http://[::127.0.0.1]:{port}/", "http://[64:ff9b::127.0.0.1]/", "http://[2002:7f00:1::]/",
    "http://[2001:0:1::80ff:fffe]/", "http://[fe80::1]/", "http://[fc00::1]/",
    "http://[fec0::1]/", "http://10.0.0.1/", "http://172.31.0.1/", "http://192.168.1.1/",
    "http://169.254.169.254/latest/meta-data", "http://100.64.0.1/", "http://224.0.0.1/",
    "http://255.255.255.255/", "http://inside.test:{port}/", "http://both.test:{port}/",
    "http://mapped.test:{port}/", "http://Bücher.test:{port}/", "http://inside.test.:{port}/",
]  # fmt: skip


@pytest.mark.parametrize("target", LEADS_INSIDE)
def test_no_redirect_leads_from_a_public_hub_inside(
    target: str, server: Server, inside: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(NAMES, "inside.test.", ["127.0.0.1"])
    url = f"{constants.ENDPOINT}/a"
    with pytest.raises(NetworkError, match="private network") as caught:
        get(with_target(url, target.format(port=inside.port)))
    assert "\n" not in str(caught.value)
    assert inside.seen == []


def with_target(url: str, target: str) -> str:
    return f"{url}?to={quote(target, safe='')}"


def test_a_chain_is_checked_at_each_step(server: Server, inside: Server) -> None:
    url = f"{constants.ENDPOINT}/a"
    first = with_target(url, f"http://127.0.0.1:{inside.port}/")
    second = with_target(url, first)
    with pytest.raises(NetworkError, match="private network"):
        get(with_target(url, second))
    assert len(server.seen) == 3
    assert inside.seen == []


def test_a_name_that_moves_inside_gets_no_token_and_is_not_read(
    server: Server, inside: Server
) -> None:
    target = f"http://moves.test:{inside.port}/"
    with pytest.raises(NetworkError, match=r"moves\.test at 127\.0\.0\.1"):
        get(with_target(f"{constants.ENDPOINT}/a", target))
    with pytest.raises(NetworkError, match=r"moves\.test at 127\.0\.0\.1"):
        get(target)  # a later range, asked for where an earlier redirect led
    assert {token for _, _, token in inside.seen} == {None}


def test_a_private_hub_may_redirect_inside_and_its_token_stays_there(
    server: Server, inside: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.port}")
    url = f"http://127.0.0.1:{server.port}/a"
    for target in (f"http://127.0.0.1:{inside.port}/", f"http://localhost:{inside.port}/"):
        assert get(with_target(url, target)) == b"ok"
    assert get(with_target(url, f"http://127.0.0.1:{server.port}/b")) == b"ok"
    assert [token for _, _, token in inside.seen] == [None, None]
    assert {token for _, _, token in server.seen} == {"Bearer secret"}


def test_a_hub_that_is_partly_private_is_public(
    server: Server, inside: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever holds the name may add an address to it."""
    monkeypatch.setitem(NAMES, "hub.test", [PUBLIC, "127.0.0.1"])
    with pytest.raises(NetworkError, match="private network"):
        get(with_target(f"{constants.ENDPOINT}/a", f"http://127.0.0.1:{inside.port}/"))
    assert inside.seen == []


def test_the_address_that_is_named_counts_not_the_hub(
    server: Server, inside: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A registry on a public server, while the Hub is a private mirror, and the reverse."""
    public, private = f"http://hub.test:{server.port}/a", f"http://127.0.0.1:{server.port}/a"
    target = f"http://127.0.0.1:{inside.port}/"
    assert get(with_target(private, target), named=private) == b"ok"
    monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{inside.port}")
    inside.seen.clear()
    with pytest.raises(NetworkError, match="private network"):
        get(with_target(public, target), named=public)
    assert inside.seen == []


def test_the_hubs_own_client_follows_none_inside_either(server: Server, inside: Server) -> None:
    """Lists of models and downloads for `huref attack` go through huggingface_hub."""
    from huref.loader.hub.rate import limited_session

    session = limited_session()
    for host in ("127.0.0.1", "moves.test"):
        url = with_target(f"{constants.ENDPOINT}/a", f"http://{host}:{inside.port}/")
        with pytest.raises(NetworkError, match="private network"):
            session.get(url, headers={"Authorization": "Bearer secret"}, follow_redirects=True)
    assert {token for _, _, token in inside.seen} <= {None}
    direct = session.get(f"http://127.0.0.1:{inside.port}/")  # what the user asks for by itself
    assert direct.text == "ok"


def test_a_list_of_models_is_not_taken_from_inside(
    server: Server, inside: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = with_target(f"{constants.ENDPOINT}/a", f"http://127.0.0.1:{inside.port}/")
    monkeypatch.setattr(constants, "ENDPOINT", target.replace("a?", "a?x=1&"))
    with pytest.raises(HurefError) as caught:
        list_hub({})
    assert "\n" not in str(caught.value)
    assert inside.seen == []


def test_a_proxy_may_be_private(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    close_session()
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{server.port}")
    monkeypatch.setenv("no_proxy", "")
    monkeypatch.setitem(NAMES, "cdn.test", [PUBLIC])
    assert get(with_target(f"{constants.ENDPOINT}/a", "http://cdn.test/b")) == b"ok"
    assert server.seen[-1][2] is None


ODD = ["http://a b/", "http://[::1", "http://a:99999999/", "http://", "file:///etc/passwd",
       "ftp://a/", "javascript:1", "gopher://127.0.0.1/", "http://\x7f/", "http://a:b:c/",
       "data:,x", "http://xn--a/", "http://" + "a" * 300 + "/", "http://☃☃☃\u202e/"]  # fmt: skip


@pytest.mark.parametrize("target", ODD, ids=range(len(ODD)))
def test_an_odd_redirect_is_one_line(target: str, server: Server) -> None:
    with pytest.raises((NetworkError, httpx.TransportError)) as caught:
        get(with_target(f"{constants.ENDPOINT}/a", target))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("host", ["a" * 64, "a..b", "[::1", "x\x7f", "a:b"])
def test_an_odd_address_that_the_user_gives_is_one_line(host: str, server: Server) -> None:
    with pytest.raises(NetworkError, match="not valid"):
        get(f"http://{host}/a", named=f"http://{host}/a")


def test_http_is_taken_from_private_addresses_alone() -> None:
    assert address_of("http://127.0.0.1/a.jsonl") == "http://127.0.0.1/a.jsonl"
    with pytest.raises(HurefError, match="neither an https address"):
        address_of(f"http://{PUBLIC}/a.jsonl")


def test_a_name_may_have_public_and_private_addresses(server: Server) -> None:
    assert may_be_private("both.test")
    assert not is_private("both.test")
    assert is_private("inside.test")
    assert not may_be_private("hub.test")
    assert not is_private("no-such-name.invalid")
