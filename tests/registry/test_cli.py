"""`huref registry` and `huref identify`, on the zoo."""

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

import huref
from huref.api.open import open_record
from huref.cli import main
from huref.errors import RecipeError
from huref.invariants.record import Record
from huref.recipe import load_recipe
from huref.registry.entry import make_entry, make_query
from huref.registry.identify import identify, identify_record
from huref.registry.store import Store
from huref.registry.stores import create_store, open_store
from tests.support.hub_server import LoopbackHub
from tests.support.registry_cases import RECIPE
from tests.support.zoo import ZOO

BASES = ("llama-a", "llama-b", "qwen-c")
KEYS = {"model", "sketch_ics", "ics", "log10_p", "verdict"}


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(a) for a in arguments])


def run_json(*arguments: object) -> dict[str, object]:
    result = run(*arguments, "--json")
    assert result.exit_code == 0, result.output
    data: dict[str, object] = json.loads(result.stdout)
    return data


@pytest.fixture(scope="module")
def records() -> dict[str, Record]:
    return {name: open_record(str(ZOO / name)) for name in BASES}


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory, records: dict[str, Record]) -> Store:
    store = create_store(str(tmp_path_factory.mktemp("registry") / "bases"), load_recipe()[0])
    store.add([make_entry(record, measured_by="tests") for record in records.values()])
    return store


