"""The report of a comparison, as a reader and a browser see it."""

import base64
import hashlib
import re
from collections import Counter
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from huref.cli import main
from huref.cli.tables import FORMATS, counted
from huref.lineage.build_forest import build_forest
from huref.lineage.evidence import Evidence, LayerMap
from huref.lineage.similarity import Similarity
from huref.lineage.table import LineageTable
from huref.report.heatmap import cluster, draw_heatmap, verdict_marks
from huref.report.layer_map_drawing import describe_sources
from huref.report.page import render_report
from huref.report.portraits import Portraits, draw_portraits
from huref.report.sheet import draw_table
from huref.report.wording import figure, probability, spans, summary
from tests.support.lineage_samples import NASTY, descends, lineage_table, make_table, many, verdict
from tests.support.zoo import ZOO

VOID = {"meta", "link", "input", "br", "image", "rect", "use"}


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(a) for a in arguments])


class Page(HTMLParser):
    """What a browser makes of a page: elements, attributes, and the text that is shown."""

    def __init__(self, html: str):
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.words: list[str] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "script" not in self.open and "style" not in self.open:
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    def count(self, tag: str) -> int:
        return sum(name == tag for name, _ in self.elements)


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HUREF_HOME", str(tmp_path_factory.mktemp("home")))


@pytest.fixture(scope="module")
def table() -> LineageTable:
    return lineage_table()


@pytest.fixture(scope="module")
def page(table: LineageTable) -> Page:
    return Page(render_report(table, draw_portraits(table)))


def test_the_page_is_whole(page: Page, table: LineageTable) -> None:
    assert page.open == []
    ids = [str(a["id"]) for _, a in page.elements if "id" in a]
    assert len(ids) == len(set(ids))
    targets = {str(a["href"])[1:] for tag, a in page.elements if tag in ("a", "use")}
    assert targets <= set(ids)
    assert page.count("symbol") == len(table.records)
    for heading in ("Lineage tree", "Heat map", "Verdicts", "Layer maps", "Mixing shares"):
        assert heading in page.text
    for pair in table.pairs:
        assert pair.why in page.text
    for record in table.records:
        assert str(record.revision) in page.text
        assert record.recipe.digest in page.text
    assert "10−310" in page.text.replace(" ", "")
    assert "70 % (60 to 80 %)" in page.text


def test_the_page_names_families_and_relations(page: Page) -> None:
    assert "base, tuned and tuned-more are one family." in page.text
    assert "twin has the same initialisation as base, but was trained independently." in page.text
    assert "nearer the root than" in page.text


def test_a_splice_does_not_relate_its_parents() -> None:
    """Its parents are in one family only because of it, and the summary says so."""
    first = LayerMap((0, 1), (0, 1), np.eye(2), (0, None))
    second = LayerMap((0, 1), (0, 1), np.eye(2), (None, 1))
    alike = {(0, 1): 0.9, (1, 2): 0.4}
    for found, is_spliced in ((first, False), (second, True)):
        kin = {
            (0, 1): replace(descends(), layer_map=first),
            (0, 2): verdict("unrelated"),
            (1, 2): replace(descends(), layer_map=found),
        }
        said = summary(build_forest(make_table(["one", "spliced", "other"], alike, kin)))
        sentence = "spliced has blocks of one and of other, which are unrelated."
        assert said.endswith(sentence) == is_spliced


def test_blocks_are_named_by_their_spans() -> None:
    assert spans((0, 1, 2, 3, 4, 7)) == "0-4, 7"
    assert spans((2,)) == "2"


def test_the_page_sends_no_requests(page: Page) -> None:
    for tag, attributes in page.elements:
        assert tag not in ("iframe", "object", "embed", "form", "base", "img"), tag
        for key, value in attributes.items():
            assert not key.startswith("on"), (tag, key)
            if key in ("href", "src", "action", "srcset", "poster", "data"):
                assert str(value).startswith(("#", "data:")), (tag, key, value)
    (policy,) = (a for t, a in page.elements if t == "meta" and "http-equiv" in a)
    assert str(policy["content"]).startswith("default-src 'none'; img-src data:")


def test_names_cannot_become_markup(table: LineageTable) -> None:
    html = render_report(table, Portraits((None,) * len(table.records)))
    assert NASTY in table.models
    assert html.count("<script>") == 1
    assert "alert('x')</script>" not in html
    assert "<script>alert" not in html
    assert "\u202e" not in html
    assert "\x00" not in html
    page = Page(html)
    assert "evil/<script>alert('x')</script>&\"" in page.text
    assert page.count("script") == 1


def test_the_policy_lets_the_pages_own_script_run(table: LineageTable) -> None:
    html = render_report(table, Portraits((None,) * len(table.records)))
    script = html.partition("<script>")[2].partition("</script>")[0]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in html
    assert "</" not in script


def test_dark_mode_defines_all_colours(table: LineageTable) -> None:
    html = render_report(table, Portraits((None,) * len(table.records)))
    assert "prefers-color-scheme:dark" in html
    used = set(re.findall(r"var\(--([\w-]+)\)", html))
    defined = set(re.findall(r"--([\w-]+):#", html))
    assert used <= defined


