"""A headless Chromium, driven over the WebDriver protocol (w3.org/TR/webdriver2)."""

import base64
import io
import json
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any, Self
from urllib.error import URLError
from urllib.request import Request, urlopen

from PIL import Image

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
KEY = "element-6066-11e4-a52e-4f735466cecf"  # the protocol's key for an element id


class Browser:
    """One session; pages are opened from disk."""

    def __init__(self, port: int, width: int = 1300, height: int = 950):
        assert DRIVER is not None
        self._driver = subprocess.Popen(
            [DRIVER, f"--port={port}"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        self._url = f"http://127.0.0.1:{port}"
        flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
        options = {"binary": CHROMIUM, "args": [*flags, f"--window-size={width},{height}"]}
        wanted = {
            "goog:chromeOptions": options,
            "goog:loggingPrefs": {"browser": "ALL", "performance": "ALL"},
        }
        self._wait_for_driver()
        session = self._post("/session", {"capabilities": {"alwaysMatch": wanted}})
        self._url += f"/session/{session['sessionId']}"

    def _wait_for_driver(self) -> None:
        for _ in range(200):
            try:
                with urlopen(f"{self._url}/status"):
                    return
            except URLError:
                time.sleep(0.05)
        raise TimeoutError("chromedriver does not answer")

    def _post(self, path: str, body: dict[str, Any]) -> Any:
        request = Request(self._url + path, json.dumps(body).encode(), method="POST")
        with urlopen(request, timeout=60) as answer:
            return json.load(answer)["value"]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with urlopen(Request(self._url, method="DELETE")):
            pass
        self._driver.terminate()
        self._driver.wait()

    def open(self, path: Path) -> None:
        """Load a file."""
        self.visit(path.resolve().as_uri())

    def visit(self, url: str) -> None:
        """Load an address."""
        self._post("/url", {"url": url})

    def resize(self, width: int, height: int) -> None:
        """Give the page another size, as a phone's; Chromium's windows cannot be so narrow."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        command = {"cmd": "Emulation.setDeviceMetricsOverride", "params": size}
        self._post("/goog/cdp/execute", command)

    def picture(self, selector: str) -> Image.Image:
        """What is seen of an element, once it is scrolled into view."""
        with urlopen(f"{self._url}/element/{self.find(selector)}/screenshot", timeout=60) as answer:
            return Image.open(io.BytesIO(base64.b64decode(json.load(answer)["value"])))

    def run(self, script: str) -> Any:
        """Run a function body in the page and return its result."""
        return self._post("/execute/sync", {"script": script, "args": []})

    def run_async(self, script: str) -> Any:
        """Run a function body that calls its last argument with the result."""
        self._post("/timeouts", {"script": 60_000})
        return self._post("/execute/async", {"script": script, "args": []})

    def prefer(self, scheme: str) -> None:
        """Make the page "light" or "dark", as a user's system would."""
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        command = {"cmd": "Emulation.setEmulatedMedia", "params": {"features": features}}
        self._post("/goog/cdp/execute", command)

    def find(self, selector: str) -> str:
        """The protocol's id of the first element that matches a selector."""
        found = self._post("/element", {"using": "css selector", "value": selector})
        return str(found[KEY])

    def click(self, selector: str) -> None:
        """Click in the middle of an element, as a user would."""
        self._post(f"/element/{self.find(selector)}/click", {})

    def type(self, selector: str, text: str) -> None:
        """Type into an element."""
        self._post(f"/element/{self.find(selector)}/value", {"text": text})

    def errors(self) -> list[str]:
        """Messages on the page's console so far."""
        return [entry["message"] for entry in self._post("/se/log", {"type": "browser"})]

    def requests(self) -> list[str]:
        """URLs requested so far."""
        events = [json.loads(e["message"]) for e in self._post("/se/log", {"type": "performance"})]
        return [
            event["message"]["params"]["request"]["url"]
            for event in events
            if event["message"]["method"] == "Network.requestWillBeSent"
        ]
