"""A page of `huref serve` that somebody uses while it is killed; a part of `scripts.fuzz kill`."""

import json
import os
import signal
import socket
import time
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path
from threading import Event, Thread
from typing import Any
from urllib.request import Request, urlopen

from huref.errors import HurefError
from huref.invariants.record import load_record

Start = Callable[..., BaseProcess]
MODELS = ("llama-b", "qwen-c")
PATIENCE = 60.0  # seconds until a worker whose server was killed counts as left behind


class Page:
    """A server in a process of its own, and a user who uploads, compares and identifies.

    Args:
        start: starts a command of huref.
        folder: with the user's home, `home`, and a registry, `bases`.
        root: folder of the models.
        picture: of the user's upload.
    """

    def __init__(self, start: Start, folder: Path, root: Path, picture: bytes):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.answers = 0
        self.orphans = 0
        self._url = f"http://127.0.0.1:{port}"
        self._picture = picture
        self._workers: list[int] = []
        self._process = start(
            folder, "serve", "--port", port, "--no-browser", "--root", root,
            "--registry", folder / "bases",
        )  # fmt: skip
        self._stopped = Event()
        self._user = Thread(target=self._use, daemon=True)
        self._user.start()

    @property
    def pid(self) -> int | None:
        """Its number."""
        return self._process.pid

    def is_alive(self) -> bool:
        """Whether the server runs."""
        return self._process.is_alive()

    def kill(self) -> None:
        """Kill the server."""
        self._workers = _children(self._process.pid)
        self._process.kill()

    def join(self) -> None:
        """Wait for its end and for that of its workers; those that stay are counted and killed."""
        self._stopped.set()
        self._process.join()
        self._user.join()
        until = time.monotonic() + PATIENCE
        while (left := [*filter(_is_alive, self._workers)]) and time.monotonic() < until:
            time.sleep(0.05)
        self.orphans = len(left)
        for process in left:
            os.kill(process, signal.SIGKILL)

    def close(self) -> None:
        """Tell the server to stop, as a user does."""
        self._process.terminate()
        self.join()

    def wait_for_answer(self) -> bool:
        """Whether the user got an answer before the server ended."""
        while not self.answers and self._process.is_alive() and self._user.is_alive():
            time.sleep(0.1)
        return self.answers > 0

    def _use(self) -> None:
        while not self._stopped.is_set():
            try:
                added = self._ask("/api/files?name=dog.png", self._picture)["model"]
                self._follow("compare", {"models": [added, *MODELS]})
                self._follow("identify", {"model": MODELS[0]})
            except (OSError, ValueError):  # not yet there, or killed
                time.sleep(0.05)

    def _follow(self, kind: str, body: dict[str, Any]) -> None:
        job = self._ask(f"/api/{kind}", json.dumps(body).encode())["job"]
        while not self._stopped.is_set():
            state = self._ask(f"/api/jobs/{job}")
            if state["state"] in ("done", "failed"):
                self.answers += state["state"] == "done"
                return
            time.sleep(0.05)

    def _ask(self, path: str, body: bytes | None = None) -> Any:
        request = Request(self._url + path, body, {"Content-Type": "application/json"})
        with urlopen(request, timeout=10) as answer:
            return json.load(answer)


def _children(process: int | None) -> list[int]:
    """The processes that a process started, by Linux's /proc."""
    try:
        texts = [path.read_text() for path in Path(f"/proc/{process}/task").glob("*/children")]
    except OSError:  # it has ended by itself
        return []
    return [int(word) for text in texts for word in text.split()]


def cpu_seconds(process: int | None) -> float:
    """What a process and those that it started have used so far, by Linux's /proc."""
    try:
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    own = sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")
    return own + sum(map(cpu_seconds, _children(process)))


def _is_alive(process: int) -> bool:
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state not in "ZX"


def uploads_left(home: Path) -> list[Path]:
    """The folders of uploads of pages that were killed, which the next page sweeps."""
    above = home / "serve"
    return [path for path in above.iterdir() if path.is_dir()] if above.is_dir() else []


def damaged_records(home: Path) -> list[str]:
    """What is wrong with the records in a user's cache."""
    found = []
    for path in home.rglob("*.safetensors"):
        try:
            load_record(path)
        except HurefError as error:
            found.append(str(error))
    return found
