"""The page's API: a server on the loopback address, and what becomes of it."""

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import urlopen

import pytest

from tests.docs.test_json import validator
from tests.support.page_server import HOSTILE, PATIENCE, Server, start
from tests.support.zoo import ROOT, ZOO

pytestmark = pytest.mark.slow


def test_a_comparison_is_what_the_command_prints(server: Server) -> None:
    state = server.compare("llama-a.safetensors", "fine.safetensors", "llama-b.safetensors")
    assert (state["state"], state["progress"], state["error"]) == ("done", 1, None)
    validator("compare").validate(state["result"])
    verdicts = [pair["verdict"] for pair in state["result"]["pairs"]]
    assert verdicts == ["descends", "unrelated", "unrelated"]
    view = server.read(f"/api/jobs/{state['job']}/view")
    assert "come from one training run" in view or "was made from" in view
    assert view.count("<img ") == 3
    report = server.read(f"/api/jobs/{state['job']}/report")
    assert "<title>Lineage of 3 models" in report
    assert str(server.root) not in view + report


def test_a_broken_model_costs_only_its_pairs_and_names_are_escaped(server: Server) -> None:
    state = server.compare("llama-a.safetensors", "fine.safetensors", HOSTILE)
    assert state["state"] == "done"
    assert [one["model"] for one in state["result"]["failed"]] == [HOSTILE]
    view = server.read(f"/api/jobs/{state['job']}/view")
    assert "<img src=x" not in view
    assert "not valid JSON" in view


def test_two_broken_models_are_explained(server: Server) -> None:
    state = server.compare("llama-a.safetensors", "org/nothing-at-all")
    assert state["state"] == "failed"
    assert "org/nothing-at-all" in state["error"]
    assert "\n" not in state["error"]


@pytest.mark.parametrize("name", ["llama-a", str(ZOO / "llama-a"), "../x", "/etc"])
def test_links_and_paths_out_of_the_root_are_refused(server: Server, name: str) -> None:
    with pytest.raises(HTTPError) as refused:
        server.ask("/api/compare", {"models": [name, "fine.safetensors"]})
    assert refused.value.code == 400
    assert "below" in json.load(refused.value)["error"]


def test_dropped_files_are_compared_under_their_own_names(server: Server) -> None:
    data = (server.root / "dog.png").read_bytes()
    added = server.ask("/api/files?name=my%20dog.png", data)["model"]
    broken = server.ask("/api/files?name=half.png", data[: len(data) // 2])["model"]
    state = server.compare(added, "llama-a.safetensors", broken)
    assert state["state"] == "done"
    text = json.dumps(state)
    assert "my dog.png" in text
    assert "half.png" in text
    assert str(server.home) not in text
    assert state["result"]["failed"][0]["error"].startswith("half.png")


def test_identify_and_map(server: Server) -> None:
    job = server.ask("/api/identify", {"model": "fine.safetensors"})["job"]
    state = server.wait(job)
    validator("identify").validate(state["result"])
    assert (state["result"]["answer"], state["result"]["of"]) == ("descends", 2)
    assert "descends from llama-a" in server.read(f"/api/jobs/{job}/view")
    pytest.importorskip("sklearn")
    drawn = server.wait(server.ask("/api/map", {"x": 1})["job"])
    assert drawn["state"] == "done", drawn
    with urlopen(f"{server.url}/api/jobs/{drawn['job']}/map") as answer:
        assert "sandbox" in answer.headers["Content-Security-Policy"]
        assert b"Map of 2 models" in answer.read()


def test_a_running_job_is_cancelled_and_the_next_one_runs(server: Server) -> None:
    job = server.ask("/api/compare", {"models": ["llama-a.safetensors", "fine.safetensors"]})["job"]
    gone = server.ask(f"/api/jobs/{job}", method="DELETE")
    assert (gone["state"], gone["cancelled"]) == ("failed", True)
    assert server.compare("llama-a.safetensors", "fine.safetensors")["state"] == "done"


def test_a_killed_server_leaves_nothing(tmp_path: Path) -> None:
    """Its workers end with it, and the next page removes what it held."""
    server = start(tmp_path, tmp_path / "home", "--token", "sesame")
    assert "Which model" in server.read("/?token=sesame")
    (children,) = (f"/proc/{server.process.pid}/task/{server.process.pid}/children",)
    until = time.monotonic() + PATIENCE
    while not (workers := Path(children).read_text().split()) and time.monotonic() < until:
        time.sleep(0.1)
    server.process.kill()
    server.process.wait()
    while any(Path(f"/proc/{pid}").exists() for pid in workers):
        assert time.monotonic() < until
        time.sleep(0.1)
    (left,) = (path for path in (tmp_path / "home/serve").iterdir() if path.is_dir())
    (left / "x.png").write_bytes(b"private")
    again = start(tmp_path, tmp_path / "home")
    assert not left.exists()
    again.process.terminate()
    again.process.wait(PATIENCE)
    assert [path.name for path in (tmp_path / "home/serve").iterdir()] in ([], ["lock"])


def test_a_port_in_use_is_one_line(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        command = [sys.executable, "-m", "huref", "serve", "--no-browser", "--port", str(port)]
        done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path,
                              env=os.environ | {"PYTHONPATH": str(ROOT)})  # fmt: skip
    assert done.returncode == 1
    assert done.stderr.strip() == (
        f"huref: port {port} of 127.0.0.1 is in use; give another one with --port"
    )
