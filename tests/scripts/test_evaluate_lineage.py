"""The evaluation's statistics and its truth, on cases whose answers are known by hand."""

import itertools
import math
from typing import Any

import pytest
import torch
from torch import Tensor

pytest.importorskip("scipy")
pytest.importorskip("peft")  # of the `make` extra

from huref.architecture.block import Attention, FeedForward, Mixture
from scripts.evaluate.lineage.calibrating import Null
from scripts.evaluate.lineage.holding_out import (
    choose_thresholds,
    families_of,
    halves,
    hold_out,
    rate_of,
)
from scripts.evaluate.lineage.report import METHODS, Evaluation, render
from scripts.evaluate.lineage.statistics import (
    Rate,
    auc,
    kept_tail,
    tpr_at_fpr,
    uniformity,
)
from scripts.evaluate.lineage.truth import Truth, all_pairs, groups, known_misses
from scripts.rivals.awm import align, unbiased_cka
from scripts.rivals.intrinsic import intrinsic_score
from scripts.rivals.plain import parameter_cosine
from scripts.rivals.published import published_ics
from scripts.rivals.weights import Weights


def entry(
    *parents: str, relation: str = "base", initialisation: str = "", **more: Any
) -> dict[str, Any]:
    return {
        "parents": list(parents), "relation": relation, "initialisation": initialisation,
        "steps": 0, "architecture": "A", **more,
    }  # fmt: skip


MODELS = {
    "a": entry(initialisation="x/1", seed=1),
    "twin": entry(initialisation="x/1", seed=1),
    "b": entry(initialisation="x/2", seed=2),
    "student": entry(initialisation="x/3", seed=3, relation="distilled", teacher="a"),
    "tuned": entry("a", relation="finetune", initialisation="x/1"),
    "attacked": entry("tuned", relation="attacked", initialisation="x/1", kinds=["all"]),
    "merge": entry(
        "tuned", "a", relation="merge", initialisation="x/1", method="slerp", shares=[0.7, 0.3]
    ),
    "stranger": entry(initialisation="y/1", seed=1, role="stranger"),
}


def test_pairs_are_what_the_manifest_says() -> None:
    pairs = {frozenset((p.a, p.b)): p for p in all_pairs(MODELS)}
    assert len(pairs) == math.comb(7, 2) + 4  # a stranger meets the four other bases
    how = {(p.a, p.b): p.how for p in pairs.values()}
    assert how["a", "attacked"] == "all attacks after fine-tune"
    assert how["a", "merge"] == "slerp merge of 2 after fine-tune"
    assert how["b", "tuned"] == "unrelated"
    kin = {key: p.kinship for key, p in pairs.items()}
    assert kin[frozenset(("twin", "attacked"))] == "shared initialisation"
    assert kin[frozenset(("merge", "attacked"))] == "siblings"
    assert pairs[frozenset(("a", "student"))].independent
    assert not pairs[frozenset(("b", "tuned"))].independent
    assert not pairs[frozenset(("a", "stranger"))].independent  # one seed
    assert pairs[frozenset(("b", "stranger"))].independent
    assert not pairs[frozenset(("a", "twin"))].independent
    sampled = {frozenset((p.a, p.b)) for p in all_pairs(MODELS, 10**9)}
    bases = {name for name, model in MODELS.items() if not model["parents"]}
    assert sampled == {key for key in pairs if kin[key] == "descends" or key <= bases}
    assert groups(MODELS)[1] == ["a", "twin", "b", "student", "stranger"]


def test_known_misses_are_measured_outside_a_sample() -> None:
    models = dict.fromkeys(("llama-1-cpt-5", "llama-1-metaspace"), MODELS["tuned"])
    models["a"] = MODELS["a"]
    [missed] = known_misses(models, [])
    assert {missed.a, missed.b} == {"llama-1-cpt-5", "llama-1-metaspace"}
    assert missed.kinship == "siblings"
    assert known_misses(models, [missed]) == []


def test_auc_counts_ties_as_halves() -> None:
    assert auc([1, 2, 3], [0, 1]) == pytest.approx(5.5 / 6)


def test_tpr_at_a_false_positive_rate() -> None:
    negatives = [i / 100 for i in range(100)]
    assert tpr_at_fpr([0.985, 0.995], negatives, 0.01) == 1  # one negative may pass: 0.99
    assert tpr_at_fpr([0.98, 0.995], negatives, 0.01) == 0.5
    assert tpr_at_fpr([0.98, 0.995], negatives[-50:], 0.01) == 0.5  # none may


