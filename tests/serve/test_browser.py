"""The page as a person uses it, in Chromium."""

import time
from pathlib import Path

import pytest

from tests.support.browser import Browser
from tests.support.page_server import (
    HOSTILE,
    PATIENCE,
    Server,
    compare_two_models,
    start,
    start_browser,
    text_of,
    until,
)

pytestmark = pytest.mark.slow


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


def test_reasons_are_read_without_scrolling_sideways(browser: Browser, server: Server) -> None:
    compare_two_models(browser, server)
    browser.run("document.querySelectorAll('#compare-result details').forEach(d => d.open = true)")
    edges = """
        const box = document.querySelector('#compare-result .wide');
        const right = (selector) => box.querySelector(selector).getBoundingClientRect().right;
        return [right('td.why'), right('td:last-child'), box.getBoundingClientRect().right];
    """
    try:
        reason, last, box = browser.run(edges)
        assert last <= box  # on a desktop every column is seen
        browser.resize(360, 740)
        reason, last, box = browser.run(edges)
        assert reason <= box
        assert browser.run("return document.documentElement.scrollWidth") <= 360
    finally:
        browser.resize(1300, 950)


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


def test_unreadable_drops_and_long_lists_are_answered_in_words(
    browser: Browser, server: Server
) -> None:
    browser.visit("about:blank")
    browser.visit(server.url + "/")
    browser.run("""
        const dropped = new DataTransfer();
        dropped.items.add(new File(["no picture"], "notes.png"));
        document.querySelector("#compare .drop").dispatchEvent(
            new DragEvent("drop", {dataTransfer: dropped, bubbles: true, cancelable: true}));
    """)
    until(browser, "document.querySelector('#compare-error').textContent")
    said = text_of(browser, "#compare-error")
    assert said.startswith("notes.png: it is neither a fingerprint picture nor a record")
    assert browser.run("return document.querySelectorAll('#compare .files li').length") == 0
    for count, words in ((10_000, "10,000 models are more than the 50"), (200_000, "at most 50")):
        browser.run(f"""
            const names = Array.from({{length: {count}}}, (_, place) => `org/model-${{place}}`);
            document.querySelector("#models").value = names.join("\\n");
        """)
        browser.click("#compare-form .main")
        until(browser, f"document.querySelector('#compare-error').textContent.includes('{words}')")
    browser.errors()  # the browser's own lines about refused requests


def test_two_browsers_at_once_get_their_own_results(browser: Browser, server: Server) -> None:
    """One cancels its work in the middle, then asks again; the other's is not touched."""
    pairs = ("llama-a.safetensors\nfine.safetensors", "llama-a.safetensors\nllama-b.safetensors")
    browser.errors()  # of the tests before
    with start_browser() as other:
        # The one that cancels comes last, since a job may take less than a second.
        for each, models in zip((other, browser), reversed(pairs), strict=True):
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
