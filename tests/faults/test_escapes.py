"""Names and texts from outside, in every format that huref writes: nothing acts."""

import csv
import html
import io
import json
import re
import unicodedata
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from huref import escape
from huref.cli.tables import FORMATS, align
from huref.errors import HurefError, one_line
from huref.lineage.build_forest import build_forest
from huref.lineage.evidence import Evidence
from huref.lineage.newick import as_newick
from huref.lineage.similarity import Similarity
from huref.lineage.table import LineageTable, Pair
from huref.report.canvas import Canvas, Words
from huref.report.page import render_report
from huref.report.portraits import Portraits
from huref.report.svg import as_svg
from tests.support.lineage_samples import make_record

NASTY = (
    "\x1b[2J\x1b]0;title\x07", "a\nfake line", "a\r\nb", "=cmd|' /C calc'!A0", "+1", "-1",
    "@SUM(A1)",
    "\t=1", " =1", "＝1", "|x|", "[click](javascript:alert(1))", "![x](http://evil.example/p.png)",
    "<script>alert(1)</script>", "<img src=x onerror=alert(1)>", "http://evil.example",
    "www.evil.example",
    "a@evil.example", "&lt;b&gt;", "\\input{/etc/passwd}", "$x$", "%", "{", "}", "[*]", "*", "]",
    "');drop table--", "a'b", "a,b:c;(d)", "\u202eevil", "\u2028", "\x85", "\x9b31m", "\ufeff",
    "\ufffe",
    "\ud800", "]]>", "--><script>", "```", "`a`", "~~a~~", "__init__", "*_a_*", "\x00", "\x7f",
)  # fmt: skip
ANY = st.text(st.characters(), max_size=40) | st.sampled_from(NASTY)


def _controls(text: str, allowed: str = "") -> list[str]:
    """Characters of a text that act on a terminal or cannot be encoded."""
    return [
        letter
        for letter in text
        if letter not in allowed
        and (unicodedata.category(letter) in ("Cc", "Cs", "Zl", "Zp")
             or letter in "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
    ]  # fmt: skip


def table_of(a: str, b: str, why: str) -> LineageTable:
    """A table of two models with these names, and a reason."""
    records = (make_record(a), make_record(b, 1))
    similarity = Similarity(0.5, {"qk": 0.5, "vo": 0.5, "ffn": 0.5}, 500, 0.5, "")
    return LineageTable(records, (Pair(a, b, similarity, Evidence(why=why)),))


@settings(max_examples=150, deadline=None)
@given(ANY)
@example("\x1b[31m")
def test_a_terminal_gets_one_line_without_controls(text: str) -> None:
    for shown in (escape.terminal(text), one_line(text), str(one_line(HurefError(text)))):
        assert not _controls(shown)
        shown.encode()
    assert not _controls(escape.terminal_lines(text), "\n\t")
    [line] = align([[text, "x"]], left=2)
    assert not _controls(line)


@settings(max_examples=150, deadline=None)
@given(ANY)
def test_no_spreadsheet_computes_a_cell(text: str) -> None:
    cell = str(escape.csv_cell(text))
    buffer = io.StringIO()
    csv.writer(buffer).writerow([cell, 1.5])
    [row] = csv.reader(io.StringIO(buffer.getvalue()))
    assert row == [cell, "1.5"]
    assert not row[0].lstrip().startswith(("=", "+", "-", "@", "\t", "\r", "＝", "＋", "－", "＠"))
    assert not _controls(row[0])
    assert escape.csv_cell(-1.5) == -1.5


@settings(max_examples=150, deadline=None)
@given(ANY)
def test_json_keeps_the_text_and_hides_controls(text: str) -> None:
    written = escape.to_json({"a": text})
    assert json.loads(written) == {"a": text}
    assert not _controls(written)
    written.encode()


@settings(max_examples=150, deadline=None)
@given(ANY)
def test_latex_needs_nothing_and_runs_nothing(text: str) -> None:
    written = escape.latex(text)
    assert not _controls(written)
    known = (
        r"\\(textbackslash|textasciitilde|textless|textgreater|textasciicircum|textasciigrave)\{\}"
    )
    rest = re.sub(known + r"|\\[&%$#_{}]", "", written)
    assert not set(rest) & set("\\&%$#_~^<>")
    assert rest.count("{") == rest.count("}")
    assert not written.startswith(("[", "*"))  # they would be arguments of the line's end before


@settings(max_examples=150, deadline=None)
@given(ANY)
def test_newick_has_one_quoted_label(text: str) -> None:
    written = escape.newick(text)
    assert re.fullmatch(r"'(?:[^']|'')*'", written)
    assert not _controls(written)


@settings(max_examples=150, deadline=None)
@given(ANY)
def test_markdown_has_no_markup(text: str) -> None:
    from markdown_it import MarkdownIt

    written = escape.markdown(text)
    assert not _controls(written)
    parser = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])
    page = parser.render(f"| a | b |\n| --- | --- |\n| x{written}x | y |\n")
    found: list[str] = []

    class Tags(HTMLParser):
        def handle_starttag(self, tag: str, attrs: object) -> None:
            found.append(tag)

    Tags().feed(page)
    assert set(found) <= {"table", "thead", "tbody", "tr", "th", "td"}, page
    assert found.count("td") == 2


