"""What people asked for: lists on stdin, one broken model, narrow terminals, the cache."""

import io
import json
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

import huref
from huref.cli import main
from huref.cli.options import LONGEST_LINE, read_names
from huref.cli.tables import as_text, shorten_middle
from huref.errors import HurefError
from huref.lineage.table import Failure
from tests.support.containers import write_gguf
from tests.support.lineage_samples import many
from tests.support.zoo import ZOO

A, B = ZOO / "llama-a", ZOO / "llama-b"


def run(*arguments: object, stdin: str = "") -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments], input=stdin)


def test_a_broken_model_costs_only_its_own_pairs(tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "config.json").write_text("{")
    result = run("compare", A, broken, B, "--json")
    assert result.exit_code == 1
    data = json.loads(result.stdout)
    assert data["models"] == [str(A), str(B)]
    assert len(data["pairs"]) == 1
    assert [failure["model"] for failure in data["failed"]] == [str(broken)]
    assert "not valid JSON" in data["failed"][0]["error"]
    assert result.stderr.strip().splitlines() == [f"huref: {data['failed'][0]['error']}"]


def test_two_broken_models_of_three_leave_no_table(tmp_path: Path) -> None:
    result = run("compare", A, tmp_path / "x", tmp_path / "y", "--json")
    assert result.exit_code == 1
    assert result.stdout == ""
    first, second, last = result.stderr.strip().splitlines()
    assert str(tmp_path / "x") in first
    assert str(tmp_path / "y") in second
    assert last == "huref: 2 of 3 models could not be read, so no pair is left"
    with pytest.raises(HurefError, match="no pair is left") as told:
        huref.compare([A, tmp_path / "x", tmp_path / "y"], skip_failed=True)
    assert str(tmp_path / "x") in str(told.value)
    assert str(tmp_path / "y") in str(told.value)


def test_the_library_raises_unless_told_to_skip(tmp_path: Path) -> None:
    models = [A, B, tmp_path / "nothing"]
    with pytest.raises(HurefError, match="nothing"):
        huref.compare(models)
    table = huref.compare(models, skip_failed=True)
    assert [failure.model for failure in table.failed] == [str(models[2])]


def test_names_come_from_stdin() -> None:
    result = run("compare", "-", "--json", stdin=f"# two models\n{A}\n\n{B}\n")
    assert json.loads(result.stdout)["models"] == [str(A), str(B)]
    mixed = run("compare", A, "-", "--json", stdin=f"{B}\n")
    assert json.loads(mixed.stdout)["models"] == [str(A), str(B)]
    assert run("compare", "-", stdin="").exit_code == 2
    assert run("compare", "-", "-", stdin=f"{A}\n").exit_code == 2


@pytest.mark.parametrize(
    ("text", "names"),
    [
        (b"a\r\nb\r\n", ["a", "b"]),  # of Windows
        (b"\xef\xbb\xbfa\nb", ["a", "b"]),  # with a byte order mark, without a last line end
        (b"  a \t\n\n# no\n#\n b#1 # no", ["a", "b#1"]),
        (b"a\n\xff\xfe\nb\n", ["a", "\ufffd\ufffd", "b"]),  # not UTF-8: one name fails
        (b"x" * 200_000 + b"\nb\n", ["x" * LONGEST_LINE, "b"]),
        ("ü/名\n".encode(), ["ü/名"]),
    ],
)
def test_a_list_may_be_written_anyhow(
    text: bytes, names: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(text), encoding="ascii"))
    assert read_names(["-"]) == names


class HeardError(Exception):
    """Ends a comparison at its first failure."""


def test_a_failure_is_said_before_the_next_model_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HUREF_HOME", str(tmp_path / "home"))

    def stop(failure: Failure) -> None:
        raise HeardError(failure.model)

    nothing = str(tmp_path / "nothing")
    with pytest.raises(HeardError, match="nothing"):
        huref.compare([nothing, A, B], skip_failed=True, on_failure=stop)
    assert not (tmp_path / "home").exists()  # no record was kept: nothing else was read


