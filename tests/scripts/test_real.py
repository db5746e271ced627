"""`python -m scripts.real`: its lists, and what is checked of a download."""

import hashlib
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from scripts.real import catalogue
from scripts.real.catalogue import Cache, Package, PublicModel, read_catalogue
from scripts.real.children import make_children, read_children, root_of, with_parents
from scripts.real.convert import make_tokenizer, split_text
from scripts.real.fetch import fetch, find_wheel, join, sha256
from scripts.real.pairs import children_pairs, ladder_pairs, stranger_pairs
from tests.support.zoo import ROOT


def test_the_lists_fit_together() -> None:
    models, children = read_catalogue(), read_children()
    assert len(models) >= 4
    for model in models.values():
        assert model.size < sum(package.size for package in model.packages) * 1.2
        assert len({package.digest for package in model.packages}) == len(model.packages)
    for name, spec in children.items():
        assert root_of(name, children) in models, name
        assert list(with_parents([name], children))[-1] == name
        assert spec["relation"]
    attacked = {kind for spec in children.values() for kind in spec.get("attack", ())}
    from huref.attacks.kinds import KINDS, TRAINED

    # Llamas subtract no mean and have no biases; kinds that train have a report of their own.
    assert attacked == {"all", *KINDS} - {"mean-shift", "value-biases", *TRAINED}


def test_what_is_expected_of_each_pair() -> None:
    """Children descend, the framed model does not; strangers are unrelated; the base is older."""
    children = read_children()
    names = [*read_catalogue(), *(n + "-converted" for n in read_catalogue()), *children]
    names.append("smollm2-135m-instruct-random")
    measured = {name: Path(f"{name}.safetensors") for name in names}
    pairs = {(p.others["a"], p.others["b"]): p for p in children_pairs(measured)}
    base = "smollm2-135m-instruct"
    assert pairs[f"{base}-converted", "sft"].expected == "descends"
    assert pairs[f"{base}-converted", "sft"].older == "a"
    assert {("sft", "merge-linear"), ("sft-hot", "merge-linear")} <= set(pairs)
    framed = pairs[f"{base}-random", "attack-graft"]
    assert (framed.expected, framed.older) == ("contains parts", None)
    assert pairs["base-float32", "attack-graft"].expected == "descends"
    assert pairs[f"{base}-converted", "distilled"].expected == "unrelated"
    strangers = list(stranger_pairs(measured, {}))
    assert {p.expected for p in strangers} == {"unrelated"}
    assert not [p for p in strangers if {p.others["a"], p.others["b"]} == {"sft", base}]


def test_pairs_of_the_ladder() -> None:
    ladder = {
        name: {"parents": parents, "initialisation": f"{shape}/{seed}"}
        for name, parents, shape, seed in (
            ("1m-base", [], "1m", 1), ("1m-twin", [], "1m", 1), ("1m-other", [], "1m", 2),
            ("1m-sft", ["1m-base"], "1m", 1), ("long-base", [], "1m", 1),
            ("4m-base", [], "4m", 1),
        )
    }  # fmt: skip
    measured = {name: Path(name) for name in ladder}
    found = {(p.others["a"], p.others["b"]): p.expected for p in ladder_pairs(measured, ladder)}
    assert found["1m-base", "1m-twin"] == "shared initialisation"
    assert found["1m-base", "1m-sft"] == "descends"
    assert found["1m-twin", "1m-sft"] == "shared initialisation"
    assert found["1m-base", "4m-base"] == found["1m-base", "1m-other"] == "unrelated"
    assert ("1m-base", "long-base") not in found  # they only differ in their length


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        ("smollm", ["a", "Ġ", "1", "2", "(", "b"]),
        ("qwen2", ["a", "Ġ", "1", "2", "(b"]),
        ("gpt2", ["a", "Ġ12", "(", "b"]),
    ],
)
def test_a_text_is_split_by_the_rule_of_the_file(rule: str, words: list[str]) -> None:
    split = split_text(rule).pre_tokenize_str("a 12(b")
    assert [word for word, _ in split] == words


