"""`huref fleet --engine ray://HOST:PORT` against Ray's client server on this machine."""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.support.zoo import ROOT

pytest.importorskip("ray")

from huref.registry.fleet.engines import make_engine
from huref.registry.stores import open_store
from tests.support.fleet_hub import write_small_llama

pytestmark = pytest.mark.slow

# A head gives up when a port was taken meanwhile, or its processes take longer than 30 seconds.
STARTS = 3
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "RAY_USAGE_STATS_ENABLED": "0"}


def free_port() -> int:
    while True:
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            port = int(listener.getsockname()[1])
        if port > 20_000:  # Ray's workers use lower ports
            return port


def start_head(environment: dict[str, str]) -> tuple[subprocess.Popen[str], str, str]:
    """A cluster's head, the address of its client server, and what it printed if it failed."""
    port, client = free_port(), free_port()
    command = [
        sys.executable, "-c", "from ray.scripts.scripts import main; main()", "start", "--head",
        "--block", f"--port={port}", f"--ray-client-server-port={client}", "--num-cpus=1",
        "--include-dashboard=false",
    ]  # fmt: skip
    head = subprocess.Popen(
        command, env=environment, start_new_session=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    assert head.stdout is not None
    printed = []
    for line in head.stdout:
        if "ray stop" in line:
            return head, f"ray://127.0.0.1:{client}", ""
        printed.append(line)
    return head, "", "".join(printed)


def stop_head(head: "subprocess.Popen[str]") -> None:
    with suppress(ProcessLookupError):
        os.killpg(head.pid, signal.SIGTERM)
    try:
        head.wait(10)
    except subprocess.TimeoutExpired:
        os.killpg(head.pid, signal.SIGKILL)


@pytest.fixture
def address(tmp_path: Path) -> Iterator[str]:
    """A cluster of one machine whose client server requires a token, as is Ray's default."""
    token = tmp_path / "token"
    token.write_text("0123456789abcdef" * 4)
    environment = ENVIRONMENT | {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token)}
    # With it, Ray 2.60 lost every third client server ("skipping fork() handlers" in its log).
    environment["GRPC_ENABLE_FORK_SUPPORT"] = "0"
    for _ in range(STARTS):
        head, started, printed = start_head(environment)
        try:
            if started:
                yield started
                return
        finally:
            stop_head(head)
    pytest.fail(f"Ray did not start {STARTS} times: {printed}")


def refusal_of_rays_own_client(address: str, environment: dict[str, str]) -> str:
    """The last line of the error of Ray's own client, without huref; empty if it connects."""
    environment = environment | {"RAY_AUTH_MODE": "token"}
    command = [sys.executable, "-c", "import ray, sys; ray.init(address=sys.argv[1])", address]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    return result.stderr.strip().splitlines()[-1] if result.returncode else ""


def test_a_fleet_through_rays_client(address: str, tmp_path: Path) -> None:
    folders = [write_small_llama(tmp_path / f"model-{i}", i) for i in range(2)]
    listed = tmp_path / "models.txt"
    listed.write_text("".join(f"{folder}\n" for folder in folders))
    command = [sys.executable, "-m", "huref", "fleet", str(listed), "--json"]
    command += ["-o", str(tmp_path / "registry"), "--engine", address, "--workers", "1"]
    environment = ENVIRONMENT | {"RAY_AUTH_TOKEN_PATH": str(tmp_path / "token")}
    environment.pop("RAY_AUTH_MODE", None)
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    if "client server failed" in result.stderr:
        refusal = refusal_of_rays_own_client(address, environment)
        if refusal:
            pytest.skip(f"Ray cannot start a client server on this machine: {refusal}")
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)["done"] == 2
    store = open_store(str(tmp_path / "registry"))
    assert {entry.model for entry in store.entries()} == {folder.name for folder in folders}


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home without a token; nothing connects, and the environment is restored."""
    monkeypatch.setattr("huref.registry.fleet.ray_engine.connect", lambda *_: (None, 1))
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.setenv(name, "")  # so that a value set by the engine is removed again
        monkeypatch.delenv(name)
    return tmp_path


def write_token(home: Path) -> None:
    (home / ".ray").mkdir()
    (home / ".ray" / "auth_token").write_text("secret")


def test_rays_client_sends_a_token_if_there_is_one(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "ray")
    make_engine("ray://127.0.0.1:1")
    assert "RAY_AUTH_MODE" not in os.environ
    write_token(home)
    make_engine("ray:127.0.0.1:1")
    assert "RAY_AUTH_MODE" not in os.environ
    make_engine("ray://127.0.0.1:1")
    assert os.environ["RAY_AUTH_MODE"] == "token"
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    make_engine("ray://127.0.0.1:1")
    assert os.environ["RAY_AUTH_MODE"] == "disabled"


def test_the_mode_is_not_changed_once_ray_has_read_it(home: Path) -> None:
    # Otherwise a cluster that this process starts later refuses the process itself.
    write_token(home)
    make_engine("ray://127.0.0.1:1")
    assert "RAY_AUTH_MODE" not in os.environ
