"""Bills of materials, held against CycloneDX's own schema."""

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

import huref
from tests.evidence.conftest import BASE, MODEL, run
from tests.support.zoo import ZOO

CARD = """---
license: {licence}
datasets: [org/corpus, some words]
pipeline_tag: text-generation
base_model: {base}
---
"""


def validated(path: Path) -> dict[str, Any]:
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator

    text = path.read_text("utf-8")
    assert JsonStrictValidator(SchemaVersion.V1_7).validate_str(text) is None
    data: dict[str, Any] = json.loads(text)
    return data


@pytest.fixture(scope="module")
def bom(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("bom")
    shutil.copytree(MODEL, folder / "model")
    (folder / "model" / "README.md").write_text(
        CARD.format(licence="apache-2.0", base="x"), "utf-8"
    )
    bases = [part for name in ("llama-a", "llama-a-twin", "llama-b")
             for part in ("--base", ZOO / name)]  # fmt: skip
    result = run("bom", folder / "model", *bases, "-o", folder / "bom.json")
    assert result.exit_code == 0, result.output
    assert str(folder) not in (folder / "bom.json").read_text("utf-8")
    assert str(ZOO) not in (folder / "bom.json").read_text("utf-8")
    return validated(folder / "bom.json")


def test_ancestors_are_what_the_weights_descend_from(bom: dict[str, Any]) -> None:
    pedigree = bom["metadata"]["component"]["pedigree"]
    [ancestor] = pedigree["ancestors"]
    assert ancestor["name"] == "llama-a"
    [method] = ancestor["evidence"]["identity"][0]["methods"]
    assert method["value"].startswith("descends: ")
    assert method["confidence"] > 0.999
    assert [one["name"] for one in pedigree["variants"]] == ["llama-a-twin"]
    assert "llama-b: unrelated" in pedigree["notes"]
    weights = hashlib.sha256((BASE / "model.safetensors").read_bytes()).hexdigest()
    assert weights in [file["hashes"][0]["content"] for file in ancestor["components"]]


def test_the_model_is_described_by_its_files_and_card(bom: dict[str, Any]) -> None:
    model = bom["metadata"]["component"]
    assert (model["type"], model["name"]) == ("machine-learning-model", "model")
    assert model["licenses"] == [{"license": {"id": "Apache-2.0"}}]
    parameters = model["modelCard"]["modelParameters"]
    assert [one["name"] for one in parameters["datasets"]] == ["org/corpus", "some words"]
    assert (parameters["task"], parameters["architectureFamily"]) == ("text-generation", "llama")
    found = {one["name"]: one["hashes"][0]["content"] for one in bom["components"]}
    weights = hashlib.sha256((MODEL / "model.safetensors").read_bytes()).hexdigest()
    assert found["model.safetensors"] == weights


@pytest.mark.parametrize(
    ("card", "licence"),
    [
        ("", None),
        ("---\nlicense: 7\ndatasets: {a: 1}\n---\n", None),
        (
            "---\nlicense: other\nlicense_name: my terms\nlicense_link: https://x\n---\n",
            "my terms",
        ),
        ("---\nlicense: [mit, llama3]\n---\n", "MIT"),
        ('---\nlicense: "\\x07"\ndatasets: [\'https://x y\', "\\u202e"]\n---\n', "\x07"),
    ],
)
def test_cards_of_every_kind(tmp_path: Path, card: str, licence: str | None) -> None:
    shutil.copytree(MODEL, tmp_path / "model")
    if card:
        (tmp_path / "model" / "README.md").write_text(card, "utf-8")
    (tmp_path / "bom.json").write_text(json.dumps(huref.bom(tmp_path / "model")), "utf-8")
    model = validated(tmp_path / "bom.json")["metadata"]["component"]
    assert "pedigree" not in model
    found = [
        one["license"].get("id", one["license"].get("name")) for one in model.get("licenses", ())
    ]
    assert found[:1] == ([licence] if licence else [])


def test_a_base_that_cannot_be_measured_is_a_note(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(MODEL, tmp_path / "model")
    card = CARD.format(licence="mit", base="/somewhere/else")
    (tmp_path / "model" / "README.md").write_text(card, "utf-8")
    result = run("bom", tmp_path / "model", "-o", tmp_path / "bom.json")
    assert result.exit_code == 0, result.output
    pedigree = validated(tmp_path / "bom.json")["metadata"]["component"]["pedigree"]
    assert "ancestors" not in pedigree
    assert "else: not measured" in pedigree["notes"]


def test_what_is_not_written_is_said(tmp_path: Path) -> None:
    result = run("bom", MODEL, "--spdx", "-o", tmp_path / "x.json")
    assert (result.exit_code, result.stderr.count("\n")) == (1, 1)
    assert "SPDX 3" in result.stderr
    assert not (tmp_path / "x.json").exists()
    assert run("bom", tmp_path / "none").exit_code == 1