@pytest.mark.parametrize("command", [("compare",), ("tree", "-o", "tree.svg")])
def test_a_list_without_end_is_refused(command: tuple[str, ...]) -> None:
    """After 1,001 names: neither all of them, nor a model, nor torch is waited for."""
    with subprocess.Popen(["yes", "org/name"], stdout=subprocess.PIPE) as names:
        done = subprocess.run(
            [sys.executable, "-X", "importtime", "-m", "huref", *command, "-"],
            stdin=names.stdout, capture_output=True, text=True, timeout=120,
        )  # fmt: skip
        names.kill()
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("huref: more than 1,000 models are too many")
    assert "huref fleet" in done.stderr
    assert "| torch\n" not in done.stderr


def test_a_tree_is_drawn_of_those_that_can_be_read(tmp_path: Path) -> None:
    out = tmp_path / "tree.json"
    result = run("tree", "-", "-o", out, stdin=f"{A}\n{tmp_path / 'nothing'}\n{B}\n")
    assert result.exit_code == 1
    assert out.exists()
    failure = next(line for line in result.stderr.splitlines() if line.startswith("huref: "))
    assert "nothing" in failure


def test_two_formats_at_once_are_refused() -> None:
    result = run("compare", A, B, "--json", "--csv")
    assert result.exit_code == 2
    assert "--json and --csv exclude each other" in result.stderr


@pytest.mark.parametrize("width", [60, 80, 100])
def test_a_table_fits_the_terminal(width: int) -> None:
    table = huref.compare([A, ZOO / "llama-a-finetune", ZOO / "llama-a-continued", B])
    lines = as_text(table, width).splitlines()
    until = next(i for i, line in enumerate(lines) if line.startswith("false positives"))
    for line in lines[:until]:
        assert len(line) <= width, line
    assert all(label in as_text(table) for label in table.labels)


def test_many_models_lose_no_pair_without_a_word() -> None:
    table = many(12)
    for width in (60, 100):
        text = as_text(table, width)
        assert f"all {len(table.pairs)} pairs" in text
        assert ("does not fit the terminal" in text) == (width == 60)
        until = text.index("all ")
        assert max(map(len, text[:until].splitlines())) <= width


@pytest.mark.parametrize(("name", "short"), [("short", "short"), ("a-very-long-name", "a-ve…ame")])
def test_names_are_shortened_in_the_middle(name: str, short: str) -> None:
    assert shorten_middle(name, 8) == short


def test_the_cache_is_listed_and_emptied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HUREF_HOME", str(tmp_path))
    assert json.loads(run("cache", "list", "--json").stdout)["records"] == []
    run("compare", A, B)
    listed = json.loads(run("cache", "list", "--json").stdout)["records"]
    assert [record["model"] for record in listed] == [str(A), str(B)]
    assert str(A) in run("cache", "list").stdout
    other = tmp_path / "records" / "mine.safetensors"
    other.write_bytes(b"kept")
    assert json.loads(run("cache", "purge", "--json").stdout)["removed"] == 2
    assert other.read_bytes() == b"kept"
    assert json.loads(run("cache", "list", "--json").stdout)["records"] == []


def test_a_fingerprint_has_its_code_in_json(tmp_path: Path) -> None:
    out = tmp_path / "dog.png"
    data = json.loads(run("fingerprint", A, "-o", out, "--json").stdout)
    assert " ".join(data["code"]) in run("fingerprint", A, "-o", out).stdout


def test_compare_names_the_file_that_was_chosen(tmp_path: Path) -> None:
    folder = tmp_path / "gguf"
    folder.mkdir()
    for kind in ("Q4_0", "Q8_0"):
        write_gguf(A, folder / f"a.{kind}.gguf", "llama")
    result = run("compare", A, folder)
    assert result.exit_code == 0, result.stderr
    assert f"{folder}: read a.Q8_0.gguf (GGUF (llama)" in result.stderr
    assert f"{A}: read" not in result.stderr  # plain safetensors need no mention
    assert run("compare", A, folder, "-q").stderr == ""
