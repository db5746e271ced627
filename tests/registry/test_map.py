"""A registry's map: families, positions, and the page in a real browser."""

import socket
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from tests.support.browser import CHROMIUM, DRIVER, Browser

pytest.importorskip("sklearn")

from scipy.spatial import cKDTree

from huref.cli import main
from huref.errors import RegistryError
from huref.recipe import load_recipe
from huref.registry.entry import Entry, Query
from huref.registry.map.draw import draw_map
from huref.registry.map.files import save_map
from huref.registry.map.kinship import Kinship, compare_all, find_kin
from huref.registry.map.layout import LEAST_GAP, lay_out
from huref.registry.matrices import from_entries
from huref.registry.sketch import KEPT, pack
from huref.registry.store import Store
from huref.registry.stores import create_store

FAMILIES = (9, 5, 3, 1, 1)
HOSTILE = 'x/<img src="https://example.com/a.png" onerror="alert(1)"></script><script>1'


def make_families(seed: int) -> list[Entry]:
    """Families whose members correlate with their root by 0.9; one declares a wrong base."""
    rng = np.random.default_rng(seed)
    digest = load_recipe()[0].digest
    vocabularies = rng.integers(1, 2**32, (2, 512), dtype=np.uint32)
    vocabularies[1, 100:] = vocabularies[0, 100:]  # nine in ten anchors shared
    entries = []
    for family, size in enumerate(FAMILIES):
        root = rng.standard_normal((6, KEPT)), rng.standard_normal(512)
        for number in range(size):
            kept = 1.0 if number == 0 else 0.9
            sketch, latent = (
                kept * part + np.sqrt(1 - kept**2) * rng.standard_normal(part.shape)
                for part in root
            )
            base = None if number == 0 else f"lab/Base-{family}"
            if (family, number) == (1, 4):
                base = "lab/base-0"  # of another family, and in another case
            name = f"user/tuned-{family}-{number}" if number else f"lab/Base-{family}"
            if (family, number) == (0, 8):
                name = HOSTILE
            anchors = vocabularies[number % 2]
            entries.append(
                Entry(
                    name, None, digest, base, "2026-11-21", "me", latent.astype(np.float32),
                    pack(sketch), anchors,
                )
            )  # fmt: skip
    return entries


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    made = create_store(str(tmp_path_factory.mktemp("map") / "registry"), load_recipe()[0])
    made.add(make_families(0))
    return made


@pytest.fixture(scope="module")
def kinship(store: Store) -> Kinship:
    return find_kin(store)


def test_all_pairs_agree_with_searches(store: Store, kinship: Kinship) -> None:
    for i, label in enumerate(kinship.labels):
        entry = next(e for e in store.entries() if e.model == label.model)
        query = Query(entry.latent, entry.sketch, entry.anchors)
        for match in store.search(query, limit=100):
            j = [other.model for other in kinship.labels].index(match.entry.model)
            assert match.ics is not None
            kept = 0.0 if match.ics < 0.05 else match.ics
            assert kinship.ics[i, j] == pytest.approx(kept, abs=0.05 if kept == 0 else 1e-3)


def test_families_are_found_with_their_roots(kinship: Kinship) -> None:
    names = [label.model for label in kinship.labels]
    assert tuple(len(family) for family in kinship.families) == FAMILIES
    roots = {names[family[0]] for family in kinship.families}
    assert roots == {f"lab/Base-{number}" for number in range(5)}
    assert len(kinship.links) == sum(FAMILIES) - len(FAMILIES)
    assert [names[i] for i in kinship.contradicted] == ["user/tuned-1-4"]
    children = [link.child for link in kinship.links]
    assert len(set(children)) == len(children)


def test_models_with_too_few_shared_anchors_are_unrelated() -> None:
    first, second = make_families(0)[:2]
    foreign = second.anchors.copy()
    foreign[50:] += 1
    matrices = from_entries([first, type(second)(**{**vars(second), "anchors": foreign})])
    assert compare_all(matrices)[0, 1] == 0


