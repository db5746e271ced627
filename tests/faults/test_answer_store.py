"""Stored answers of endpoints: full and damaged files are one line, odd rows are asked again."""

import sqlite3
from pathlib import Path

import pytest

from huref.blackbox.answers import AnswerStore, TokenAnswer
from huref.blackbox.capabilities import Capabilities, _key, recall, remember
from huref.errors import EndpointError

ANSWER = TokenAnswer("a", {1: -0.5}, {}, (("a", -0.5),), (("b", None), ("c", -1.0)), 2, 3)


@pytest.fixture
def store(tmp_path: Path) -> AnswerStore:
    found = AnswerStore(tmp_path / "answers.sqlite")
    found.put("k", ANSWER)
    return found


def test_an_answer_is_read_as_it_was_stored(store: AnswerStore) -> None:
    assert store.get("k") == ANSWER
    assert store.get("other") is None


def test_a_full_disk_is_one_line_and_keeps_what_is_there(store: AnswerStore) -> None:
    assert store.path is not None
    file = store._file
    pages = file.execute("PRAGMA page_count").fetchone()[0]
    file.execute(f"PRAGMA max_page_count = {pages}")  # SQLite then says what it does of full disks
    with pytest.raises(EndpointError, match=r"cannot be stored there .*full"):
        store.put("long", TokenAnswer("a" * 100_000))
    with pytest.raises(EndpointError, match=r"cannot be stored there .*full"):
        store.remember("long", "a" * 100_000)
    assert store.get("k") == ANSWER
    assert AnswerStore(store.path).get("k") == ANSWER


@pytest.mark.parametrize(
    "row",
    [
        "", "null", "[]", "5", '"a"', "{}", '{"text": 1}', "[" * 500, '{"text": "a", "by_id": []}',
        '{"text": "a", "by_id": {"x": 1}, "by_text": {}}', 10**12, b"{}", 1.5, None,
        '{"text": "a", "by_id": {"1": {}}, "by_text": {}}', "a" * 100_000, "\\ud800", "NaN",
        '{"text": "a", "by_id": {}, "by_text": {}, "generated": [1]}',
        '{"text": "a", "by_id": {}, "by_text": {}, "prompt": 7}',
    ],
)  # fmt: skip
def test_odd_rows_are_no_answers(row: object, store: AnswerStore) -> None:
    for table in ("answers", "facts"):
        store._file.execute(f"INSERT OR REPLACE INTO {table} VALUES ('k', ?)", (row,))
    assert store.get("k") is None
    store.recall("k")  # any value, but no failure
    store.put("k", ANSWER)
    assert store.get("k") == ANSWER


@pytest.mark.parametrize("fact", [None, 5, [], {}, {"others": 1}, {"others": [], "a_new_field": 1}])
def test_capabilities_of_another_version_are_detected_again(
    fact: object, store: AnswerStore
) -> None:
    store.remember(_key("u", None), fact)
    assert recall(store, "u", None) is None
    found = Capabilities("chat", "m", others=(Capabilities("completions", "m"),))
    remember(store, "u", None, found)
    assert recall(store, "u", None) == found


@pytest.mark.parametrize("data", [b"no database", b"SQLite format 3\0" + bytes(4000)])
def test_a_file_that_is_no_store_is_one_line(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "answers.sqlite"
    path.write_bytes(data)
    with pytest.raises(EndpointError, match="cannot be stored there") as caught:
        AnswerStore(path).get("k")
    assert "\n" not in str(caught.value)


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file" / "a.sqlite", Path("/proc/huref/a.sqlite")):
        with pytest.raises(EndpointError, match="cannot be stored there"):
            AnswerStore(path)


def test_other_tables_are_one_line(tmp_path: Path) -> None:
    path = tmp_path / "answers.sqlite"
    file = sqlite3.connect(path)
    file.execute("CREATE TABLE answers (other)")
    file.commit()
    file.close()
    store = AnswerStore(path)
    with pytest.raises(EndpointError, match="no stored answers"):
        store.get("k")
    with pytest.raises(EndpointError, match="cannot be stored there"):
        store.put("k", ANSWER)
