"""`huref probe` from the command line, over real sockets on the loopback address."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from click.testing import CliRunner

from huref.cli import main
from tests.support.endpoint_server import LoopbackEndpoint, Stub
from tests.support.served_models import FULL


@pytest.fixture
def endpoint_url(served: Callable[..., Stub]) -> Iterator[Callable[..., str]]:
    """Base URLs of stubs behind real sockets."""
    running = []

    def start(kind: str = "llama", seed: int = 0, **switches: object) -> str:
        server = LoopbackEndpoint(served(kind, seed, **switches))
        running.append(server)
        return server.__enter__().url

    yield start
    for server in running:
        server.__exit__()


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("huref.blackbox.client.LONGEST_WAIT", 0.001)


def invoke(*arguments: str) -> SimpleNamespace:
    """Run the command line; stdin is not a terminal."""
    result = CliRunner().invoke(main, ["probe", *arguments])
    return SimpleNamespace(code=result.exit_code, out=result.stdout, err=result.stderr)


@pytest.mark.slow
def test_probe_commands_over_a_socket(
    endpoint_url: Callable[..., str], models: Callable[..., Path], tmp_path: Path
) -> None:
    url, own, other = endpoint_url(**FULL), str(models("llama")), str(models("llama", 1))
    size = json.loads(invoke("size", url, "--yes", "--json").out)
    assert size["hidden_size"] == 24
    assert size["requests"] > 64
    found = json.loads(invoke("match", url, own, other, "--yes", "--json", "--outputs", "1").out)
    assert [c["verdict"] for c in found["candidates"]] == ["same head", "other model"]
    keys = ["model", "residual", "verdict", "why", "tokenizer", "files"]
    assert list(found["candidates"][0]) == keys
    assert found["candidates"][0]["files"]["format"] == "safetensors"
    sig = str(tmp_path / "s.sig")
    assert json.loads(invoke("signature", url, "-o", sig, "--yes", "--json").out)["rank"] == 24
    found = json.loads(invoke("match", sig, own, other, "--json").out)
    assert [c["verdict"] for c in found["candidates"]] == ["same head", "other model"]
    assert found["requests"] == 0
    out = str(tmp_path / "w.safetensors")
    result = json.loads(invoke("extract", sig, own, "-o", out, "--json").out)
    assert result["errors"][own]["relative"] < 1e-4
    baseline = str(tmp_path / "b.json")
    first = json.loads(invoke("watch", url, "--baseline", baseline, "--yes", "--json").out)
    assert first["changed"] is None
    again = json.loads(invoke("watch", url, sig, "--baseline", baseline, "--yes", "--json").out)
    assert again["changed"] is False
    updated = endpoint_url("llama", 1, **FULL)
    last = json.loads(invoke("watch", updated, sig, "--baseline", baseline, "--yes", "--json").out)
    assert last["changed"] is True
    assert last["image_residual"] > 0.5


def test_nothing_is_sent_without_consent(endpoint_url: Callable[..., str]) -> None:
    url = endpoint_url()
    result = invoke("size", url, "--budget", "500")
    assert result.code == 1
    assert "500 requests and 12,500 tokens" in result.err
    assert "--yes" in result.err


def test_an_endpoint_that_is_down() -> None:
    result = invoke("size", "http://127.0.0.1:9/v1", "--yes")
    assert result.code == 1
    assert result.err.strip().splitlines()[-1].startswith("huref: http://127.0.0.1:9/v1")
    assert "Traceback" not in result.err


def test_what_cannot_be_measured_says_what_it_would_take(
    endpoint_url: Callable[..., str], tmp_path: Path
) -> None:
    url = endpoint_url(top=1, bias="ignored")
    size = json.loads(invoke("size", url, "--yes", "--json").out)
    assert size["hidden_size"] is None
    assert size["why"].startswith("cannot tell")
    assert "1,024 and 4,096 would take at least" in size["why"]
    assert size["requests"] <= 12
    shown = invoke("size", url, "--yes")
    assert "cannot tell" in shown.out
    signature = invoke("signature", url, "-o", str(tmp_path / "s.sig"), "--yes")
    assert signature.code == 1
    assert "cannot tell" in signature.err.splitlines()[-1]
    assert "requests" in signature.err.splitlines()[-1]
