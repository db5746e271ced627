"""The page as a person uses it: a server on the loopback address, the API, and Chromium."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest

import huref
from huref.api.open import open_record
from huref.recipe import load_recipe
from huref.registry.entry import make_entry
from huref.registry.stores import create_store
from tests.docs.test_json import validator
from tests.support.browser import CHROMIUM, DRIVER, Browser
from tests.support.zoo import ROOT, ZOO

pytestmark = pytest.mark.slow

PATIENCE = 300  # seconds; the machine may be busy
HOSTILE = 'x<img src=x onerror="document.title=1">'


@dataclass
class Server:
    """A page that runs, and what it may read."""

    url: str
    process: "subprocess.Popen[str]"
    root: Path
    home: Path

    def ask(self, path: str, body: object = None, method: str | None = None) -> Any:
        """JSON from the API; the answer's status raises."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode() if body else None
        request = Request(self.url + path, data, {"Content-Type": "application/json"})
        request.method = method or ("POST" if data else "GET")
        with urlopen(request, timeout=PATIENCE) as answer:
            return json.load(answer)

    def read(self, path: str) -> str:
        """A page of the server."""
        with urlopen(self.url + path, timeout=PATIENCE) as answer:
            return str(answer.read().decode())

    def wait(self, job: str) -> Any:
        """The job once it has ended; its progress never went back."""
        before, until = 0.0, time.monotonic() + PATIENCE
        while time.monotonic() < until:
            state = self.ask(f"/api/jobs/{job}")
            validator("serve-job").validate(state)
            assert state["progress"] >= before
            before = state["progress"]
            if state["state"] in ("done", "failed"):
                return state
            time.sleep(0.1)
        raise TimeoutError(job)

    def compare(self, *models: str) -> Any:
        """The job that compares some models, once it has ended."""
        return self.wait(self.ask("/api/compare", {"models": list(models)})["job"])