@pytest.mark.parametrize("sizes", [(1,), (2,), (3,), (4,), (5, 2, 1), (40, 12, 3) + (1,) * 20])
def test_no_two_dogs_overlap(sizes: tuple[int, ...]) -> None:
    count = sum(sizes)
    ics = np.eye(count, dtype=np.float32)
    families, start = [], 0
    for size in sizes:
        members = range(start, start + size)
        ics[np.ix_(members, members)] = 0.9
        families.append(tuple(members))
        start += size
    np.fill_diagonal(ics, 1)
    points = lay_out(ics, families)
    assert np.isfinite(points).all()
    if count > 1:
        assert cKDTree(points).query(points, k=2)[0][:, 1].min() > 0.95 * LEAST_GAP
    assert np.array_equal(points, lay_out(ics, families))


def test_families_do_not_overlap(kinship: Kinship) -> None:
    points = lay_out(kinship.ics, kinship.families)
    for family in kinship.families[:3]:
        middle = points[list(family)].mean(axis=0)
        others = [i for i in range(len(points)) if i not in family]
        radius = np.linalg.norm(points[list(family)] - middle, axis=1).max()
        assert np.linalg.norm(points[others] - middle, axis=1).min() > radius


def test_large_registries_are_sampled(store: Store) -> None:
    kinship = find_kin(store, most=7)
    assert len(kinship.labels) == 7
    assert kinship.total == sum(FAMILIES)


def test_bad_requests_are_refused(store: Store, tmp_path: Path) -> None:
    empty = create_store(str(tmp_path / "empty"), load_recipe()[0])
    with pytest.raises(RegistryError, match="empty; add models"):
        find_kin(empty)
    result = CliRunner().invoke(main, ["registry", "map", store.uri, "-o", "map.svg"])
    assert result.exit_code == 1
    assert "an .html page or a .png picture" in result.stderr


