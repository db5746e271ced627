"""Tables with made-up figures and verdicts, without any weights."""

from itertools import combinations
from pathlib import Path

import numpy as np
import torch

from huref.invariants.record import Record
from huref.lineage.evidence import Direction, Evidence, LayerMap, Mixing, UnitCount, Verdict
from huref.lineage.similarity import Similarity
from huref.lineage.table import LineageTable, Pair
from huref.recipe import load_recipe

NASTY = "evil/<script>alert('x')</script>&\"\u202e\x00'"


def make_record(model: str, seed: int = 0) -> Record:
    """A record with a latent only, as a picture has."""
    latent = torch.randn(512, generator=torch.Generator().manual_seed(seed)).numpy()
    recipe = load_recipe()[0]
    return Record(model, f"{seed:040x}", recipe, None, None, None, latent)


def descends(parent: str | None = None) -> Evidence:
    """Evidence of descent; `parent` is "a", "b" or unknown."""
    direction = None
    if parent == "a":
        direction = Direction("a", "the second was trained on longer")
    elif parent == "b":
        direction = Direction("b", "the first was trained on longer")
    share = np.eye(3)
    return Evidence(
        UnitCount(500, 512, 1), -310.5, "order", "descends", "500 of 512 units keep their index",
        direction, LayerMap((0, 1, 2), (0, 1, 2), share, (0, 1, 2)),
    )  # fmt: skip


def verdict(word: Verdict) -> Evidence:
    """Evidence with a verdict and a reason only."""
    return Evidence(verdict=word, why=f"by hand: {word}")


def make_table(
    models: list[str],
    alike: dict[tuple[int, int], float],
    evidence: dict[tuple[int, int], Evidence],
    mixings: tuple[Mixing, ...] = (),
) -> LineageTable:
    """A table with the given figures; all other pairs are unrelated, with an ICS of 0."""
    records = tuple(make_record(model, seed) for seed, model in enumerate(models))
    pairs = []
    for i, j in combinations(range(len(models)), 2):
        value = alike.get((i, j), 0.0)
        similarity = Similarity(value, dict.fromkeys(("qk", "vo", "ffn"), value), 500, value, "")
        found = evidence.get((i, j), verdict("unrelated"))
        pairs.append(Pair(models[i], models[j], similarity, found))
    return LineageTable(records, tuple(pairs), mixings)


def lineage_table() -> LineageTable:
    """A base, its fine-tune, a fine-tune of that, a twin, an unrelated model, an unclear one.

    Correlations multiply along the line of descent, as over independent steps of training.
    """
    models = ["zoo/base", "zoo/tuned", "zoo/tuned-more", "zoo/twin", "zoo/stranger", NASTY]
    alike = {
        (0, 1): 0.9, (1, 2): 0.8, (0, 2): 0.72, (0, 3): 0.25, (1, 3): 0.225, (2, 3): 0.18,
        (4, 5): 0.05,
    }  # fmt: skip
    siblings = dict.fromkeys([(0, 3), (1, 3), (2, 3)], verdict("shared initialisation"))
    evidence = {
        (0, 1): descends("a"),
        (0, 2): descends("a"),
        (1, 2): descends(),
        (4, 5): verdict("inconclusive"),
        **siblings,
    }
    mixing = Mixing("zoo/tuned-more", ("zoo/tuned", NASTY), (0.7, 0.3), (0.6, 0.2), (0.8, 0.4))
    return make_table(models, alike, evidence, (mixing,))


def many(count: int) -> LineageTable:
    """Families of five, each a base and four descendants; other pairs are unrelated."""
    models = [f"org-{i // 5}/model-{i % 5}-of-family-{i // 5}" for i in range(count)]
    kin = {(i, j) for i, j in combinations(range(count), 2) if i // 5 == j // 5}
    alike = {(i, j): 0.95 if i % 5 == 0 else 0.9 for i, j in kin}
    evidence = {(i, j): descends("a" if i % 5 == 0 else None) for i, j in kin}
    return make_table(models, alike, evidence)


def parse_newick(text: str) -> list[tuple[str, float, list]]:  # type: ignore[type-arg]
    """Trees of (name, length, children), by a parser that is independent of the writer."""
    trees, position = [], 0

    def label() -> str:
        nonlocal position
        if text[position] != "'":
            return ""
        position += 1
        letters: list[str] = []
        while True:
            if text[position] == "'":
                position += 1
                if text[position] != "'":
                    return "".join(letters)
            letters.append(text[position])
            position += 1

    def node() -> tuple[str, float, list]:  # type: ignore[type-arg]
        nonlocal position
        children = []
        if text[position] == "(":
            while text[position] in "(,":
                position += 1
                children.append(node())
            assert text[position] == ")"
            position += 1
        name, length = label(), 0.0
        if text[position] == ":":
            start = position + 1
            while text[position] not in ",);":
                position += 1
            length = float(text[start:position])
        return name, length, children

    while position < len(text.rstrip()):
        trees.append(node())
        assert text[position] == ";"
        position += 2  # the semicolon and the end of the line
    return trees


def write_card(folder: Path, front_matter: str) -> None:
    """Write a model card with this YAML front matter."""
    text = f"---\nlicense: apache-2.0\n{front_matter}\n---\n\n# A model\n"
    (folder / "README.md").write_text(text, "utf-8")
