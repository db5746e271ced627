"""How results show themselves: short in a terminal, as pictures in a notebook."""

import io
import re
from dataclasses import fields

import numpy as np
import pytest
from PIL import Image

import huref
from huref import progress
from huref.progress import Bar, Step, be_quiet, is_hidden, listening, track
from huref.recipe import load_recipe
from huref.registry.identify import identify_record
from huref.registry.stores import create_store
from huref.report.results import LineageTable
from tests.registry.test_map import make_families
from tests.support.lineage_samples import lineage_table, make_record

HOSTILE = "x/<img src=x onerror=alert(1)>"


@pytest.fixture(scope="module")
def table() -> LineageTable:
    """The samples of the lineage tests, as `huref.compare` returns them."""
    found = lineage_table()
    return LineageTable(**{one.name: getattr(found, one.name) for one in fields(found)})


def size_of(png: bytes) -> tuple[int, int]:
    with Image.open(io.BytesIO(png)) as image:
        assert image.format == "PNG"
        return image.size


def test_a_table(table: LineageTable) -> None:
    assert len(repr(table)) < 200
    assert f"{len(table.records)} models" in repr(table)
    html = table._repr_html_()
    assert html.count("<img ") == len(table.records)
    assert html.count("<tr>") == len(table.pairs) + 1
    assert "<script" not in html
    assert min(size_of(table._repr_png_())) > 200


def test_a_table_in_pandas(table: LineageTable) -> None:
    pandas = pytest.importorskip("pandas")
    frame = table.to_pandas()
    assert isinstance(frame, pandas.DataFrame)
    assert len(frame) == len(table.pairs)
    assert list(frame["verdict"].dropna()) == [
        pair.evidence.verdict for pair in table.pairs if pair.evidence.verdict
    ]


def test_a_fingerprint_and_its_name_is_escaped() -> None:
    image = np.zeros((256, 256, 3), np.uint8)
    dog = huref.Fingerprint(make_record(HOSTILE), image, costs=None)  # type: ignore[arg-type]
    assert len(repr(dog)) < 200
    assert "anchors" not in repr(dog)
    assert size_of(dog._repr_png_()) == (256, 256)
    html = dog._repr_html_()
    assert len(re.findall("<img ", html)) == 1
    assert " ".join(dog.code) in html


def test_an_identification(tmp_path_factory: pytest.TempPathFactory) -> None:
    store = create_store(str(tmp_path_factory.mktemp("r") / "bases"), load_recipe()[0])
    store.add(make_families(0)[:4])
    found = identify_record(make_record(HOSTILE), store, read=0)
    assert len(repr(found)) < 250
    html = found._repr_html_()
    assert len(re.findall("<img ", html)) == 1
    assert min(size_of(found._repr_png_())) > 100


def test_progress_is_told_to_whoever_listens() -> None:
    told: list[Step] = []
    with listening(told.append):
        assert list(track("abc", "letters")) == ["a", "b", "c"]
        with Bar("bytes", unit="B") as bar:
            bar.total = 10
            bar.update(4)
    assert [one.done for one in told if one.what == "letters"] == [0, 1, 2, 3]
    assert told[-1] == Step("bytes", 4, 10, "B")
    list(track("abc", "letters"))
    assert len(told) == 7


def test_bars_are_shown_in_notebooks_and_hidden_by_quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    assert is_hidden() is None
    monkeypatch.setattr(progress, "_in_notebook", lambda: True)
    assert is_hidden() is False
    be_quiet()
    try:
        assert is_hidden() is True
    finally:
        be_quiet(False)