def test_intervals_of_clopper_and_pearson() -> None:
    assert Rate(0, 100).interval == pytest.approx((0, 1 - 0.025 ** (1 / 100)))
    assert Rate(100, 100).interval == pytest.approx((0.025 ** (1 / 100), 1))
    assert Rate(5, 10).interval == pytest.approx((0.1871, 0.8129), abs=1e-4)


@pytest.mark.parametrize("kept", range(5))
def test_kept_tail_counts_permutations(kept: int) -> None:
    permutations = list(itertools.permutations(range(6)))
    hits = sum(sum(p[i] == i for i in range(4)) >= kept for p in permutations)
    assert kept_tail(4, 6, kept) == pytest.approx(hits / len(permutations))


def test_uniformity() -> None:
    even = [(i + 0.5) / 200 for i in range(200)]
    assert uniformity(even, one_sided=False) > 0.99
    assert uniformity([p**2 for p in even], one_sided=True) < 1e-6
    assert uniformity([1.0] * 200, one_sided=True) > 0.99


def some_weights(seed: int, width: int = 16, layers: int = 3) -> Weights:
    torch.manual_seed(seed)
    E = torch.randn(600, width)
    attention = [
        Attention(q, k, v, o, heads=2, kv_heads=2)
        for i in range(layers)
        for q, k, v, o in [[torch.randn(width, width) * (1 + i + j) for j in range(4)]]
    ]
    ffn: list[FeedForward | Mixture] = [
        FeedForward(torch.randn(width, 32), None, torch.randn(32, width)) for _ in range(layers)
    ]
    tensors = {"e": E} | {f"q{i}": block.q for i, block in enumerate(attention)}
    ids = {f"token {i}".encode(): i for i in range(len(E))}
    return Weights(tensors, E, ids, attention, ffn)


def moved(model: Weights, order: Tensor, signs: Tensor) -> Weights:
    """The same model with residual dimensions in another order and of other signs."""

    def inward(w: Tensor) -> Tensor:
        return w[order] * signs[:, None]

    def outward(w: Tensor) -> Tensor:
        return (w.T[order] * signs[:, None]).T

    attention = [
        Attention(inward(a.q), inward(a.k), inward(a.v), outward(a.o), a.heads, a.kv_heads)
        for a in model.attention
    ]
    ffn: list[FeedForward | Mixture] = [
        FeedForward(inward(f.up), None, outward(f.down))
        for f in model.ffn
        if isinstance(f, FeedForward)
    ]
    E = outward(model.embeddings)
    return Weights({"e": E}, E, model.ids, attention, ffn)


def test_rivals_do_what_their_papers_say() -> None:
    from scripts.rivals.awm import awm_score

    a, b = some_weights(0), some_weights(1)
    order, signs = torch.randperm(16), torch.randint(0, 2, (16,)) * 2.0 - 1
    turned = moved(a, order, signs)
    for score in (published_ics, awm_score, intrinsic_score):
        assert score(a, turned) == pytest.approx(1, abs=1e-3)  # a permutation with signs is undone
    assert abs(published_ics(a, b)) < 0.05
    assert awm_score(a, b) < 0.5
    assert parameter_cosine(a, a) == pytest.approx(1)
    assert abs(parameter_cosine(a, turned)) < 0.3
    assert parameter_cosine(a, Weights({}, b.embeddings, {}, [], [])) == 0


def test_alignment_finds_the_permutation() -> None:
    E = torch.randn(300, 8, generator=torch.Generator().manual_seed(0))
    order, signs = torch.tensor([3, 1, 0, 2, 7, 6, 5, 4]), torch.tensor([1.0, -1] * 4)
    i, j, sign = align(E, E[:, order] * signs)
    assert order[j].equal(i)
    assert signs[j].double().equal(sign)


def test_unbiased_cka_has_no_bias() -> None:
    generator = torch.Generator().manual_seed(0)
    draws = [torch.randn(2, 12, 8, generator=generator) for _ in range(300)]
    assert abs(sum(unbiased_cka(x, y) for x, y in draws) / 300) < 0.03
    assert unbiased_cka(draws[0][0], draws[0][0]) == pytest.approx(1)


def kin(a: str, b: str, kinship: str) -> Truth:
    return Truth(a, b, kinship, kinship, False)


