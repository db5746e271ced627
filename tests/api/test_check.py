"""`huref check`: declared against measured, and which files a declaration may open."""

import json
import shutil
from pathlib import Path

import gguf
import numpy as np
import pytest
from click.testing import CliRunner, Result

from huref.api.check import check
from huref.cli import main
from huref.errors import HurefError
from huref.lineage.evidence import Direction, Evidence
from huref.lineage.table import LineageTable
from huref.loader.declarations import Declaration, read_declarations
from huref.loader.model_name import open_repository
from tests.support.hub_server import LoopbackHub
from tests.support.lineage_samples import make_table, verdict, write_card
from tests.support.zoo import ZOO


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["check", *(str(a) for a in arguments)])


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HUREF_HOME", str(tmp_path_factory.mktemp("home")))


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A copy of a fine-tune of llama-a, to be given declarations."""
    return Path(shutil.copytree(ZOO / "llama-a-finetune", tmp_path / "model"))


@pytest.fixture
def bases(hub: LoopbackHub) -> LoopbackHub:
    hub.add("org/llama-a", ZOO / "llama-a")
    hub.add("org/llama-b", ZOO / "llama-b")
    return hub


def declared(folder: Path) -> dict[str, Declaration]:
    return {one.base: one for one in read_declarations(open_repository(str(folder)))[0]}


def edit_config(folder: Path, **changes: object) -> None:
    config = json.loads((folder / "config.json").read_text("utf-8")) | changes
    (folder / "config.json").write_text(json.dumps(config), "utf-8")


def test_a_true_declaration_is_confirmed(bases: LoopbackHub, model: Path) -> None:
    write_card(model, "base_model: org/llama-a\nbase_model_relation: finetune")
    result = run(model)
    assert result.exit_code == 0, result.output
    assert "org/llama-a  (finetune; README.md)" in result.stdout
    assert "confirmed" in result.stdout
    assert "descends: " in result.stdout


def test_a_false_declaration_exits_with_three(bases: LoopbackHub, model: Path) -> None:
    write_card(model, "base_model:\n- org/llama-a\n- org/llama-b\nbase_model_relation: merge")
    result = run(model, "--json")
    assert result.exit_code == 3
    data = json.loads(result.stdout)
    assert data["answer"] == "contradicted"
    found = {one["base"]: one for one in data["declared"]}
    assert [found[f"org/llama-{x}"]["status"] for x in "ab"] == ["confirmed", "contradicted"]
    assert found["org/llama-b"]["measured"]["verdict"] == "unrelated"
    assert found["org/llama-b"]["relation"] == "merge"


def test_a_shared_initialisation_contradicts_a_declared_base(
    bases: LoopbackHub, tmp_path: Path
) -> None:
    twin = Path(shutil.copytree(ZOO / "llama-a-twin", tmp_path / "twin"))
    write_card(twin, "base_model: org/llama-a")
    result = run(twin)
    assert result.exit_code == 3
    assert "shared initialisation" in result.stdout


def test_a_base_that_cannot_be_reached_is_reported(bases: LoopbackHub, model: Path) -> None:
    write_card(model, "base_model: [org/llama-a, org/gone]")
    result = run(model, "--json")
    assert result.exit_code == 1
    data = json.loads(result.stdout)
    assert data["answer"] == "unreachable"
    assert [one["status"] for one in data["declared"]] == ["confirmed", "unreachable"]
    assert "org/gone" in data["declared"][1]["why"]
    assert data["files"]["names"] == ["model.safetensors"]
    assert [one["files"] and one["files"]["format"] for one in data["declared"]] == [
        "safetensors", None
    ]  # fmt: skip
    assert "Traceback" not in result.output


def test_a_model_without_declarations_exits_with_zero() -> None:
    result = run(ZOO / "llama-a")
    assert result.exit_code == 0
    assert "No base is declared" in result.stdout


def test_a_folder_without_a_model_is_a_failure(tmp_path: Path) -> None:
    result = run(tmp_path)
    assert result.exit_code == 1
    assert "no weights" in result.stderr


def test_a_broken_model_gives_one_line_on_stderr(bases: LoopbackHub, model: Path) -> None:
    write_card(model, "base_model: org/llama-a")
    (model / "model.safetensors").unlink()
    result = run(model)
    assert result.exit_code == 1
    assert result.stdout == ""
    assert len(result.stderr.strip().splitlines()) == 1
    assert run(model / "nothing").exit_code == 1


def test_the_option_base_replaces_declared_bases(bases: LoopbackHub, model: Path) -> None:
    write_card(model, "base_model: org/gone")
    assert run(model, "--base", ZOO / "llama-a").exit_code == 0
    assert run(model, "--base", ZOO / "llama-a", "--base", ZOO / "llama-b").exit_code == 3
    assert not any("org/gone" in path for path, _ in bases.requests)


def test_an_adapter_cannot_confirm_the_base_it_is_measured_on() -> None:
    result = run(ZOO / "llama-a-lora", "--json")
    assert result.exit_code == 0, result.output
    (one,) = json.loads(result.stdout)["declared"]
    assert one["status"] == "undecided"
    assert one["relation"] == "adapter"
    assert one["measured"]["verdict"] == "descends"


def test_a_card_that_contradicts_its_adapter_is_found(bases: LoopbackHub, tmp_path: Path) -> None:
    shutil.copytree(ZOO / "llama-a", tmp_path / "llama-a")
    adapter = Path(shutil.copytree(ZOO / "llama-a-lora", tmp_path / "lora"))
    write_card(adapter, "base_model: org/llama-b")
    assert run(adapter).exit_code == 3


@pytest.mark.parametrize("secret", ["../secret", "../../secret", "{absolute}", "~/secret", "link"])
@pytest.mark.parametrize("where", ["card", "merge", "config"])
def test_paths_outside_the_folder_are_not_opened(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, secret: str, where: str
) -> None:
    target = Path(shutil.copytree(ZOO / "llama-b", tmp_path / "secret"))
    shutil.copytree(ZOO / "llama-b", tmp_path.parent / "secret", dirs_exist_ok=True)
    monkeypatch.setenv("HOME", str(tmp_path))
    (model / "link").symlink_to(target)
    opened: list[str] = []

    def watch(path: str | Path, *_: object, **__: object) -> None:
        opened.append(str(path))
        raise HurefError("not in this test")

    monkeypatch.setattr("huref.api.check.open_record", watch)
    name = secret.replace("{absolute}", str(target))
    if where == "card":
        write_card(model, f"base_model: {json.dumps(name)}")
    elif where == "merge":
        (model / "mergekit_config.yml").write_text(f"models:\n- model: {json.dumps(name)}\n")
    else:
        edit_config(model, _name_or_path=name)
    (one,) = declared(model).values()
    if name == "link":  # taken for a Hub id; the symbolic link is not followed
        assert one.model == "link"
        return
    assert one.model is None
    assert "is not followed" in one.why
    assert run(model).exit_code == (0 if where == "config" else 1)
    assert opened == []


def test_a_path_inside_the_folder_is_followed(model: Path) -> None:
    shutil.copytree(ZOO / "llama-a", model / "original")
    write_card(model, "base_model: ./original")
    assert declared(model)["./original"].model == str((model / "original").resolve())


def test_a_hub_id_is_not_taken_for_a_path_here(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "work" / "org" / "name").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "work")
    write_card(model, "base_model: org/name")
    one = declared(model)["org/name"]
    assert one.model is None
    assert "--base" in one.why


def test_names_of_every_source(model: Path) -> None:
    write_card(model, "base_model: https://huggingface.co/org/card/tree/main")
    (model / "mergekit_config.yml").write_text(
        "merge_method: ties\n"
        "base_model: org/root\n"
        "models:\n"
        "  - model: org/one+org/adapter\n    parameters: {weight: 0.5}\n"
        "  - model: {model: {path: org/two}}\n"
        "slices:\n  - sources:\n      - model: org/three\n        layer_range: [0, 4]\n"
    )
    edit_config(model, _name_or_path="org/card")
    found = declared(model)
    names = {one.model for one in found.values()}
    assert names == {"org/card", "org/root", "org/one", "org/two", "org/three"}
    card = next(one for one in found.values() if one.model == "org/card")
    assert card.sources == ("README.md", "config.json")
    assert card.firm
    assert found["org/one"].relation == "merge"


def test_gguf_keys(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_base_model_count(3)
    writer.add_base_model_repo_url(0, "https://huggingface.co/org/base")
    writer.add_base_model_name(1, "Second")
    writer.add_base_model_organization(1, "org")
    writer.add_base_model_repo_url(2, "https://example.com/else/where")
    writer.add_source_repo_url("https://huggingface.co/org/unquantised")
    writer.add_tensor("token_embd.weight", np.zeros((2, 32), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    found = declared(path)
    followed = [one.model for one in found.values()]
    assert followed == ["org/base", "org/Second", None, "org/unquantised"]
    assert "outside the Hub" in found["https://example.com/else/where"].why
    assert "general.base_model.0" in found["https://huggingface.co/org/base"].sources[0]


def test_a_weak_declaration_does_not_set_the_exit_code(bases: LoopbackHub, model: Path) -> None:
    edit_config(model, _name_or_path="org/llama-b")
    result = run(model, "--json")
    assert result.exit_code == 0
    data = json.loads(result.stdout)
    assert data["declared"][0]["status"] == "contradicted"
    assert not data["declared"][0]["firm"]
    assert data["answer"] == "nothing declared"


@pytest.mark.parametrize(
    "front",
    ["base_model: [unclosed", "base_model: {a: b}", "base_model: 7", "base_model:", "- a list",
     "base_model: " + "[" * 3000, "base_model: !!python/object/apply:os.getcwd []",
     "base_model: 'a\0b'", "base_model: " + "x" * 5000, "base_model: \"org/\\u202ename\""],
)  # fmt: skip
def test_malformed_cards_do_not_crash(model: Path, front: str) -> None:
    write_card(model, front)
    found, notes = read_declarations(open_repository(str(model)))
    assert all(one.model is None for one in found)
    assert all(len(note) <= 200 for note in notes)
    assert run(model).exit_code == (1 if found else 0)


def test_a_card_without_front_matter_declares_nothing(model: Path) -> None:
    (model / "README.md").write_text("# base_model: org/llama-a\n", "utf-8")
    assert declared(model) == {}
    (model / "README.md").write_bytes(b"---\r\nbase_model: org/x\r\n---\r\n\xff\xfe")
    assert read_declarations(open_repository(str(model)))[0] == []
    (model / "README.md").write_bytes(b"---\r\nbase_model: org/x\r\n---\r\ntext")
    assert list(declared(model)) == ["org/x"]


def test_a_card_that_is_no_text_is_named(model: Path) -> None:
    (model / "README.md").write_bytes(b"---\nbase_model: \xff\xfe\n---\n")
    found, notes = read_declarations(open_repository(str(model)))
    assert (found, notes) == ([], ["README.md: it is not UTF-8 text"])


def test_a_model_that_declares_itself(model: Path, hub: LoopbackHub) -> None:
    write_card(model, "base_model: org/itself")
    hub.add("org/itself", model)
    result = run("org/itself")
    assert result.exit_code == 0
    assert "names the model itself" in result.stdout


def test_a_record_declares_nothing(tmp_path: Path) -> None:
    record = tmp_path / "a.safetensors"
    arguments = ["fingerprint", str(ZOO / "llama-a"), "-o", str(tmp_path / "a.png")]
    CliRunner().invoke(main, [*arguments, "--record", str(record)])
    result = run(record)
    assert result.exit_code == 0
    assert "a record declares nothing" in result.stdout
    assert run(record, "--base", ZOO / "llama-b").exit_code == 3


def test_a_base_that_is_the_later_model_is_undecided(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def reverse(records: object) -> LineageTable:
        why = Direction("a", "the second was trained on longer")
        evidence = Evidence(verdict="descends", why="one training", direction=why)
        return make_table(["model", "base"], {(0, 1): 0.9}, {(0, 1): evidence})

    monkeypatch.setattr("huref.api.check.build_table", reverse)
    result = check(model, [ZOO / "llama-a"])
    assert result.answer == "undecided"
    assert "younger than the model: the second was trained" in result.findings[0].why


def test_an_inconclusive_verdict_is_undecided(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = make_table(["model", "base"], {}, {(0, 1): verdict("inconclusive")})
    monkeypatch.setattr("huref.api.check.build_table", lambda _: table)
    assert check(model, [ZOO / "llama-a"]).answer == "undecided"


def test_control_characters_in_names_are_escaped(model: Path) -> None:
    write_card(model, 'base_model: "\\e[2Jorg/x"')
    result = run(model)
    assert "\x1b" not in result.output
    assert "\\x1b[2Jorg/x" in result.stdout


def test_the_models_own_folder_is_no_base(model: Path) -> None:
    write_card(model, "base_model: .")
    assert declared(model)["."].model is None


def test_a_ring_of_links_is_no_base(model: Path) -> None:
    (model / "ring").symlink_to(model / "ring")
    write_card(model, "base_model: ./ring")
    assert declared(model)["./ring"].model is None
