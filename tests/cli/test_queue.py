"""A moderator's queue: many models, a line of JSON each, and -q."""

import json
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from huref.api.open import open_record
from huref.cli import main
from huref.recipe import load_recipe
from huref.registry.entry import make_entry
from huref.registry.stores import create_store
from tests.docs.test_json import validator
from tests.support.lineage_samples import write_card
from tests.support.zoo import ZOO


@pytest.fixture(scope="module")
def queue(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Models with a right, a wrong and no declaration, and a broken one; all bases are inside."""
    folder = tmp_path_factory.mktemp("queue")
    for name, base in (("right", "llama-a"), ("wrong", "llama-b"), ("silent", "")):
        model = Path(shutil.copytree(ZOO / "llama-a-finetune", folder / name))
        if base:
            shutil.copytree(ZOO / base, model / "base")
            write_card(model, "base_model: base")
    (folder / "broken").mkdir()
    (folder / "broken" / "config.json").write_text("{")
    return folder


def run(*arguments: object, stdin: str = "") -> Result:
    return CliRunner().invoke(main, [str(one) for one in arguments], input=stdin)


def lines_of(result: Result, schema: str) -> list[dict[str, object]]:
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    for line in lines:
        validator(schema).validate(line)
    return lines


@pytest.mark.slow
def test_a_line_a_model_and_the_worst_exit_code(queue: Path) -> None:
    names = [str(queue / name) for name in ("right", "broken", "wrong", "silent")]
    result = run("check", "-", "--jsonl", "-q", stdin="\n".join(["# a queue", "", *names]))
    assert result.exit_code == 3
    lines = lines_of(result, "check-line")
    assert [line["model"] for line in lines] == names
    answers = [line["answer"] for line in lines]
    assert answers == ["confirmed", None, "contradicted", "nothing declared"]
    assert "no weights beside it" in str(lines[1]["error"])
    suggested = lines[0]["suggested"]
    assert isinstance(suggested, dict)
    assert suggested["yaml"].startswith("base_model:\n- ")
    assert result.stderr.splitlines() == [f"huref: {lines[1]['error']}"]


def test_one_unreadable_model_alone_is_exit_1(queue: Path) -> None:
    result = run("check", queue / "broken", queue / "silent", "--jsonl")
    assert result.exit_code == 1
    assert len(lines_of(result, "check-line")) == 2


def test_several_as_text(queue: Path) -> None:
    result = run("check", queue / "silent", queue / "right", "--suggest")
    assert result.exit_code == 0, result.output
    assert result.stdout.count("result    confirmed") == 1
    assert "No base is declared" in result.stdout


@pytest.mark.parametrize(
    "arguments", [("--json", "--jsonl", "a"), ("--json", "a", "b"), ("-", "-"), ("-",), ()]
)
def test_misuse_is_exit_2(arguments: tuple[str, ...]) -> None:
    assert run("check", *arguments).exit_code == 2
    assert run("identify", *arguments, "--registry", "x").exit_code in (1, 2)


@pytest.mark.slow
def test_identify_takes_a_queue_and_knows_a_registered_model(queue: Path, tmp_path: Path) -> None:
    records = [open_record(str(ZOO / name)) for name in ("llama-a", "llama-b")]
    store = create_store(str(tmp_path / "bases"), load_recipe()[0])
    store.add([make_entry(record) for record in records])
    names = f"{ZOO / 'llama-b'}\n{queue / 'broken'}\n{queue / 'silent'}\n"
    result = run("identify", "-", "--registry", store.uri, "--jsonl", stdin=names)
    assert result.exit_code == 1
    itself, broken, child = lines_of(result, "identify-line")
    assert (itself["base"], broken["answer"], child["base"]) == ("llama-b", None, "llama-a")
    text = run("identify", ZOO / "llama-b", "--registry", store.uri).stdout
    assert "is llama-b itself" in text
    assert "descends from llama-b" not in text


def test_quiet_leaves_results_and_failures(tmp_path: Path) -> None:
    out = tmp_path / "t.png"
    models = (ZOO / "llama-a", ZOO / "llama-b")
    assert "wrote" in run("compare", *models, "--csv", "-o", out).stderr
    assert run("compare", *models, "--csv", "-o", out, "-q").stderr == ""
    assert "nothing" in run("compare", *models, tmp_path / "nothing", "--csv", "-q").stderr


def test_an_adapter_on_its_base_is_explained() -> None:
    result = run("check", ZOO / "llama-a-lora")
    assert result.exit_code == 0, result.output
    assert "fits the base that it names" in result.stdout.splitlines()[-1]
