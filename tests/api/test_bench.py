"""`huref bench`: lists of pairs with expected verdicts."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

import huref
import huref.api.bench
from huref.api.open import measure, open_record
from huref.api.pairs_file import PairList, find_list, parse_rivals, read_pairs
from huref.cli import main
from huref.errors import HurefError
from huref.lineage.calibration import exact_interval
from tests.support.zoo import ZOO

HEADER = "id_a\tid_b\trelation\texpected"


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Records of zoo models: they are compared without reading weights."""
    folder = tmp_path_factory.mktemp("records")
    names = ("llama-a", "llama-a-finetune", "llama-b", "llama-a-twin")
    for name in names:
        open_record(str(ZOO / name)).save(folder / f"{name}.safetensors")
    return {name: str(folder / f"{name}.safetensors") for name in names}


def write(path: Path, *rows: str, header: str = HEADER) -> Path:
    path.write_text("\n".join([header, *rows]) + "\n", "utf-8")
    return path


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["bench", *map(str, arguments)])


@pytest.fixture
def listed(records: dict[str, str], tmp_path: Path) -> Path:
    a, child, b, twin = (
        records[name] for name in ("llama-a", "llama-a-finetune", "llama-b", "llama-a-twin")
    )
    rows = (
        f"{a}\t{child}\ttuned\tdescends\ta\tREEF=.9; PDF=p<0.01; twice\tvendor",
        f"{b}\t{a}\tstrangers\tunrelated\t\t\t",
        f"{b}\t{child}\tstrangers\tdescends\t\t\twrong label",
        f"{a}\t{twin}\ttwins\tdisputed\t\t\t",
        f"{a}\torg/is-gone\tstrangers\tunrelated\t\t\t",
    )
    return write(tmp_path / "pairs.tsv", *rows, header=f"{HEADER}\tolder\trivals\torigin")


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """A name that is no file is not looked for on a network."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


def test_counts_by_relation(listed: Path, tmp_path: Path) -> None:
    outs = [tmp_path / f"result{kind}" for kind in (".json", ".md", ".html")]
    result = run(listed, *(part for out in outs for part in ("-o", out)), "--json")
    assert result.exit_code == 1
    assert f"{listed}: line 6: org/is-gone: " in result.stderr
    data = json.loads(result.stdout)
    assert json.loads(outs[0].read_text()) == data
    assert [data[key] for key in ("right", "wrong", "inconclusive", "of")] == [2, 1, 0, 3]
    assert (data["disputed"], data["not_measured"]) == (1, 1)
    assert data["right_interval"] == list(exact_interval(2, 3))
    by_name = {group["relation"]: group for group in data["relations"]}
    assert list(by_name) == ["tuned", "strangers", "twins"]
    strangers = by_name["strangers"]
    assert [strangers[key] for key in ("right", "wrong", "of", "not_measured")] == [1, 1, 2, 1]
    assert (by_name["twins"]["of"], by_name["twins"]["disputed"]) == (0, 1)
    first = data["pairs"][0]
    assert first["rivals"] == {"REEF": ".9", "PDF": "p<0.01; twice"}
    assert first["others"] == {"origin": "vendor"}
    assert first["direction"] in ("right", "silent")
    assert [pair["status"] for pair in data["pairs"]] == [
        "right", "right", "wrong", "disputed", "not measured",
    ]  # fmt: skip
    assert data["models"][-1]["model"] == "org/is-gone"
    assert data["models"][-1]["error"]
    markdown, page = (out.read_text("utf-8") for out in outs[1:])
    assert r"REEF .9; PDF p\<0.01; twice" in markdown
    assert "p&lt;0.01" in page
    assert "<script src" not in page


def test_all_right_is_exit_code_0(records: dict[str, str], tmp_path: Path) -> None:
    row = f"{records['llama-a']}\t{records['llama-a-finetune']}\tx\tdescends"
    result = run(write(tmp_path / "pairs.tsv", "# a comment", "", row))
    assert result.exit_code == 0, result.output
    assert re.search(r"^x +1 +1 ", result.stdout, re.M)


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (
            "{a}\t{b}\tx\tparent",
            "'parent' is no verdict; expected is one of descends, contains parts",
        ),
        ("{a}\t{b}\tx\tDescends", "'Descends' is no verdict"),
        ("{a}\t{b}\tx\t", "the column 'expected' is empty"),
        ("{a}\t{b}", "the column 'expected' is empty"),
        ("{a}\t\tx\tdescends", "the column 'id_b' is empty"),
        ("\t{b}\tx\tdescends", "the column 'id_a' is empty"),
        ("{a}\t{b}\tx\tdescends\tmore", "it has more cells than the header: 'more'"),
        ("{a}\tno such model\tx\tdescends", "neither a folder, nor a file, nor a Hub id"),
        ("{a}\t{list}\tx\tdescends", "pairs.tsv"),
        ("\x1b[2J\t{b}\tx\tdescends", "\\x1b[2J"),
    ],
)
def test_a_bad_row_costs_itself(
    row: str, reason: str, records: dict[str, str], tmp_path: Path
) -> None:
    a, b = records["llama-a"], records["llama-b"]
    path = tmp_path / "pairs.tsv"
    write(path, row.format(a=a, b=b, list=path), f"{a}\t{b}\ty\tunrelated")
    result = run(path, "--json")
    assert result.exit_code == 1
    assert "pairs.tsv: line 2: " in result.stderr
    assert reason in result.stderr
    assert "\x1b" not in result.stderr
    data = json.loads(result.stdout)
    assert (data["right"], data["of"], data["not_measured"]) == (1, 1, 1)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "the list of pairs is empty"),
        (HEADER.encode(), "it lists no pairs"),
        (b"id_a\tid_b\trelation\na\tb\tc\n", "there is no column 'expected'"),
        (b"a\tb\tx\tdescends\n", "there is no column 'id_a' and no column 'id_b'"),
        (b"id_a\tid_a\tid_b\texpected\na\ta\tb\tdescends\n", "several columns 'id_a'"),
        (HEADER.encode() + b"\n\xff\xfe\n", "not a text in UTF-8"),
    ],
)
def test_a_list_that_cannot_be_read(content: bytes, reason: str, tmp_path: Path) -> None:
    path = tmp_path / "pairs.tsv"
    path.write_bytes(content)
    result = run(path)
    assert result.exit_code == 1
    assert reason in result.stderr
    assert result.stderr.count("\n") == 1
    assert run(tmp_path / "missing.tsv").exit_code == 1
    assert "it is a folder" in run(tmp_path).stderr


def test_a_list_without_relations_is_measured(records: dict[str, str], tmp_path: Path) -> None:
    row = f"{records['llama-a']},{records['llama-b']},unrelated"
    result = run(write(tmp_path / "pairs.csv", row, header="id_a,id_b,expected"))
    assert result.exit_code == 1
    assert "there is no column 'relation'" in result.stderr
    assert re.search(r"^- +1 +1 ", result.stdout, re.M)


def test_a_stopped_run_is_continued(
    listed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever was measured before the interruption is not read again, not even a broken line."""
    out = tmp_path / "result.json"
    opened: list[str] = []

    def stop_at_the_third(name: str, *arguments: Any, **options: Any) -> Any:
        opened.append(name)
        if len(opened) == 3:
            raise KeyboardInterrupt
        return measure(name, *arguments, **options)

    monkeypatch.setattr(huref.api.bench, "measure", stop_at_the_third)
    assert run(listed, "-o", out).exit_code == 130
    assert not out.exists()
    journal = tmp_path / "result.json.journal"
    with journal.open("ab") as file:
        file.write(b'{"huref": "0.1.0", "rec')  # as a crash leaves it
    opened[:] = ["counted", "from", "here"]
    assert run(listed, "-o", out, "--resume").exit_code == 1
    assert json.loads(out.read_text())["of"] == 3
    lines = [json.loads(line) for line in journal.read_text().splitlines() if line.endswith("}")]
    pairs = [(line["pair"]["a"], line["pair"]["b"]) for line in lines if "pair" in line]
    assert len(pairs) == len(set(pairs)) == 4  # the first was not measured again
    opened[:] = ["counted", "from", "here"]
    assert run(listed, "-o", out, "--resume").exit_code == 1
    assert opened[-1] == "org/is-gone"  # only the pair that failed is tried again
    assert len(opened) == 5
    assert run(listed, "--resume").exit_code == 2


