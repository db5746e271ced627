"""Lineage trees: distances, roots and files."""

import json
import math
from itertools import combinations
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from huref.cli import main
from huref.lineage.build_forest import build_forest
from huref.lineage.neighbour_joining import Adjacency, contract, join_neighbours, midpoint
from huref.lineage.newick import as_newick
from huref.report.canvas import Area, Line, Words
from huref.report.files import write_forest
from huref.report.lettering import width_of
from huref.report.tree_drawing import draw_forest
from tests.support.lineage_samples import (
    NASTY,
    descends,
    lineage_table,
    make_table,
    many,
    parse_newick,
    verdict,
)
from tests.support.zoo import ZOO

PAIRS = [(0, 1), (0, 2), (1, 2)]

# The additive distances of an unrooted tree ((a:1,b:2):1.5,c:3,(d:0.5,e:4):0.25).
ADDITIVE = {"ab": 3, "ac": 5.5, "ad": 3.25, "ae": 6.75, "bc": 6.5, "bd": 4.25, "be": 7.75,
            "cd": 3.75, "ce": 7.25, "de": 4.5}  # fmt: skip


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HUREF_HOME", str(tmp_path_factory.mktemp("home")))


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(a) for a in arguments])


def path_between(tree: Adjacency, start: int, stop: int) -> float:
    waiting = [(start, -1, 0.0)]
    while waiting:
        node, before, length = waiting.pop()
        if node == stop:
            return length
        waiting += [(o, node, length + w) for o, w in tree[node].items() if o != before]
    raise AssertionError("the tree is not connected")


def test_neighbour_joining_recovers_additive_distances() -> None:
    distances = np.zeros((5, 5))
    for ends, value in ADDITIVE.items():
        i, j = ("abcde".index(end) for end in ends)
        distances[i, j] = distances[j, i] = value
    tree = join_neighbours(distances)
    for i, j in combinations(range(5), 2):
        assert path_between(tree, i, j) == pytest.approx(distances[i, j])
    a, b, along = midpoint(tree, 5)
    for leaf in (1, 4):  # the longest path is that between b and e
        by_a = path_between(tree, leaf, a) + along
        by_b = path_between(tree, leaf, b) + tree[a][b] - along
        assert min(by_a, by_b) == pytest.approx(7.75 / 2)


def test_noisy_distances_give_no_negative_branch() -> None:
    generator = np.random.default_rng(0)
    for size in (2, 3, 4, 7, 30):
        noise = generator.uniform(0.1, 3, (size, size))
        tree = join_neighbours(np.triu(noise, 1) + np.triu(noise, 1).T)
        assert all(length >= 0 for edges in tree.values() for length in edges.values())
        assert sum(map(len, tree.values())) == 2 * (len(tree) - 1)
        flat = contract(tree, size, 0.3)
        assert {n for n in flat if n < size} == set(range(size))
        inner = [w for n, edges in flat.items() for o, w in edges.items() if min(n, o) >= size]
        assert all(length >= 0.3 for length in inner)
        assert sum(map(len, flat.values())) == 2 * (len(flat) - 1)


def test_a_line_of_descent_has_its_lengths_and_its_root() -> None:
    forest = build_forest(lineage_table())
    first = forest.trees[0]
    assert [sorted(tree.models) for tree in forest.trees] == [[0, 1, 2, 3], [4], [5]]
    assert first.founder == 0
    assert first.rooted_by == "direction"
    depths = dict.fromkeys(range(4), 0.0)
    for node in first.nodes:
        for model in node.below:
            depths[model] += node.length
    expected = {0: 1.0, 1: 0.9, 2: 0.72, 3: 0.25}
    for model, ics in expected.items():
        assert depths[model] == pytest.approx(-math.log(ics), abs=0.005)
    leaves = {node.model: node for node in first.nodes if node.model is not None}
    assert leaves[3].shared_initialisation
    assert not leaves[1].shared_initialisation
    assert leaves[1].descent == leaves[2].descent == "down"
    assert leaves[3].descent is None
    assert forest.families == (((0, 1, 2), (3,)), ((4,),), ((5,),))


def test_without_directions_the_root_is_in_the_middle() -> None:
    models = ["a", "b", "c"]
    table = make_table(
        models, {(0, 1): 0.9, (0, 2): 0.5, (1, 2): 0.5}, {p: descends() for p in [(0, 1), (0, 2)]}
    )
    (tree,) = build_forest(table).trees
    assert tree.rooted_by == "midpoint"
    assert tree.nodes[0].model is None
    far = next(node for node in tree.nodes if node.model == 2)
    assert far.length == pytest.approx(-math.log(0.5) / 2, abs=0.03)
    assert all(node.descent is None for node in tree.nodes)


def test_pairs_without_a_verdict_are_joined_by_their_similarity() -> None:
    nothing = {pair: verdict("inconclusive") for pair in combinations(range(3), 2)}
    table = make_table(["a", "b", "c"], {(0, 1): 0.4, (0, 2): 0.02}, nothing)
    assert [tree.models for tree in build_forest(table).trees] == [[0, 1], [2]]


