"""Whose requests a page answers."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner
from starlette.testclient import TestClient

from huref.cli import main
from huref.serve.app import create_app
from huref.serve.settings import MOST_MODELS, Settings, is_loopback

PORT = 8765
OURS = "http://127.0.0.1:8765"


def client_of(root: Path, token: str = "", host: str = "127.0.0.1") -> TestClient:
    """A client of an application whose queue does not run, so that jobs stay queued."""
    app = create_app(Settings((root.resolve(),), str(root / "none"), token, host), PORT)
    return TestClient(app, base_url=OURS, follow_redirects=False)


@pytest.fixture
def client(tmp_path: Path) -> TestClient:
    return client_of(tmp_path)


def post(client: TestClient, headers: dict[str, str] | None = None) -> int:
    body = {"models": ["org/a", "org/b"]}
    return client.post("/api/compare", json=body, headers=headers or {}).status_code


@pytest.mark.parametrize(
    "host", ["127.0.0.1:8765", "localhost:9000", "[::1]:8765", "LOCALHOST", "127.1.2.3:1"]
)
def test_names_of_this_machine_are_answered(client: TestClient, host: str) -> None:
    assert client.get("/", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize(
    "host",
    ["evil.example:8765", "127.0.0.1.evil.example", "localhost.evil.example", "192.168.1.4", "",
     "evil@127.0.0.1.example", "0x7f.1.evil", "[::2]", "127.0.0.1@evil.example", "[", "a b"],
)  # fmt: skip
def test_names_pointed_at_this_machine_are_refused(client: TestClient, host: str) -> None:
    assert client.get("/", headers={"Host": host}).status_code in (400, 403)
    assert post(client, {"Host": host}) in (400, 403)


@pytest.mark.parametrize(
    "origin",
    ["https://evil.example", "null", "http://127.0.0.1:3000", "http://localhost:8765",
     "http://127.0.0.1:8765.evil.example", "file://", "", "http://[", "https://127.0.0.1"],
)  # fmt: skip
def test_other_pages_cannot_drive_it(client: TestClient, origin: str) -> None:
    assert post(client, {"Origin": origin}) == 403
    assert client.get("/api/models", headers={"Origin": origin}).status_code == 403
    refused = client.options("/api/compare", headers={"Origin": origin})
    assert refused.status_code == 403
    assert not any(name.startswith("access-control") for name in refused.headers)


def test_the_own_page_and_programs_can(client: TestClient) -> None:
    assert post(client, {"Origin": OURS, "Sec-Fetch-Site": "same-origin"}) == 202
    assert post(client) == 202


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
def test_requests_without_origin_that_browsers_mark_are_refused(
    client: TestClient, site: str
) -> None:
    marked = {"Sec-Fetch-Site": site}
    assert post(client, marked) == 403
    assert client.get("/api/models", headers=marked).status_code == 403  # as by an <img>
    assert client.get("/", headers=marked | {"Sec-Fetch-Mode": "navigate"}).status_code == 200
    assert post(client, marked | {"Sec-Fetch-Mode": "navigate"}) == 403  # as by a form


def test_a_form_of_another_page_cannot_send_json(client: TestClient) -> None:
    body = json.dumps({"models": ["a", "b"]})
    for kind in ("text/plain", "application/x-www-form-urlencoded", ""):
        headers = {"Content-Type": kind}
        assert client.post("/api/compare", content=body, headers=headers).status_code == 202
        for origin, status in ((OURS, 415), ("https://evil.example", 403), ("null", 403)):
            sent = headers | {"Origin": origin}
            assert client.post("/api/compare", content=body, headers=sent).status_code == status


def test_every_answer_forbids_what_the_page_does_not_need(client: TestClient) -> None:
    for path in ("/", "/page.js", "/api/models", "/nothing", "/api/jobs/x"):
        answer = client.get(path)
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert "frame-ancestors 'none'" in policy
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert "access-control-allow-origin" not in answer.headers


def test_a_token_is_asked_for_everything(tmp_path: Path) -> None:
    client = client_of(tmp_path, "sesame & co")
    for path in ("/", "/page.js", "/page.css", "/api/models", "/api/jobs/x", "/nothing"):
        assert client.get(path).status_code == 401
        assert client.get(path, params={"token": "wrong"}).status_code == 401
        assert client.get(path, headers={"Authorization": "Bearer wrong"}).status_code == 401
        assert client.get(path, headers={"Cookie": f"huref-{PORT}=wrong"}).status_code == 401
    assert post(client) == 401
    assert post(client, {"Authorization": "Bearer sesame & co"}) == 202


def test_the_token_comes_once_in_the_address_then_in_a_cookie(tmp_path: Path) -> None:
    client = client_of(tmp_path, "sesame & co")
    answer = client.get("/", params={"token": "sesame & co", "x": "1"})
    assert answer.status_code == 200
    cookie = answer.headers["set-cookie"].lower()
    assert "httponly" in cookie
    assert "samesite=strict" in cookie
    assert client.get("/").status_code == 200
    assert post(client) == 202
    assert post(client, {"Origin": "https://evil.example"}) == 403
    assert "set-cookie" not in client.get("/api/models", params={"token": "sesame & co"}).headers
    other = client_of(tmp_path, "sesame & co")
    assert other.post("/api/map?token=sesame+%26+co", json={}).status_code == 202
    assert other.get("/", params={"token": ""}).status_code == 401


def test_behind_a_proxy_any_name_is_ours_but_pages_of_others_are_not(tmp_path: Path) -> None:
    client = client_of(tmp_path, "sesame", "0.0.0.0")
    carried = {"Host": "me-huref.hf.space", "Authorization": "Bearer sesame"}
    assert post(client, carried) == 202
    assert post(client, carried | {"Origin": "https://evil.example"}) == 403
    assert post(client, carried | {"Origin": "https://me-huref.hf.space"}) == 202


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.4", "example.org", ""])
def test_other_hosts_demand_a_token(host: str) -> None:
    assert not is_loopback(host)
    result = CliRunner().invoke(main, ["serve", "--host", host, "--no-browser"])
    assert result.exit_code == 2
    assert "--token" in result.stderr
    assert CliRunner().invoke(main, ["serve", "--host", host, "--token", ""]).exit_code == 2


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ("{", 400), ("[]", 400), ("{}", 400), ('{"models": "a"}', 400), ('{"models": [1, 2]}', 400),
        ('{"models": []}', 400), ('{"models": ["a"]}', 400), ('{"models": ["a", "  "]}', 400),
        ("[" * 100_000, 400), ('{"models": ["a", "\\ud800"]}', 400), ("\xff", 400),
        (json.dumps({"models": ["a/b"] * (MOST_MODELS + 1)}), 400),
        (json.dumps({"models": ["a/b"] * 10_000}), 400),
        (json.dumps({"models": ["x" * 5000, "a/b"]}), 400),
        (json.dumps({"models": ["a/b"] * 1_000_000}), 413),
    ],
)  # fmt: skip
def test_bad_requests_are_answered_in_words(client: TestClient, body: str, status: int) -> None:
    kind = {"Content-Type": "application/json"}
    answer = client.post("/api/compare", content=body.encode("latin-1"), headers=kind)
    assert answer.status_code == status
    assert answer.json()["error"]


def test_jobs_wait_in_order_and_can_be_cancelled(client: TestClient) -> None:
    body = {"models": ["org/a", "org/b"]}
    first, second = (client.post("/api/compare", json=body).json()["job"] for _ in range(2))
    waiting = client.get(f"/api/jobs/{second}").json()
    assert (waiting["state"], waiting["ahead"], waiting["progress"]) == ("queued", 1, 0)
    gone = client.delete(f"/api/jobs/{first}").json()
    assert (gone["state"], gone["cancelled"], gone["result"]) == ("failed", True, None)
    assert client.get(f"/api/jobs/{second}").json()["ahead"] == 0
    assert client.get(f"/api/jobs/{second}/view").status_code == 409
    assert client.get("/api/jobs/nothing").status_code == 404


def test_too_many_jobs_are_refused(client: TestClient) -> None:
    states = [post(client) for _ in range(101)]
    assert states == [202] * 100 + [503]