def test_rows_are_chosen_by_their_cells(listed: Path) -> None:
    data = json.loads(run(listed, "--where", "relation=tuned", "--json").stdout)
    assert (data["right"], len(data["pairs"])) == (1, 1)
    assert "there is no column 'rung'" in run(listed, "--where", "rung=1").stderr
    assert "no row has origin=x" in run(listed, "--where", "origin=x").stderr


def test_rivals() -> None:
    assert parse_rivals("HuRef |z|=44.2; REEF=p<0.01; p=.1") == {
        "HuRef |z|": "44.2", "REEF": "p<0.01", "p": ".1",
    }  # fmt: skip
    assert parse_rivals("MPK=none; AUC 1.0; x") == {"MPK": "none; AUC 1.0; x"}
    assert parse_rivals("free text") == {"free text": ""}


@pytest.fixture(scope="module")
def public() -> PairList:
    return read_pairs(find_list("public"))


def test_the_first_rung_of_public_pairs_is_small(public: PairList) -> None:
    assert not public.faults
    assert not [pair for pair in public.pairs if pair.fault]
    keys = [(pair.id_a, pair.id_b) for pair in public.pairs]
    assert len(keys) == len(set(keys))
    first = public.where({"rung": "1"})
    bytes_read = {}
    for pair in first.pairs:
        for side, name in (("a", pair.id_a), ("b", pair.id_b)):
            assert float(pair.others[f"weights_{side}"]) <= 1000
            bytes_read[name] = float(pair.others[f"read_{side}"])
    assert sum(bytes_read.values()) <= 10_000  # MB
    assert {pair.expected for pair in first.pairs} == {
        "descends", "shared initialisation", "unrelated", "disputed",
    }  # fmt: skip
    with pytest.raises(HurefError, match="no row has rung=9"):
        public.where({"rung": "9"})


def test_the_function_is_public(records: dict[str, str], tmp_path: Path) -> None:
    row = f"{records['llama-a']}\t{records['llama-b']}\tx\tunrelated"
    found = huref.bench(write(tmp_path / "pairs.tsv", row))
    assert found.is_complete
    assert found.score.counts == {"right": 1}
