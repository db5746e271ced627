"""Seconds from the click on Compare to progress and verdict: python -m tests.support.page_times.

Two models of the shipped zoo are compared in Chromium: by a server that has just been started
with an empty cache, by the same one again, and after it was started again with that cache. The
browser is there already, and the click follows the first look at the page. Prints medians of
three rounds.
"""

import os
import statistics
import tempfile
from pathlib import Path

from tests.support.browser import Browser
from tests.support.page_server import PATIENCE, Server, start, start_browser, until
from tests.support.zoo import ZOO

ROUNDS = 3
CASES = ("new cache", "the same again", "server started again")
# Looks from within the page, since a driver's own questions would take time.
WATCH = """
const times = (window.times = {});
const button = document.querySelector("#compare-form .main");
button.addEventListener("click", () => { times.click = performance.now(); }, {capture: true});
const note = (name) => { times[name] ??= (performance.now() - times.click) / 1000; };
const stage = document.querySelector("#compare-progress .stage");
new MutationObserver(() => {
  if (stage.textContent) note("first words");
  if (/^(Reading|Comparing|Drawing)/.test(stage.textContent)) note("first model");
}).observe(stage, {childList: true});
const result = document.querySelector("#compare-result");
new MutationObserver(async () => {
  const dog = result.querySelector("img");
  if (result.hidden || !dog) return;
  requestAnimationFrame(() => note("verdict"));
  await dog.decode();
  requestAnimationFrame(() => note("picture"));
}).observe(result, {attributes: true});
document.querySelector("#models").value = "llama-a\\nllama-a-finetune";
"""


def time_comparison(browser: Browser, server: Server) -> dict[str, float]:
    """Seconds from the click to each event."""
    browser.visit("about:blank")
    browser.visit(server.url + "/")
    browser.run(WATCH)
    browser.click("#compare-form .main")
    until(browser, "times.picture && times.verdict")
    times: dict[str, float] = browser.run("return times")
    del times["click"]
    return times


def main() -> None:
    """Print a table."""
    measured: dict[str, list[dict[str, float]]] = {case: [] for case in CASES}
    with start_browser() as browser:
        for _ in range(ROUNDS):
            with tempfile.TemporaryDirectory() as home:
                server = start(ZOO, Path(home))
                measured[CASES[0]].append(time_comparison(browser, server))
                measured[CASES[1]].append(time_comparison(browser, server))
                stop(server)
                server = start(ZOO, Path(home))
                measured[CASES[2]].append(time_comparison(browser, server))
                stop(server)
    for case, rounds in measured.items():
        medians = {name: statistics.median(one[name] for one in rounds) for name in rounds[0]}
        print(case, *(f"{name} {seconds:.2f} s" for name, seconds in medians.items()), sep="; ")
    print(f"load {os.getloadavg()[0]:.1f}")


def stop(server: Server) -> None:
    """End a server as Ctrl-C does."""
    server.process.terminate()
    server.process.wait(PATIENCE)


if __name__ == "__main__":
    main()