def test_thresholds_are_the_quartiles_of_the_gap() -> None:
    figures = [(kin("a", "b", "descends"), 1.0), (kin("a", "c", "siblings"), 0.96)]
    twins = [(kin("a", "t", "shared initialisation"), value) for value in (0.5, 0.88)]
    found = choose_thresholds(figures + twins)
    assert (found.twin, found.descent) == pytest.approx((0.90, 0.94))
    verdicts = [found.judge(value) for value in (0.89, 0.92, 0.95)]
    assert verdicts == ["shared initialisation", "inconclusive", "descends"]


def test_a_family_is_judged_by_thresholds_of_the_others() -> None:
    models: dict[str, dict[str, Any]] = {}
    pairs: list[Truth] = []
    found: dict[str, dict[str, Any]] = {}
    for name, relative, twin in (("x", 1.0, 0.9), ("y", 0.98, 0.5), ("z", 0.85, 0.7)):
        models |= {
            f"{name}1": entry(initialisation=name), f"{name}2": entry(initialisation=name),
            f"{name}3": entry(f"{name}1", initialisation=name),
        }  # fmt: skip
        pairs += [kin(f"{name}1", f"{name}3", "descends"),
                  kin(f"{name}1", f"{name}2", "shared initialisation")]  # fmt: skip
        for pair, value in zip(pairs[-2:], (relative, twin), strict=True):
            key = " ".join(sorted((pair.a, pair.b)))
            found[key] = {"verdict": "descends", "retained": [0.1, value]}
    assert families_of(models, pairs) == ["x", "y", "z"]
    assert halves(["x", "y", "z"]) == [["x", "z"], ["y"]]
    folds = hold_out(models, pairs, found, [["x"], ["y"], ["z"]])
    # Without x the gap is 0.7 to 0.85, without z 0.9 to 0.98.
    assert [fold.thresholds.gap for fold in folds] == [(0.7, 0.85), (0.9, 0.85), (0.9, 0.98)]
    rate, wrong = rate_of(folds, "descends")
    assert (rate.k, rate.n) == (2, 3)
    assert [(pair.a, verdict) for pair, verdict in wrong] == [("z1", "shared initialisation")]
    rate, wrong = rate_of(folds, "shared initialisation")
    assert [(pair.a, verdict) for pair, verdict in wrong] == [("x1", "descends")]


def test_the_report_names_what_falls_short() -> None:
    pairs = all_pairs(MODELS)
    found: dict[str, dict[str, Any]] = {}
    rivals: dict[str, dict[str, float]] = {}
    for pair in pairs:
        key = " ".join(sorted((pair.a, pair.b)))
        wrong = {pair.a, pair.b} == {"a", "b"}
        found[key] = {
            "verdict": "descends" if wrong else pair.expected, "why": "for a test",
            "ics": 0.5, "log10_p": -1.0, "parent": pair.a if pair.kinship == "descends" else None,
            "retained": {"descends": [1, 0.9], "siblings": [0.98, 0.97],
                         "shared initialisation": [0.9, 0.8]}.get(pair.kinship),
        }  # fmt: skip
        rivals[key] = dict.fromkeys(METHODS, 0.0)
    mixing = {"child": "merge", "parents": ["a", "tuned"], "shares": [0.32, 0.68],
              "low": [0.25, 0.6], "high": [0.4, 0.75]}  # fmt: skip
    values = torch.linspace(0.01, 0.99, 50).numpy()
    null = Null(Rate(1, 10), Rate(0, 10), values, values, values, values)
    text = render(
        Evaluation(MODELS, pairs, 1, found, rivals, [mixing], null, (), pairs[:1], "c0de")
    )
    assert "(digest `c0de`)" in text
    known = text.partition("outside the sample")[2].partition("## ")[0]
    assert "\n\nNone.\n\n" in known  # the first pair is right
    pairs_of_kin = [p for p in pairs if p.kinship in ("descends", "siblings")]
    alike = sum(p.kinship == "descends" for p in pairs_of_kin)  # retentions of 1 and 0.9
    assert f"{alike} of {len(pairs_of_kin)} relatives here" in known
    assert "| a | b | unrelated | unrelated | descends | for a test |" in text
    assert "| merge | slerp | tuned 0.70, a 0.30 | 0.68, 0.32 | 0.020 | yes |" in text
    assert "1 of 10 (95 %: 0.25% to 44.50%)" in text