@pytest.fixture(scope="module")
def page(store: Store, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "map.html"
    drawn = draw_map(store)
    save_map(drawn, path)
    save_map(drawn, path.with_suffix(".png"))
    return path


def test_the_picture_shows_every_dog(page: Path) -> None:
    with Image.open(page.with_suffix(".png")) as image:
        assert min(image.size) > 500
        colours = image.convert("RGB").quantize(64).getcolors()
    assert colours is not None
    assert len(colours) > 30


def test_names_cannot_break_out_of_the_page(page: Path) -> None:
    text = page.read_text("utf-8")
    assert "<img" not in text
    assert text.count("<script") == 2
    assert text.count("</script>") == 2


@pytest.fixture(scope="module")
def browser(page: Path) -> Iterator[Browser]:
    if CHROMIUM is None or DRIVER is None:
        pytest.skip("needs Chromium and chromedriver")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with Browser(port) as started:
        started.open(page)
        yield started


def test_the_page_opens_from_disk_without_requests(browser: Browser, page: Path) -> None:
    assert browser.errors() == []
    elsewhere = [url for url in browser.requests() if not url.startswith("data:")]
    assert elsewhere == [page.resolve().as_uri()]
    assert browser.run("return document.querySelectorAll('#map .model').length") == sum(FAMILIES)
    drawn = "return [...document.querySelectorAll('symbol image')].length"
    assert browser.run(drawn) == sum(FAMILIES)


def test_a_search_marks_matches_and_enter_selects_the_first(browser: Browser) -> None:
    browser.type("#search", "tuned-1")
    assert browser.run("return document.querySelector('#count').textContent") == "4 found"
    assert browser.run("return document.querySelectorAll('.model.found').length") == 4
    browser.type("#search", "-4\ue007")  # the protocol's Enter
    assert browser.run("return document.querySelector('#card h3').textContent") == "user/tuned-1-4"
    card = browser.run("return document.querySelector('#card').textContent")
    assert "lab/base-0" in card
    assert "ICS with the declared base: 0.0" in card
    wide = "return document.querySelector('#map').viewBox.baseVal.width"
    assert browser.run(wide) <= 48 * 14
    browser.click("#all")
    assert browser.run(wide) > 48 * 14 or sum(FAMILIES) < 20


def test_a_dog_can_be_selected_and_its_relatives_followed(browser: Browser) -> None:
    browser.run("const s = document.querySelector('#search'); s.value = '';"
                "s.dispatchEvent(new Event('input'))")  # fmt: skip
    browser.click(".model[aria-label='lab/Base-2'] rect")
    title = "return document.querySelector('#card h3').textContent"
    assert browser.run(title) == "lab/Base-2"
    kin = "return [...document.querySelectorAll('#kin button')].map(b => b.textContent)"
    assert sorted(browser.run(kin)) == ["user/tuned-2-1", "user/tuned-2-2"]
    browser.click("#kin button")
    assert browser.run(title) in ("user/tuned-2-1", "user/tuned-2-2")


def test_the_wheel_zooms_and_names_appear(browser: Browser) -> None:
    browser.click("#all")
    near = "return document.querySelector('#map').classList.contains('near')"
    wide = "return document.querySelector('#map').viewBox.baseVal.width"
    before = browser.run(wide)
    browser.run(
        "const m = document.querySelector('#map'); const b = m.getBoundingClientRect();"
        "m.dispatchEvent(new WheelEvent('wheel', {deltaY: -900, clientX: b.x + b.width / 2,"
        "clientY: b.y + b.height / 2, cancelable: true}))"
    )
    assert browser.run(wide) < before
    assert browser.run(near)
    assert browser.errors() == []


@pytest.mark.parametrize("width", [360, 1300])
def test_no_two_names_overlap(browser: Browser, width: int) -> None:
    browser.resize(width, 800)
    browser.click("#all")
    browser.run("document.querySelector('#map').scrollIntoView()")
    time.sleep(0.3)  # two frames
    overlaps = """
        const boxes = [...document.querySelectorAll('#map text')]
            .filter(t => getComputedStyle(t).display !== 'none' && !t.matches('.covered'))
            .map(t => t.getBoundingClientRect());
        return [boxes.length, boxes.filter((a, i) => boxes.slice(0, i).some(b =>
            a.left < b.right && b.left < a.right && a.top < b.bottom && b.top < a.bottom)).length];
    """
    shown, overlapping = browser.run(overlaps)
    assert overlapping == 0
    assert shown >= 3


def test_a_name_at_the_edge_is_whole(browser: Browser) -> None:
    """The dog farthest right is moved to the right edge; its name moves aside."""
    browser.resize(360, 800)
    browser.click("#all")
    browser.run(
        "const last = models.reduce((a, b) => (b.x > a.x ? b : a)); const wide = view.width / 2;"
        "show({x: last.x - 0.98 * wide, y: last.y - view.height / 4, width: wide})"
    )
    time.sleep(0.3)  # two frames
    overhang, dogs_right, shown = browser.run(
        "const edge = document.querySelector('#map').getBoundingClientRect().right;"
        "const last = models.reduce((a, b) => (b.x > a.x ? b : a));"
        "const node = nodes[models.indexOf(last)]; const dog = node.querySelector('rect');"
        "return [node.querySelector('text').getBoundingClientRect().right - edge,"
        " dog.getBoundingClientRect().right - edge,"
        " node.querySelector('text').getBoundingClientRect().width]"
    )
    assert dogs_right > 0
    assert shown > 0
    assert overhang <= 0


def test_hostile_names_are_shown_as_text(browser: Browser) -> None:
    assert browser.run("return document.images.length") == 0
    titles = browser.run("return [...document.querySelectorAll('title')].map(t => t.textContent)")
    assert HOSTILE in titles
