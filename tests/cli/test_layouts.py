"""`huref layouts` prints layouts as data, and what a model's first block is."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner, Result

from huref.architecture.layout_files import layout_names, load_layouts, parse_layout
from huref.cli import main

MakeModel = Callable[..., Path]


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["layouts", *(str(a) for a in arguments)])


def test_list_names_every_layout_with_its_model_types() -> None:
    result = run("list", "--json")
    assert result.exit_code == 0, result.output
    expected = [{"name": x.name, "model_types": list(x.model_types)} for x in load_layouts()]
    assert json.loads(result.stdout)["layouts"] == expected
    lines = run("list").stdout.splitlines()
    assert [line.split()[0] for line in lines] == layout_names()
    assert any(line.startswith("bloom ") and line.endswith("  bloom") for line in lines)


@pytest.mark.parametrize("name", layout_names())
def test_show_prints_yaml_that_is_the_layout(name: str) -> None:
    result = run("show", name)
    assert result.exit_code == 0, result.output
    layout = next(layout for layout in load_layouts() if layout.name == name)
    assert parse_layout(name, yaml.safe_load(result.stdout)) == layout
    data = json.loads(run("show", name, "--json").stdout)["layout"]
    assert parse_layout(name, data["values"]) == layout


def test_show_names_the_layout_that_sets_each_value() -> None:
    lines = run("show", "bloom").stdout.splitlines()
    assert lines[0].startswith("# bloom extends gpt_neox extends ")
    assert "model_types: [bloom]  # bloom" in lines
    origins = json.loads(run("show", "bloom", "--json").stdout)["layout"]["origins"]
    assert origins["attention.qkv"] == "bloom"
    assert origins["attention.norms"] == "gpt_neox"
    assert origins["norms.attention"] == "llama"


def test_show_prints_the_first_block_of_a_model(make_llama: MakeModel) -> None:
    folder = make_llama("model")
    result = run("show", folder)
    assert result.exit_code == 0, result.output
    layout, block = yaml.safe_load_all(result.stdout)
    assert "llama" in layout["model_types"]
    assert block["start"] == "model.layers.0."
    assert (block["attention"]["heads"], block["attention"]["split"]) == (4, "contiguous")
    q = block["attention"]["tensors"]["q"]
    assert q == {"name": "model.layers.0.self_attn.q_proj.weight", "shape": [64, 64]}
    data = json.loads(run("show", folder, "--json").stdout)
    assert data["layout"]["name"] == "llama"
    stored = {"names": ["model.layers.0.self_attn.q_proj.weight"], "shape": [64, 64]}
    assert data["block"]["attention"]["tensors"]["q"] == stored


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("lama", "did you mean llama"),
        ("qwen2", "models of this model_type are read by llama"),
        ("zzzz", "huref layouts list prints all layouts"),
    ],
)
def test_an_unknown_name_is_one_line_with_near_matches(name: str, advice: str) -> None:
    result = run("show", name)
    assert result.exit_code == 1
    assert result.stderr.startswith(f"huref: there is no layout, folder or file '{name}'; {advice}")
    assert len(result.stderr.splitlines()) == 1
    assert not result.stdout
