"""What axe finds on the page: nothing, on a desktop and on a phone, light and dark."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.browser import Browser
from tests.support.page_server import Server, compare_two_models, until

pytestmark = pytest.mark.slow

CHECK = """
const done = arguments[arguments.length - 1];
axe.run(document, {resultTypes: ["violations"], iframes: false}).then(
    (found) => done({passed: found.passes.length, violations: found.violations.map(
        (rule) => [rule.id, ...rule.nodes.map((node) => node.html)])}),
    (error) => done({error: String(error)}));
"""


@pytest.fixture
def axe() -> str:
    package = pytest.importorskip("axe_core_python", reason="needs axe-core-python")
    return (Path(package.__file__).parent / "axe.min.js").read_text("utf-8")


@pytest.fixture(params=[(1300, "light"), (360, "dark")], ids=["desktop", "phone in the dark"])
def screen(request: pytest.FixtureRequest, browser: Browser) -> Iterator[Browser]:
    width, scheme = request.param
    browser.resize(width, 950)
    browser.prefer(scheme)
    yield browser
    browser.resize(1300, 950)
    browser.prefer("light")


def check(browser: Browser, axe: str) -> None:
    browser.run(axe)
    found: dict[str, Any] = browser.run_async(CHECK)
    assert found.get("error") is None
    assert found["passed"] > 20  # it looked at the page
    assert found["violations"] == []


def test_a_comparison_has_no_findings(screen: Browser, server: Server, axe: str) -> None:
    compare_two_models(screen, server)
    screen.run("document.querySelectorAll('details').forEach(fold => fold.open = true)")
    check(screen, axe)


def test_an_error_has_no_findings(screen: Browser, server: Server, axe: str) -> None:
    screen.visit("about:blank")
    screen.visit(server.url + "/")
    screen.type("#models", "/etc/passwd\n../x")
    screen.click("#compare-form .main")
    until(screen, "document.querySelector('#compare-error').textContent")
    check(screen, axe)


def test_a_base_and_the_map_have_no_findings(screen: Browser, server: Server, axe: str) -> None:
    pytest.importorskip("sklearn")
    screen.visit("about:blank")
    screen.visit(server.url + "/")
    screen.click("#tab-identify")
    screen.type("#model", "fine.safetensors\ue007")
    until(screen, "!document.querySelector('#identify-result').hidden")
    screen.run("document.querySelectorAll('details').forEach(fold => fold.open = true)")
    screen.click("#map-form .main")
    until(screen, "document.querySelector('#map-result iframe')")
    check(screen, axe)
    screen.visit(str(screen.run("return document.querySelector('#map-result iframe').src")))
    check(screen, axe)