@pytest.fixture(scope="module")
def child(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Record and picture of llama-a-finetune."""
    folder = tmp_path_factory.mktemp("child")
    paths = folder / "child.safetensors", folder / "child.png"
    huref.fingerprint(ZOO / "llama-a-finetune", paths[1], record=paths[0])
    return paths


@pytest.fixture
def unreachable(
    tmp_path: Path, records: dict[str, Record], monkeypatch: pytest.MonkeyPatch
) -> Store:
    """Known bases whose weights are nowhere on this machine."""
    monkeypatch.setenv("HUREF_HOME", str(tmp_path / "home"))
    store = create_store(str(tmp_path / "unreachable"), load_recipe()[0])
    for name, record in records.items():
        elsewhere = Record(
            str(tmp_path / "gone" / name), None, record.recipe, record.layers, record.anchors,
            record.terms, record.latent,
        )  # fmt: skip
        store.add([make_entry(elsewhere)])
    return store


def test_a_continuation_descends_from_its_base(bases: Store, tmp_path: Path) -> None:
    out = tmp_path / "four.png"
    found = run_json("identify", ZOO / "llama-a-continued", "--registry", bases.uri, "-o", out)
    assert found["answer"] == "descends"
    assert found["base"] == "llama-a"
    assert found["of"] == 3
    assert float(str(found["log10_stranger"])) < -100
    candidates = found["candidates"]
    assert isinstance(candidates, list)
    assert [set(c) >= KEYS for c in candidates] == [True] * 3
    assert abs(candidates[0]["ics"] - candidates[0]["sketch_ics"]) < 0.02
    assert candidates[0]["log10_p"] < -100
    with Image.open(out) as image:
        assert image.size[0] > 3 * image.size[1]


def test_a_twin_shares_an_initialisation(bases: Store) -> None:
    found = identify(ZOO / "llama-a-twin", bases)
    assert (found.answer, found.base) == ("shared initialisation", "llama-a")
    assert found.sentence == "shares an initialisation with llama-a"


def test_an_unrelated_model_has_no_base(bases: Store) -> None:
    result = run("identify", ZOO / "mistral-d", "--registry", bases.uri)
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith(f"{ZOO / 'mistral-d'}: none of 3 known bases\n")
    assert "with probability 0." in result.stdout
    assert "descends" not in result.stdout


def test_bases_without_weights_are_judged_by_their_sketches(
    unreachable: Store, child: tuple[Path, Path]
) -> None:
    found = identify(child[0], unreachable)
    assert found.answer == "descends"
    assert found.base is not None
    assert found.base.endswith("llama-a")
    best = found.candidates[0]
    assert best.similarity.ics is None
    assert best.evidence.log10_p is None
    assert "from the sketches alone, because its weights cannot be read" in best.evidence.why
    # Sketches cannot tell a shared initialisation from descent.
    assert identify(ZOO / "llama-a-twin", unreachable).answer == "inconclusive"
    found = identify(child[0], unreachable, read=0)
    assert found.answer == "descends"
    assert "its weights were not read" in found.candidates[0].evidence.why


def test_a_score_that_unrelated_models_reach_is_no_answer(
    unreachable: Store, child: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    [match, *_] = unreachable.search(make_query(open_record(str(child[0]))))
    for ics, answer in ((0.17, "none"), (0.4, "inconclusive"), (0.8, "descends")):
        # 90 shared anchors, for which unrelated models' scores have a deviation of 0.047.
        few = dataclasses.replace(match, ics=ics, deviation=0.047, shared_anchors=90)
        monkeypatch.setattr(unreachable, "search", lambda *_, few=few, **__: [few])
        monkeypatch.setattr(unreachable, "count_bases", lambda: 50)
        found = identify_record(open_record(str(child[0])), unreachable, read=0)
        assert found.answer == answer
        assert (found.candidates[0].log10_stranger > -2) == (answer == "none")


def test_records_and_pictures_can_be_identified(bases: Store, child: tuple[Path, Path]) -> None:
    record, picture = child
    assert identify(record, bases).answer == "descends"
    found = identify(picture, bases)
    assert (found.answer, found.base) == ("descends", "llama-a")
    assert found.candidates[0].match.ics is None
    assert "from the latents alone" in found.candidates[0].evidence.why
    assert found.draw().dtype == np.uint8


def test_an_empty_registry_and_one_of_another_recipe(
    tmp_path: Path, child: tuple[Path, Path]
) -> None:
    empty = create_store(str(tmp_path / "empty"), load_recipe()[0])
    found = identify(child[0], empty)
    assert found.sentence == "none of 0 known bases"
    assert found.to_json()["log10_stranger"] is None
    assert run("identify", child[0], "--registry", empty.uri).exit_code == 0
    other = create_store(str(tmp_path / "other"), RECIPE)
    with pytest.raises(RecipeError, match="made by the recipe 'function-1'"):
        identify(child[0], other)


def test_models_that_declare_a_base_are_no_bases(
    tmp_path: Path, records: dict[str, Record], child: tuple[Path, Path]
) -> None:
    store = create_store(str(tmp_path / "r"), load_recipe()[0])
    store.add([make_entry(records["llama-a"], base="org/before"), make_entry(records["qwen-c"])])
    found = identify(child[0], store)
    assert (found.answer, found.of) == ("none", 1)
    found = identify(child[0], store, every=True)
    assert (found.answer, found.of) == ("descends", 2)


@pytest.mark.slow
def test_bases_on_the_hub_are_read_at_the_commit_they_were_measured_at(
    hub: LoopbackHub, tmp_path: Path, child: tuple[Path, Path]
) -> None:
    hub.add("org/base", ZOO / "llama-a")
    uri = tmp_path / "r"
    run("registry", "init", uri)
    assert run_json("registry", "add", uri, "org/base")["added"] == ["org/base"]
    [entry] = open_store(str(uri)).entries()
    assert entry.revision == hub.repositories["org/base"].commit
    assert run_json("registry", "add", uri, "org/base")["known"] == ["org/base"]
    found = run_json("identify", child[0], "--registry", uri)
    assert (found["answer"], found["base"]) == ("descends", "org/base")
    candidates = found["candidates"]
    assert isinstance(candidates, list)
    assert candidates[0]["ics"] > 0.9
    assert any(entry.revision in path for path, _ in hub.requests)


def test_the_default_registry(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bases: Store, child: tuple[Path, Path]
) -> None:
    monkeypatch.setenv("HUREF_HOME", str(tmp_path))
    result = run("identify", child[0])
    assert result.exit_code == 1
    assert result.stderr.startswith(f"huref: there are no known bases at {tmp_path / 'registry'}")
    assert "huref registry init" in result.stderr
    shutil.copytree(bases.uri, tmp_path / "registry")
    assert run_json("identify", child[0], "--read", 0)["base"] == "llama-a"


def test_the_registry_commands(tmp_path: Path, child: tuple[Path, Path]) -> None:
    uri, a, b = tmp_path / "r", ZOO / "llama-a", ZOO / "llama-b"
    assert run_json("registry", "init", uri)["recipe"] == load_recipe()[0].digest
    added = run_json("registry", "add", uri, a, b, "--base", "org/base", "--by", "me")
    assert added | {"added": ["llama-a", "llama-b"], "known": [], "failed": []} == added
    assert run_json("registry", "add", uri, a)["known"] == ["llama-a"]
    listed = run_json("registry", "list", uri)["models"]
    assert isinstance(listed, list)
    assert [row["model"] for row in listed] == ["llama-a", "llama-b"]
    assert {(row["base"], row["measured_by"]) for row in listed} == {("org/base", "me")}
    for verb in (("list", uri), ("search", uri, child[0])):
        shown = run("registry", *verb).stdout
        assert "llama-a" in shown
        assert str(ZOO) not in shown
    found = run_json("registry", "search", uri, child[0], "-n", 1)["found"]
    assert isinstance(found, list)
    assert [row["model"] for row in found] == ["llama-a"]
    assert found[0]["sketch_ics"] > 0.9
    out, copy = tmp_path / "all.jsonl", tmp_path / "copy"
    assert run_json("registry", "export", uri, "-o", out)["models"] == 2
    assert run_json("registry", "remove", uri, a)["removed"] == {str(a): 1}
    missing = run("registry", "remove", uri, a)
    assert missing.exit_code == 1
    assert f"not there: {a}" in missing.stderr
    run("registry", "init", copy)
    assert run("registry", "add", copy, out).exit_code == 0
    assert {entry.model for entry in open_store(str(copy)).entries()} == {"llama-a", "llama-b"}


def test_one_model_that_fails_does_not_stop_the_others(
    tmp_path: Path, child: tuple[Path, Path]
) -> None:
    uri = tmp_path / "r"
    run("registry", "init", uri)
    result = run("registry", "add", uri, child[1], tmp_path / "nothing", ZOO / "qwen-c", "--json")
    assert result.exit_code == 1
    data = json.loads(result.stdout)
    assert data["added"] == ["qwen-c"]
    whys = [failure["why"] for failure in data["failed"]]
    assert whys[0].startswith("a picture carries only the latent")
    assert whys[1].startswith("it is neither a folder, nor a file, nor a Hub id")
    assert result.stderr.splitlines() == [
        f"huref: {model}: {why}"
        for model, why in zip((child[1], tmp_path / "nothing"), whys, strict=True)
    ]


def test_a_missing_registry_is_reported(tmp_path: Path) -> None:
    for verb in ("list", "remove", "add", "search"):
        model = [] if verb == "list" else [ZOO / "llama-a"]
        result = run("registry", verb, tmp_path / "r", *model)
        assert result.exit_code == 1
        assert "no registry; make one with 'huref registry init'" in result.stderr
        assert "Traceback" not in result.stderr
    again = tmp_path / "again"
    run("registry", "init", again)
    assert "there is a registry already" in run("registry", "init", again).stderr