def test_contradicting_directions_do_not_choose_a_root() -> None:
    circle = {(0, 1): descends("a"), (1, 2): descends("a"), (0, 2): descends("b")}
    table = make_table(["a", "b", "c"], dict.fromkeys(circle, 0.8), circle)
    (tree,) = build_forest(table).trees
    assert tree.founder is None


def test_newick_can_be_read_back() -> None:
    forest = build_forest(lineage_table())
    trees = parse_newick(as_newick(forest))
    assert len(trees) == 3
    lengths: dict[str, float] = {}

    def walk(tree: tuple[str, float, list], above: float) -> None:  # type: ignore[type-arg]
        name, length, children = tree
        if name:
            lengths[name] = above + length
        for child in children:
            walk(child, above + length)

    for tree in trees:
        walk(tree, 0.0)
    labels = forest.table.labels
    printed = ["".join(c if c.isprintable() else " " for c in label) for label in labels]
    assert sorted(lengths) == sorted(printed)
    assert lengths["tuned-more"] == pytest.approx(-math.log(0.72), abs=0.005)
    assert "\x00" not in as_newick(forest)


@pytest.mark.parametrize("kind", ["png", "svg", "nwk", "json"])
def test_a_forest_is_written_whole_or_not_at_all(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forest = build_forest(lineage_table())
    out = tmp_path / f"tree.{kind}"
    write_forest(forest, out)
    first = out.read_bytes()
    write_forest(forest, out)
    assert out.read_bytes() == first
    assert [path.name for path in tmp_path.iterdir()] == [out.name]
    if kind == "png":
        with Image.open(out) as image:
            assert min(image.size) > 400
            assert len(image.convert("RGB").getcolors(1 << 20) or []) > 200  # dogs and lettering
    elif kind == "svg":
        root = ElementTree.fromstring(first.decode())
        names = {element.tag.rpartition("}")[2] for element in root.iter()}
        assert "script" not in names
        assert any("a merge: 70 % tuned" in (element.text or "") for element in root.iter())
        assert sum(element.tag.endswith("image") for element in root.iter()) == 6
        for element in root.iter():
            for key, value in element.attrib.items():
                assert "href" not in key or value.startswith("data:image/png;base64,")
    elif kind == "json":
        data = json.loads(first)
        assert data["trees"][0]["founder"] == "zoo/base"
        assert NASTY in [node["model"] for tree in data["trees"] for node in tree["nodes"]]
        assert {d["child"] for d in data["directions"]} == {"zoo/tuned", "zoo/tuned-more"}
        assert data["mixings"][0]["parents"] == ["zoo/tuned", NASTY]

    def fail(*_: object) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(OSError, match="no space"):
        write_forest(forest, out)
    assert out.read_bytes() == first
    assert [path.name for path in tmp_path.iterdir()] == [out.name]


@pytest.mark.slow
def test_fifty_models_fit_into_one_picture(tmp_path: Path) -> None:
    table = many(50)
    write_forest(build_forest(table), tmp_path / "tree.svg")
    root = ElementTree.fromstring((tmp_path / "tree.svg").read_text("utf-8"))
    words = [e for e in root.iter() if e.tag.endswith("text")]
    names = {e.text: e for e in words}
    assert set(table.labels) <= set(names)
    heights = sorted(float(names[label].attrib["y"]) for label in table.labels)
    assert min(np.diff(heights)) >= float(words[-1].attrib["font-size"])  # no name covers another
    assert float(root.attrib["height"]) < 2500
    width = float(root.attrib["width"])
    assert all(float(e.attrib["x"]) < width for e in words)


@pytest.mark.parametrize("ics", [1.0, 0.9999, 0.5, 0.0])
def test_every_mark_lies_on_the_canvas(ics: float) -> None:
    table = make_table(["a", "b", "c"], dict.fromkeys(PAIRS, ics), dict.fromkeys(PAIRS, descends()))
    canvas = draw_forest(build_forest(table))
    for mark in canvas.marks:
        points = mark.points if isinstance(mark, Line | Area) else [(mark.x, mark.y)]
        if isinstance(mark, Words):
            points = [(mark.x, mark.y), (mark.x + width_of(mark.text, mark.size), mark.y)]
        assert all(0 <= x <= canvas.width and 0 <= y <= canvas.height for x, y in points), mark


def test_the_command_separates_related_from_unrelated_models(tmp_path: Path) -> None:
    out = tmp_path / "tree.json"
    names = ("llama-a", "llama-a-finetune", "llama-b")
    result = run("tree", *(ZOO / name for name in names), "-o", out)
    assert result.exit_code == 0, result.output
    assert result.stdout == ""
    trees = json.loads(out.read_text("utf-8"))["trees"]
    assert [len([n for n in t["nodes"] if n["model"]]) for t in trees] == [2, 1]
    assert trees[1]["nodes"][0]["model"].endswith("llama-b")


def test_unusable_outputs_are_refused_before_any_work(tmp_path: Path) -> None:
    assert run("tree", "org/a", "org/b", "-o", tmp_path / "tree.pdf").exit_code == 2
    assert run("tree", "org/a", "-o", tmp_path / "tree.png").exit_code == 2
    assert run("tree", "org/a", "org/b").exit_code == 2
    missing = run("tree", "org/a", "org/b", "-o", tmp_path / "none" / "tree.png")
    assert missing.exit_code == 1
    assert "no folder" in missing.stderr