@settings(max_examples=40, deadline=None)
@given(ANY, ANY, ANY)
def test_every_table_is_safe_for_its_place(a: str, b: str, why: str) -> None:
    table = table_of(a, b, why)
    for name, write in FORMATS.items():
        text = write(table)
        assert not _controls(text, "\n\t"), name
        text.encode()
    lines = list(csv.reader(io.StringIO(FORMATS["csv"](table))))
    assert len(lines) == 2
    assert len({len(line) for line in lines}) == 1
    assert len(FORMATS["md"](table).split("\n")) == 3
    assert len(FORMATS["latex"](table).split("\n")) == 7
    assert json.loads(FORMATS["json"](table))["pairs"][0]["a"] == a
    newick = as_newick(build_forest(table))
    assert not _controls(newick, "\n")


@settings(max_examples=100, deadline=None)
@given(ANY)
def test_svg_is_well_formed_and_has_no_script(text: str) -> None:
    canvas = Canvas(10, 10, text, text)
    canvas.add(Words(1, 1, text, 8, "ink", "middle"))
    root = ElementTree.fromstring(as_svg(canvas, Portraits(())))
    tags = {element.tag.rpartition("}")[2] for element in root.iter()}
    assert tags <= {"svg", "title", "style", "clipPath", "rect", "text"}


@pytest.mark.parametrize("text", [n for n in NASTY if n.isprintable() or "\x1b" in n])
def test_a_report_holds_names_as_text_alone(text: str) -> None:
    page = render_report(table_of(text, "b", text), Portraits((None, None)))
    counts: dict[str, int] = {}

    class Tags(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            counts[tag] = counts.get(tag, 0) + 1
            assert not any(name.startswith("on") for name, _ in attrs)

    Tags().feed(page)
    assert counts["script"] == 1
    assert "img" not in counts
    assert not _controls(page, "\n\t")
    if text.isalnum():
        assert html.escape(text) in page


def test_a_registry_is_exported_without_formulas(tmp_path: Path) -> None:
    from huref.recipe import load_recipe
    from huref.registry.entry import Entry
    from huref.registry.exchange import export
    from huref.registry.sketch import kept_of
    from huref.registry.stores import create_store, open_store

    recipe = load_recipe()[0]
    store = create_store(str(tmp_path / "registry"), recipe)
    names = ["=1+1", "\x1b[2J", "@a", "ok", "-2"]
    store.add(
        Entry(name, None, recipe.digest, "=2", "2026-01-01", "+me", np.zeros(512, np.float32),
              np.zeros((6, kept_of(recipe.m) // 8), np.uint8), np.ones(recipe.m, np.uint32))
        for name in names
    )  # fmt: skip
    out = tmp_path / "out.csv"
    export(open_store(store.uri), str(out))
    rows = list(csv.reader(out.open(encoding="utf-8")))[1:]
    assert sorted(row[0] for row in rows) == sorted(["'=1+1", "\\x1b[2J", "'@a", "ok", "'-2"])
    assert {row[3] for row in rows} == {"'=2"}
