"""A page of `huref serve` that runs on the loopback address, and how a test drives it."""

import json
import os
import re
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest

from tests.docs.test_json import validator
from tests.support.browser import CHROMIUM, DRIVER, Browser
from tests.support.zoo import ROOT

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


def start_browser() -> Browser:
    if CHROMIUM is None or DRIVER is None:
        pytest.skip("needs Chromium and chromedriver")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    return Browser(port)


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
