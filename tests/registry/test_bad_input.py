"""Registries and lists that cannot be used give one line on stderr each."""

import shutil
import socket
from pathlib import Path

import pytest
from click.testing import CliRunner

from huref.cli import main
from huref.recipe import load_recipe
from huref.registry.exchange import export
from huref.registry.stores import create_store, open_store
from tests.support.registry_cases import RECIPE, random_entry


def fails(*arguments: object) -> str:
    """The line on stderr of a command that fails."""
    result = CliRunner().invoke(main, [str(a) for a in arguments])
    assert result.exit_code == 1, result.output
    assert isinstance(result.exception, SystemExit)
    lines = result.stderr.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("huref: ")
    return lines[0]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    create_store(str(tmp_path / "bases"), RECIPE).add([random_entry(1), random_entry(2)])
    return tmp_path / "bases"


def test_missing_segments_are_named(folder: Path) -> None:
    shutil.rmtree(folder / "segments")
    assert "restore the registry from a copy" in fails("registry", "remove", folder, "org/model-1")
    assert "the file is missing; restore" in fails(
        "registry", "export", folder, "-o", folder / "x.jsonl"
    )


def test_a_foreign_folder_among_the_segments_is_left_alone(folder: Path) -> None:
    (folder / "segments" / "mine").mkdir()
    assert open_store(str(folder)).remove("org/model-1") == 1
    assert (folder / "segments" / "mine").is_dir()


def test_files_that_are_no_export_are_refused(folder: Path, tmp_path: Path) -> None:
    assert "cannot be read (No such file" in fails("registry", "add", folder, tmp_path / "x.jsonl")
    (tmp_path / "binary.jsonl").write_bytes(b"\xae\xff\x00" * 99)
    assert "it is no file that 'huref registry export' wrote" in fails(
        "registry", "add", folder, tmp_path / "binary.jsonl"
    )
    export(open_store(str(folder)), str(tmp_path / "cut.jsonl"))
    whole = (tmp_path / "cut.jsonl").read_bytes()
    (tmp_path / "cut.jsonl").write_bytes(whole[:-400] + b"\xae\xff")
    empty = create_store(str(tmp_path / "empty"), RECIPE)
    line = fails("registry", "add", empty.uri, tmp_path / "cut.jsonl")
    assert line == f"huref: {tmp_path / 'cut.jsonl'}: line 3 is damaged"
    assert len(empty) == 0


def test_a_damaged_lance_table_is_reported(tmp_path: Path) -> None:
    pytest.importorskip("lancedb")
    uri = tmp_path / "bases.lance"
    create_store(str(uri), RECIPE).add([random_entry(1)])
    for manifest in uri.rglob("*.manifest"):
        manifest.write_bytes(b"junk")
    line = fails("registry", "list", uri)
    assert "damaged, or cannot be reached" in line
    assert ".rs" not in line


@pytest.mark.parametrize("engine", ["ray:127.0.0.1:{}", "ray://127.0.0.1:{}"])
def test_a_missing_cluster_is_reported_at_once(tmp_path: Path, engine: str) -> None:
    pytest.importorskip("ray")
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    (tmp_path / "list.txt").write_text("org/model\n")
    create_store(str(tmp_path / "bases"), load_recipe()[0])
    name = engine.format(port)
    line = fails("fleet", tmp_path / "list.txt", "-o", tmp_path / "bases", "--engine", name)
    assert f"no Ray cluster answers at {name}" in line