def start(root: Path, home: Path, *options: object) -> Server:
    command = [sys.executable, "-m", "huref", "serve", "--port", "0", "--no-browser"]
    command += ["--root", str(root), *map(str, options)]
    environment = os.environ | {"HUREF_HOME": str(home), "HF_HUB_OFFLINE": "1"}
    environment["PYTHONPATH"] = str(ROOT)
    process = subprocess.Popen(
        command, cwd=root, env=environment, stdout=subprocess.PIPE, text=True, stderr=sys.stderr
    )
    assert process.stdout is not None
    line = process.stdout.readline()
    address = re.search(r"http://\S+?(?=/(\?|$))", line)
    assert address, line
    server = Server(address[0], process, root, home)
    for _ in range(200):
        try:
            server.read("/page.css")
            return server
        except HTTPError:
            return server  # it asks for a token
        except OSError:
            time.sleep(0.05)
    raise TimeoutError(server.url)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A page whose root has two models of the zoo, records, a picture and a registry."""
    root, home = tmp_path_factory.mktemp("root"), tmp_path_factory.mktemp("home")
    for name in ("llama-a", "llama-b"):
        (root / name).symlink_to(ZOO / name)  # out of the root: not followed
    records = {name: open_record(str(ZOO / name)) for name in ("llama-a", "llama-b")}
    for name, record in records.items():
        record.save(root / f"{name}.safetensors")
    fine = open_record(str(ZOO / "llama-a-finetune"))
    fine.save(root / "fine.safetensors")
    huref.fingerprint(str(root / "fine.safetensors"), root / "dog.png")
    (root / HOSTILE).mkdir()
    (root / HOSTILE / "config.json").write_text("{")
    store = create_store(str(home / "registry"), load_recipe()[0])
    store.add([make_entry(record) for record in records.values()])
    started = start(root, home)
    yield started
    started.process.send_signal(signal.SIGINT)
    started.process.wait(PATIENCE)
    assert list((home / "serve").iterdir()) == []  # the uploads are gone


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
    (left,) = (tmp_path / "home/serve").iterdir()
    (left / "x.png").write_bytes(b"private")
    os.utime(left, (0, 0))
    again = start(tmp_path, tmp_path / "home")
    assert not left.exists()
    again.process.terminate()
    again.process.wait(PATIENCE)
    assert list((tmp_path / "home/serve").iterdir()) == []


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


def start_browser() -> Browser:
    if CHROMIUM is None or DRIVER is None:
        pytest.skip("needs Chromium and chromedriver")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    return Browser(port)


@pytest.fixture(scope="module")
def browser(server: Server) -> Iterator[Browser]:
    with start_browser() as started:
        started.visit(server.url + "/")
        yield started


def until(browser: Browser, condition: str) -> None:
    """Wait for a condition in the page."""
    end = time.monotonic() + PATIENCE
    while not browser.run(f"return Boolean({condition})"):
        assert time.monotonic() < end, browser.run("return document.body.innerText")
        time.sleep(0.1)


def text_of(browser: Browser, selector: str) -> str:
    return str(browser.run(f"return document.querySelector({json.dumps(selector)}).innerText"))


def compare_two_models(browser: Browser, server: Server) -> None:
    """As a person does: one model typed, one picked, then the button."""
    browser.visit("about:blank")
    browser.visit(server.url + "/")
    browser.type("#models", "llama-a.safetensors")
    browser.click("#compare-form .main")
    assert text_of(browser, "#compare-error") == "Name at least two models."
    browser.click("#compare-form summary")
    until(browser, "document.querySelectorAll('#compare .picks button').length == 4")
    browser.run(
        "[...document.querySelectorAll('#compare .picks button')]"
        ".find(b => b.textContent.startsWith('fine')).click()"
    )
    browser.click("#compare-form .main")
    until(browser, "!document.querySelector('#compare-result').hidden")


def test_a_person_compares_two_models(browser: Browser, server: Server) -> None:
    compare_two_models(browser, server)
    words = text_of(browser, "#compare-result")
    assert "one training run" in words or "was made from" in words
    assert browser.run("return document.querySelectorAll('#compare-result img').length") == 2
    assert browser.run("return document.activeElement.textContent") == "What the weights say"
    assert browser.run("return document.querySelector('#compare-result details').open") is False
    assert browser.errors() == []
    elsewhere = [url for url in browser.requests() if not url.startswith((server.url, "data:"))]
    assert elsewhere == []


def test_a_result_survives_a_reload(browser: Browser, server: Server) -> None:
    compare_two_models(browser, server)
    address = str(browser.run("return location.href"))
    assert "#compare=" in address
    browser.visit("about:blank")
    browser.visit(address)
    until(browser, "!document.querySelector('#compare-result').hidden")
    assert "training run" in text_of(browser, "#compare-result") or "made from" in text_of(
        browser, "#compare-result"
    )


def test_the_keyboard_alone_finds_a_base_and_draws_the_map(
    browser: Browser, server: Server
) -> None:
    browser.visit("about:blank")
    browser.visit(server.url + "/")
    browser.type("#tab-compare", "\ue014")  # the protocol's right arrow
    assert browser.run("return document.activeElement.id") == "tab-identify"
    assert browser.run("return document.querySelector('#compare').hidden")
    browser.type("#model", "fine.safetensors\ue007")  # and its Enter
    until(browser, "!document.querySelector('#identify-result').hidden")
    assert "descends from llama-a" in text_of(browser, "#identify-result")
    pytest.importorskip("sklearn")
    browser.type("#map-form .main", "\ue007")
    until(browser, "document.querySelector('#map-result iframe')")
    assert browser.errors() == []


def test_the_map_is_drawn_on_a_phone(browser: Browser, server: Server) -> None:
    """Its frame, once scrolled to: browsers do not draw sandboxed frames that nobody sees."""
    pytest.importorskip("sklearn")
    browser.resize(360, 740)
    try:
        browser.visit("about:blank")
        browser.visit(server.url + "/#map=")
        browser.click("#map-form .main")
        until(browser, "document.querySelector('#map-result iframe')")
        end = time.monotonic() + PATIENCE
        while len(browser.picture("#map-result iframe").getcolors(1 << 20) or ()) < 500:
            assert time.monotonic() < end  # a blank frame has a handful of colours
            time.sleep(0.2)
        assert browser.run("return document.documentElement.scrollWidth") <= 360
    finally:
        browser.resize(1300, 950)


def test_what_cannot_be_read_is_said_on_the_page(browser: Browser, server: Server) -> None:
    browser.visit("about:blank")
    browser.visit(server.url + "/")
    browser.type("#models", f"/etc/passwd\n{HOSTILE}")
    browser.click("#compare-form .main")
    until(browser, "document.querySelector('#compare-error').textContent")
    assert "neither a Hub id nor a model below" in text_of(browser, "#compare-error")
    browser.run("document.querySelector('#models').value = ''")
    browser.type("#models", f"org/nothing\n{HOSTILE}")
    browser.click("#compare-form .main")
    until(browser, "document.querySelector('#compare-error').textContent")
    assert browser.run("return document.title") != "1"


def test_two_browsers_at_once_get_their_own_results(browser: Browser, server: Server) -> None:
    """One cancels its work in the middle, then asks again; the other's is not touched."""
    pairs = ("llama-a.safetensors\nfine.safetensors", "llama-a.safetensors\nllama-b.safetensors")
    browser.errors()  # of the tests before
    with start_browser() as other:
        for each, models in zip((browser, other), pairs, strict=True):
            each.visit("about:blank")
            each.visit(server.url + "/")
            each.type("#models", models)
            each.click("#compare-form .main")
        browser.click("#compare-progress .cancel")
        until(browser, "document.querySelector('#compare-error').textContent == 'Cancelled.'")
        browser.click("#compare-form .main")
        for each in (browser, other):
            until(each, "!document.querySelector('#compare-result').hidden")
        related, strangers = (text_of(each, "#compare-result") for each in (browser, other))
        addresses = {each.run("return location.hash") for each in (browser, other)}
        assert browser.errors() == other.errors() == []
    assert "training run" in related or "made from" in related
    assert "show no sign that one was made from the other" in strangers
    assert len(addresses) == 2


def test_a_lost_connection_is_said_and_the_page_goes_on_with_the_next_server(
    tmp_path: Path, server: Server
) -> None:
    first = start(server.root, tmp_path / "home")
    port = int(first.url.rpartition(":")[2])
    with start_browser() as browser:
        browser.visit(first.url + "/")
        browser.type("#models", "llama-a.safetensors\nfine.safetensors")
        browser.click("#compare-form .main")
        until(browser, "document.querySelector('#compare-progress .stage').textContent")
        first.process.kill()
        first.process.wait()
        until(browser, "document.body.innerText.includes('The connection is lost')")
        second = start(server.root, tmp_path / "home", "--port", port)
        until(browser, "document.querySelector('#compare-error').textContent")
        assert "the server was started again" in text_of(browser, "#compare-error")
        browser.click("#compare-form .main")
        until(browser, "!document.querySelector('#compare-result').hidden")
    second.process.terminate()
    second.process.wait(PATIENCE)
