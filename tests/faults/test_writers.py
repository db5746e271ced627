"""Names from outside in the writers beside the tables: benches, checks, mixtures, notebooks."""

import ast
import json
import unicodedata
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt

import huref
from huref import escape
from huref.api.bench import Bench, BenchPair
from huref.api.bench_journal import BenchJournal
from huref.api.check import Check, Finding, Suggestion
from huref.api.pairs_file import ListedPair
from huref.bounded_yaml import loads as loads_yaml
from huref.cli.bench_tables import as_markdown, as_text
from huref.cli.tables import FORMATS
from huref.lineage.evidence import BlockShares, HalfShares, Mixing
from huref.loader.declarations import Declaration
from huref.report.bench_page import render_bench
from huref.report.notebook import show_rows
from huref.report.portraits import Portraits
from huref.report.share_curve import draw_shares
from huref.report.svg import as_svg
from tests.faults.test_escapes import NASTY, table_of

ANY = st.text(st.characters(), max_size=30) | st.sampled_from(NASTY)
ROOT = Path(huref.__file__).parent


def acting(text: str, allowed: str = "") -> list[str]:
    """Characters of a text that act on a terminal or cannot be encoded."""
    return [
        letter
        for letter in text
        if letter not in allowed
        and (unicodedata.category(letter) in ("Cc", "Cs", "Zl", "Zp")
             or letter in escape.DIRECTION_MARKS)
    ]  # fmt: skip


def bench_of(a: str, b: str) -> Bench:
    """A bench of two rows, of which one was measured, with outside text in every cell."""
    measured = {"verdict": b, "ics": 0.5, "older": None, "a": a, "b": b}
    pairs = (
        BenchPair(ListedPair(2, a, b, a, b, rivals={a: b}), "wrong", a, measured, (b,)),
        BenchPair(ListedPair(3, b, a, a, "descends", fault=b), "not measured", b),
    )
    model = {"model": a, "seconds": 1.0, "bytes_read": 1, "bytes_total": 2, "error": b}
    return Bench(Path("pairs.tsv"), "0" * 12, pairs, (model,), (a,))