def test_a_sentencepiece_vocabulary_merges_by_score() -> None:
    pieces = ["<pad>", "a", "b", "▁", "ab", "▁a"]
    scores = [0.0, 0.0, 0.0, 0.0, -2.0, -1.0]
    metadata = {
        "tokenizer.ggml.tokens": pieces, "tokenizer.ggml.scores": scores,
        "tokenizer.ggml.token_type": [3, 1, 1, 1, 1, 1],
    }  # fmt: skip
    tokenizer = make_tokenizer(metadata)
    assert tokenizer.encode("ab ab").tokens == ["ab", "▁a", "b"]
    assert tokenizer.encode("<pad>b").ids == [0, 2]


def test_the_rungs_of_the_ladder_are_alike() -> None:
    config = yaml.safe_load((ROOT / "configs" / "ladder.yaml").read_text("utf-8"))
    rungs: dict[str, set[str]] = {}
    for name, spec in config["models"].items():
        rung, _, kind = name.partition("-")
        rungs.setdefault(rung, set()).add(kind)
        assert all(parent.startswith(f"{rung}-") for parent in spec.get("parents", ()))
    assert len(rungs) == 6
    assert all(kinds == rungs["1m"] for kinds in rungs.values())


def wheel(folder: Path, name: str, content: bytes) -> Package:
    """A wheel whose largest file is a part of a model."""
    folder.mkdir(exist_ok=True)
    path = folder / f"{name.replace('-', '_')}-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{name}/data/part.bin", content)
        archive.writestr(f"{name}/__init__.py", b"")
    return Package(name, "1.0", path.stat().st_size, sha256(path))


@pytest.fixture
def model(tmp_path: Path) -> PublicModel:
    parts = (b"GGUF" + b"a" * 500, b"b" * 300)
    packages = tuple(wheel(tmp_path / "packages", f"m-part{i}", p) for i, p in enumerate(parts, 1))
    whole = b"".join(parts)
    return PublicModel(
        "m", "org/m", "Q4_0", len(whole), hashlib.sha256(whole).hexdigest(), packages
    )


def test_parts_are_joined_in_order(model: PublicModel, tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    fetch(model, cache, converted=False)  # nothing is downloaded: the wheels are there
    assert cache.file("m").read_bytes() == b"GGUF" + b"a" * 500 + b"b" * 300


def test_a_wrong_file_is_refused(model: PublicModel, tmp_path: Path) -> None:
    wrong = replace(model, digest="0" * 64)
    with pytest.raises(SystemExit, match="not the one that the list names"):
        join(wrong, tmp_path / "packages", tmp_path / "m.gguf")
    assert not (tmp_path / "m.gguf").exists()
    first = model.packages[0]
    path = find_wheel(first, tmp_path / "packages")
    assert path is not None
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    assert find_wheel(first, tmp_path / "packages") is None
    with pytest.raises(SystemExit, match="m-part1 is damaged"):
        join(model, tmp_path / "packages", tmp_path / "m.gguf")


def test_the_cache_lies_outside_the_repository(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HUREF_HOME", raising=False)
    root = catalogue.cache_parser("").parse_args([]).cache
    assert ROOT not in root.resolve().parents


def test_a_child_that_cannot_be_made_costs_only_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from scripts.real import making

    def make(spec: dict[str, Any], parents: list[Path], folder: Path) -> None:
        if spec["width"] == 7:
            raise ValueError("7 is\nno width")
        folder.mkdir()

    monkeypatch.setattr(making, "make", make)
    cache = Cache(tmp_path)
    (cache.models / "base").mkdir(parents=True)
    children = {
        "odd": {"from": ["base"], "width": 7},
        "of-odd": {"from": ["odd"], "width": 8},
        "even": {"from": ["base"], "width": 8},
    }
    with pytest.raises(SystemExit, match="not made: odd, of-odd"):
        make_children(list(children), cache, children, 1)
    assert "odd: not made, ValueError: 7 is no width" in capsys.readouterr().out
    assert [path.name for path in cache.children.iterdir()] == ["even"]