@pytest.mark.slow
def test_fifty_models_stay_readable() -> None:
    table = many(50)
    generator = np.random.default_rng(0)
    noise = [generator.integers(0, 255, (64, 64, 3), dtype=np.uint8) for _ in range(50)]
    portraits = Portraits(tuple(noise))  # compresses worse than any dog
    html = render_report(table, portraits)
    assert len(html) < 4_000_000
    page = Page(html)
    assert page.count("symbol") == 50
    rows = Counter(tag for tag, _ in page.elements)["tr"]
    assert rows == 1225 + 50 + 3  # pairs, models, and the heads of the tables
    assert "There are 10 families" in page.text
    canvas = draw_heatmap(table)
    assert canvas.width < 1400
    picture = draw_table(table, portraits=portraits)
    assert max(picture.shape) < 6000
    first_row = np.flatnonzero((picture[:100] != picture[0, 0]).any(axis=(0, 2)))
    assert picture.shape[1] - first_row.max() < 160  # dogs as wide as the map


def test_the_heat_map_puts_relatives_side_by_side() -> None:
    table = many(30)
    _, order = cluster(table)
    assert sorted(order) == list(range(30))
    families = [model // 5 for model in order]
    changes = sum(a != b for a, b in pairwise(families))
    assert changes == 5  # six families in six runs


def test_a_table_without_evidence_or_weights_is_shown_too() -> None:
    table = make_table(["a", "b", "c"], {}, {})
    unknown = Similarity(None, None, None, None, "not comparable")
    pictured = Similarity(None, None, None, 0.97, "a picture carries only the latent")
    silent = tuple(
        replace(pair, similarity=similarity, evidence=Evidence())
        for pair, similarity in zip(table.pairs, (pictured, unknown, unknown), strict=True)
    )
    page = Page(render_report(LineageTable(table.records, silent), draw_portraits(table)))
    assert "no verdict" in page.text
    assert "a picture carries only the latent" in page.text
    assert "a and b are one family" in page.text
    assert "z 0.97" in page.text


def test_a_table_without_dogs_is_its_heat_map() -> None:
    table = make_table(["a", "b"], {}, {})
    without = draw_table(table, portraits=Portraits((None, None)))
    dogs = draw_table(table, portraits=Portraits((np.zeros((8, 8, 3), np.uint8),) * 2))
    assert without.shape[0] < dogs.shape[0]


def test_layer_maps_in_words() -> None:
    found = LayerMap((0, 1, 2, 3, 4), (0, 1, 2, 3), np.zeros((5, 4)), (0, 1, 4, None))
    assert describe_sources(found) == "0-1 from 0-1, 2 from 4, 3 from none"


def test_counts_use_the_singular_for_one() -> None:
    assert [counted(n, "model") for n in (0, 1, 2, 1234)] == [
        "0 models",
        "1 model",
        "2 models",
        "1,234 models",
    ]
    assert counted(1, "family", "families") == "1 family"
    assert counted(2, "family", "families") == "2 families"


def test_figures_in_words() -> None:
    assert figure(-0.0001) == "0.000"
    assert figure(-0.25) == "−0.250"
    assert figure(None) == "–"
    assert probability(None) == ("–", "")
    assert probability(-0.301) == ("0.500", "")
    assert probability(-39210.4) == ("10", "−39,210")  # the p-value is at most that


@pytest.mark.slow
def test_compare_writes_the_kind_that_the_name_asks_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    models = [ZOO / name for name in ("llama-a", "llama-a-finetune", "llama-b")]
    out = tmp_path / "out"
    out.mkdir()
    result = run("compare", *models, "-o", out / "report.html", "--latex")
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith(r"\begin{tabular}")
    page = Page((out / "report.html").read_text("utf-8"))
    assert "llama-a and llama-a-finetune are one family" in page.text
    assert run("compare", *models, "-o", out / "table.png").exit_code == 0
    with Image.open(out / "table.png") as image:
        assert image.height > image.width / 2
    assert sorted(path.name for path in out.iterdir()) == ["report.html", "table.png"]
    refused = run("compare", *models, "-o", out / "table.pdf")
    assert refused.exit_code == 2
    assert ".html, .png" in refused.stderr
    before = (out / "report.html").read_bytes()

    def fail(*_: object) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(Path, "replace", fail)
    assert run("compare", *models, "-o", out / "report.html").exit_code == 1
    assert (out / "report.html").read_bytes() == before
    assert len(list(out.iterdir())) == 2


def test_latex_is_escaped() -> None:
    table = make_table(["a_b", r"50% \input{x} ~^#$&"], {}, {(0, 1): verdict("unrelated")})
    text = FORMATS["latex"](table)
    assert r"a\_b & 50\% \textbackslash{}input\{x\}" in text
    assert r"\textasciitilde{}\textasciicircum{}\#\$\&" in text
    body = text.splitlines()[2:-1]
    assert all(len(re.findall(r"(?<!\\)&", line)) == 8 for line in body if "hline" not in line)


def test_signs_of_verdicts_differ_in_shape() -> None:
    words = ("descends", "shared initialisation", "unrelated", "inconclusive")
    shapes = {
        tuple((type(mark).__name__, getattr(mark, "filled", None)) for mark in marks)
        for marks in (verdict_marks(word, (0.0, 0.0), 30.0) for word in words)
    }
    assert len(shapes) == len(words)