class Tags(HTMLParser):
    """The tags of a page and their attributes."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [name for name, _ in attrs]


@settings(max_examples=60, deadline=None)
@given(ANY, ANY)
def test_a_bench_in_markdown_is_a_table_of_text(a: str, b: str) -> None:
    text = as_markdown(bench_of(a, b))
    assert not acting(text, "\n")
    page = Tags()
    page.feed(MarkdownIt("commonmark", {"html": True}).enable("table").render(text))
    plain = {"h1", "h2", "p", "table", "thead", "tbody", "tr", "th", "td"}
    assert set(page.tags) <= plain, text
    assert page.tags.count("table") == 3


@settings(max_examples=60, deadline=None)
@given(ANY, ANY)
def test_a_bench_on_the_terminal_has_as_many_lines_as_rows(a: str, b: str) -> None:
    shown = escape.terminal_lines(as_text(bench_of(a, b)))
    assert not acting(shown, "\n\t")
    assert len(shown.split("\n")) == len(as_text(bench_of("a", "b")).split("\n"))


@settings(max_examples=20, deadline=None)
@given(ANY, ANY)
def test_a_page_of_a_bench_has_no_tags_of_strangers(a: str, b: str) -> None:
    page, harmless = Tags(), Tags()
    page.feed(render_bench(bench_of(a, "descends")))
    harmless.feed(render_bench(bench_of("a", "descends")))
    assert sorted(set(page.tags)) == sorted(set(harmless.tags))
    assert not [name for name in page.attributes if name.startswith("on")]


@pytest.mark.parametrize("name", NASTY)
def test_a_journal_of_a_bench_keeps_names(name: str, tmp_path: Path) -> None:
    path = tmp_path / "journal"
    journal = BenchJournal(path, "recipe", resume=False)
    journal.add_pair({"a": name, "b": "b", "verdict": None})
    journal.add_model({"model": name})
    text = path.read_bytes().decode()
    assert not acting(text, "\n")
    again = BenchJournal(path, "recipe", resume=True)
    if not any(unicodedata.category(letter) == "Cs" for letter in name):  # no JSON has them
        assert set(again.pairs) == {(name, "b")}
        assert set(again.models) == {name}
    path.write_text("[" * 100_000 + "\n" + text)
    assert BenchJournal(path, "recipe", resume=True).pairs == again.pairs


@settings(max_examples=60, deadline=None)
@given(ANY, ANY)
def test_a_check_has_as_many_lines_as_it_has_parts(a: str, b: str) -> None:
    finding = Finding(Declaration(a, (b,), None, relation=b), "undecided", b)
    shown = escape.terminal_lines(str(Check(a, (finding,), (b,))))
    harmless = Finding(Declaration("a", ("b",), None, relation="b"), "undecided", "b")
    assert not acting(shown, "\n\t")
    assert len(shown.split("\n")) == len(str(Check("a", (harmless,), ("b",))).split("\n"))


@settings(max_examples=60, deadline=None)
@given(ANY, ANY)
def test_a_suggestion_is_yaml_with_the_bases_that_it_names(a: str, b: str) -> None:
    text = str(Suggestion((a, b), "merge", (a,)))
    assert not acting(text, "\n")
    if not any(unicodedata.category(letter) == "Cs" for letter in a + b):
        assert loads_yaml(text) == {"base_model": [a, b], "base_model_relation": "merge"}


@settings(max_examples=40, deadline=None)
@given(ANY, ANY)
def test_mixtures_are_safe_for_their_place(a: str, b: str) -> None:
    table = table_of(a, b, "why")
    mixed = Mixing(a, (b, a), (0.7, 0.3), (0.6, 0.2), (0.8, 0.4), base=b)
    from dataclasses import replace

    table = replace(table, mixings=(mixed, Mixing(b, (a,), None, None, None, why="why")))
    for name, write in FORMATS.items():
        text = write(table)
        assert not acting(text, "\n\t"), name
        text.encode()
    assert json.loads(FORMATS["json"](table))["mixings"][0]["child"] == a


@settings(max_examples=40, deadline=None)
@given(ANY, ANY)
def test_curves_of_shares_are_well_formed(a: str, b: str) -> None:
    half = HalfShares((0.7, 0.3), (0.6, 0.2), (0.8, 0.4))
    blocks = tuple(BlockShares(i, half, half, half, (i, i)) for i in range(3))
    mixing = Mixing("c", (a, b), (0.7, 0.3), (0.6, 0.2), (0.8, 0.4), blocks=blocks)
    root = ElementTree.fromstring(as_svg(draw_shares(mixing, (a, b)), Portraits(())))
    tags = {element.tag.rpartition("}")[2] for element in root.iter()}
    assert "script" not in tags
    assert not [name for element in root.iter() for name in element.attrib if name[:2] == "on"]


@settings(max_examples=40, deadline=None)
@given(ANY)
def test_a_notebook_shows_names_as_text(name: str) -> None:
    page = Tags()
    page.feed(str(show_rows([name], [[name]])))
    assert set(page.tags) == {"table", "thead", "tbody", "tr", "th", "td"}


# What writes to a terminal or as JSON without a function of `escape`, and why it may.
ALLOWED = {
    ("cli/main.py", "click.echo"): "one_line escapes the message",
    ("cli/options.py", "click.echo"): "the functions that escape",
    ("serve/worker.py", "print"): "one_line escapes the message",
    ("escape.py", "json.dumps"): "the function that escapes",
    ("api/attest.py", "json.dumps"): "read again in the same function",
    ("evidence/statement.py", "json.dumps"): "bytes that are signed; nobody is shown them",
}


def test_nothing_writes_past_the_functions_that_escape() -> None:
    """A writer that is added later is found here, and is to go through `huref.cli.options`."""
    found = set()
    for path in sorted(ROOT.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Call):
                called = ast.unparse(node.func)
                raw = {keyword.arg for keyword in node.keywords} >= {"ensure_ascii"}
                is_writer = called in ("click.echo", "click.secho", "print", "sys.stdout.write")
                if is_writer or (called in ("json.dumps", "json.dump") and raw):
                    found.add((str(path.relative_to(ROOT)), called))
    assert found <= ALLOWED.keys()
