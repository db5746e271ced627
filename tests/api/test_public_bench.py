"""`huref bench public` on a Hub that serves stand-ins under the list's names, in their layouts."""

import json
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from huref.api.pairs_file import ListedPair, find_list, read_pairs
from huref.cli import main
from tests.support.hub_server import Handler, LoopbackHub
from tests.support.public_stand_ins import write_stand_ins

pytestmark = pytest.mark.slow

# A model of each form of file and kind of name. HUREF_WHOLE_RUNG=1 takes all of the rung, a minute.
KEPT = {
    "openai-community/gpt2", "distilbert/distilgpt2", "monsterapi/gpt2_alpaca-lora",
    "lamptablet/gpt2-Q8_0-GGUF", "microsoft/DialoGPT-small", "facebook/opt-125m",
    "facebook/opt-350m", "Qwen/Qwen2.5-0.5B", "EleutherAI/pythia-160m@step1000",
    "EleutherAI/pythia-160m@step143000",
}  # fmt: skip
RENAMED = {"microsoft/DialoGPT-small": "some-org/DialoGPT-small"}
GATED, GONE = "Qwen/Qwen2.5-0.5B", "facebook/opt-350m"


class _Handler(Handler):
    """Revisions have repositories of their own; a former name is redirected."""

    def _model_info(self, rest: str) -> None:
        name, _, revision = rest.partition("/revision/")
        if name in RENAMED:
            self._answer(307, b"", Location=f"/api/models/{RENAMED[name]}")
        elif f"{name}@{revision}" in self.server_hub.repositories:
            super()._model_info(f"{name}@{revision}")
        else:
            super()._model_info(rest)

    def _file(self, path: str) -> None:
        name, _, rest = path.partition("/resolve/")
        commit = rest.partition("/")[0]
        for hosted, repository in self.server_hub.repositories.items():
            is_revision = hosted.partition("@")[0] == name and repository.commit == commit
            if is_revision or RENAMED.get(name) == hosted:
                name = hosted
                break
        super()._file(f"{name}/resolve/{rest}")


class PublicHub(LoopbackHub):
    """A Hub with revisions and former names."""

    def handler(self) -> type[Handler]:
        return _Handler


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[PublicHub]:
    """As the shared fixture, with the hub of this file."""
    from huggingface_hub import constants

    with PublicHub() as server:
        monkeypatch.setattr(constants, "ENDPOINT", server.url)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub-cache"))
        monkeypatch.setattr(constants, "HF_ASSETS_CACHE", str(tmp_path / "assets-cache"))
        template = server.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        yield server


@pytest.fixture
def rows() -> list[ListedPair]:
    """The pairs of the first rung, of the kept models unless all are asked for."""
    listed = read_pairs(find_list("public")).where({"rung": "1"}).pairs
    whole = "HUREF_WHOLE_RUNG" in os.environ
    return [pair for pair in listed if whole or {pair.id_a, pair.id_b} <= KEPT]


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["bench", *map(str, arguments)])


def write_list(path: Path, rows: list[ListedPair], *more: str) -> Path:
    lines = [f"{p.id_a}\t{p.id_b}\t{p.relation}\t{p.expected}\t{p.older or ''}" for p in rows]
    header = "id_a\tid_b\trelation\texpected\tolder"
    path.write_text("\n".join([header, *lines, *more]) + "\n", "utf-8")
    return path


def test_the_first_rung(hub: PublicHub, rows: list[ListedPair], tmp_path: Path) -> None:
    """Every layout is read, and what is gone, gated or renamed is said by row."""
    folders = write_stand_ins(rows, tmp_path / "hub")
    for name, folder in folders.items():
        if name != GONE:
            hub.add(RENAMED.get(name, name), folder, gated=name == GATED)
    bad = replace(rows[0], expected="the same")
    path = write_list(tmp_path / "pairs.tsv", [*rows, bad], "openai-community/gpt2")
    out = tmp_path / "result.html"
    result = run(path, "--json", "-o", out)
    assert result.exit_code == 1
    data = json.loads(result.stdout)
    failed = {p["line"]: p["why"] for p in data["pairs"] if p["status"] == "not measured"}
    lines = {name: [i for i, p in enumerate(rows, 2) if name in (p.id_a, p.id_b)]
             for name in (GONE, GATED, *RENAMED)}  # fmt: skip
    last = len(rows) + 2
    assert set(failed) == {*lines[GONE], *lines[GATED], last, last + 1}
    assert "no such folder or Hub repository" in failed[lines[GONE][0]]
    assert "gated" in failed[lines[GATED][0]]
    assert "'the same' is no verdict" in failed[last]
    for line in lines[next(iter(RENAMED))]:
        note = f"line {line}: microsoft/DialoGPT-small was renamed to some-org/DialoGPT-small"
        assert note in result.stderr
    measured = [p for p in data["pairs"] if p["status"] in ("right", "wrong", "inconclusive")]
    known = [p for p in measured if p["expected"] != "shared initialisation"]
    assert not [(p["id_a"], p["id_b"], p["why"]) for p in known if p["status"] != "right"]
    assert {p["expected"] for p in known} == {"descends", "unrelated"}
    assert data["of"] == len(measured)
    assert data["of"] + data["disputed"] + data["not_measured"] == len(rows) + 2
    assert "was renamed to" in out.read_text("utf-8")
