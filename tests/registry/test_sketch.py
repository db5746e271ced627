"""Sketches compared with the full terms, and the null distribution of a search."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from huref.api.open import open_record
from huref.encoder.synthetic import ics
from huref.errors import RegistryError
from huref.invariants.anchors import Anchors
from huref.invariants.record import Record
from huref.lineage.similarity import compare_records
from huref.recipe import load_recipe
from huref.registry.anchor_codes import count_shared, encode_anchors
from huref.registry.chance import is_worth_reading, log10_stranger, log10_upper_tail
from huref.registry.correlation import (
    correlate_sketches,
    correlate_terms,
    ics_deviation,
    lower_bound,
)
from huref.registry.entry import Query, make_entry, make_query
from huref.registry.matrices import from_entries
from huref.registry.ranking import Ranking
from huref.registry.sketch import KEPT, make_sketch, pack, project
from tests.support.zoo import ZOO

M = 512
ANCHOR_CODES = [0, 4055931881, 3493906184]
ALL = np.arange(1, M + 1, dtype=np.uint32)
BYTES = KEPT // 8
FIRST_BYTES = [
    [222, 210, 159, 198], [106, 150, 44, 242], [0, 191, 163, 21],
    [176, 138, 152, 39], [56, 155, 214, 212], [169, 214, 97, 4],
]  # fmt: skip


def correlated(rho: float, seed: int, uneven: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    a = torch.randn(2, 3, M, M, generator=g)
    b = rho * a + math.sqrt(1 - rho * rho) * torch.randn(2, 3, M, M, generator=g)
    if not uneven:
        return a, b
    strength = (
        torch.randn(M, generator=g).mul(0.8).exp()
    )  # norms of the rows; one in six is twice the median
    return a * strength[:, None] * strength, b * strength[:, None] * strength


@pytest.mark.parametrize("uneven", [False, True])
@pytest.mark.parametrize("rho", [0.0, 0.3, 0.7, 0.98, 1.0])
def test_a_sketch_keeps_the_ics(rho: float, uneven: bool) -> None:
    by_terms, by_sketches = [], []
    for seed in range(3):
        a, b = correlated(rho, seed, uneven)
        exact, other = float(ics(a, b)), make_sketch(b, ALL)[None]
        by_terms.append(correlate_terms(project(a, ALL != 0), other).mean() - exact)
        by_sketches.append(correlate_sketches(make_sketch(a, ALL), other).mean() - exact)
    assert np.abs(by_terms).max() < 0.02
    assert np.abs(by_sketches).max() < 0.02
    # The null distribution of identify uses these deviations.
    for errors, measured in ((by_terms, True), (by_sketches, False)):
        deviation = ics_deviation(6 * KEPT, measured=measured)
        assert np.abs(errors).max() < 3.5 * math.sqrt(1 - 0.95 * rho**2) * deviation


def test_sketches_are_reproducible() -> None:
    # A published registry depends on these.
    terms = torch.zeros(2, 3, M, M)
    terms[:, :, 3, 4], terms[:, :, 100, 500] = 1, -2
    sketch = make_sketch(terms, ALL)
    assert sketch.dtype == np.uint8
    assert sketch.shape == (6, BYTES)
    assert sketch[:, :4].tolist() == FIRST_BYTES
    assert np.array_equal(make_sketch(terms, ALL, 2048), sketch[:, : 2048 // 8])
    codes = encode_anchors(Anchors((b"", b" the", b"ing"), (-1, 5, 6)))
    assert codes.tolist() == ANCHOR_CODES


def test_a_constant_term_correlates_with_nothing() -> None:
    a, b = correlated(1.0, 0)
    b = b.clone()
    b[0] = 0
    one, other = make_sketch(a, ALL), make_sketch(b, ALL)
    assert not other[:3].any()
    found = correlate_sketches(one, np.stack([one, other]))
    assert found[0] == pytest.approx(np.ones(6), abs=1e-6)
    assert found[1].tolist() == [0, 0, 0, 1, 1, 1]
    assert correlate_sketches(other, other[None])[0].tolist() == [0, 0, 0, 1, 1, 1]
    by_terms = correlate_terms(project(b, ALL != 0), np.stack([one, other]))
    assert np.abs(by_terms[:, :3]).max() < 0.03
    assert by_terms[:, 3:] == pytest.approx(1, abs=0.02)


@given(st.integers(0, 2**32 - 1), st.integers(1, 300))
def test_counts_of_bits_are_sums_of_signs(seed: int, count: int) -> None:
    g = np.random.default_rng(seed)
    signs = np.where(g.random((count, 2, 128)) < 0.5, 1.0, -1.0)
    one = g.standard_normal((2, 128)).astype(np.float32)
    one /= np.linalg.norm(one, axis=1, keepdims=True)
    many = pack(signs.astype(np.float32))
    expected = math.sqrt(math.pi / 2 / 128) * np.einsum("tk,ntk->nt", one, signs)
    # Six bits: rounding by at most half a step of 2 max / 63, at random over 128 of them.
    step = 2 * np.abs(one).max(axis=1) / 63
    error = math.sqrt(math.pi / 2 / 128) * step * math.sqrt(128 / 12)
    assert (np.abs(correlate_terms(one, many) - expected) < 6 * error).all()
    agreement = np.einsum("tk,ntk->nt", np.sign(one), signs) / 128
    found = correlate_sketches(pack(one), many)
    assert found == pytest.approx(np.sin(math.pi / 2 * agreement), abs=1e-9)


def partly_shared(rho: float, seed: int, uneven: bool) -> tuple[Record, Record]:
    a, b = correlated(rho, seed, uneven)
    tokens = [b"%d" % i for i in range(M)]
    others = [t if i % 3 else b"other" + t for i, t in enumerate(tokens)]
    fresh = correlated(0.0, seed + 1, uneven)[0]  # other tokens have unrelated rows
    own = torch.tensor([i % 3 == 0 for i in range(M)])
    b = torch.where(own[:, None] | own, fresh, b)
    others[7] = b""
    b[:, :, 7], b[:, :, :, 7] = 0, 0
    recipe, ids = load_recipe()[0], tuple(range(M))
    latent = np.zeros(512, np.float32)
    x = Record("a", None, recipe, (1, 2), Anchors(tuple(tokens), ids), a, latent)
    return x, Record("b", None, recipe, (1, 2), Anchors(tuple(others), ids), b, latent)


@pytest.mark.parametrize("uneven", [False, True])
@pytest.mark.parametrize("rho", [0.0, 0.6])
def test_partly_shared_anchors_are_compared_like_the_terms(rho: float, uneven: bool) -> None:
    x, y = partly_shared(rho, 1, uneven)
    exact, entry, query = compare_records(x, y), make_entry(y), make_query(x)
    assert query.anchors is not None
    assert count_shared(query.anchors, entry.anchors) == exact.shared_anchors
    assert exact.ics is not None
    for variant, measured in (
        (query, True),
        (Query(query.latent, query.sketch, query.anchors), False),
    ):
        _, terms, deviations = Ranking(variant)(from_entries([entry]))
        assert terms is not None
        assert 1.3 < deviations[0] / ics_deviation(6 * KEPT, measured=measured) < 2.4
        # Only the model's own terms tell the norm of the shared rows.
        tolerance = 4 * deviations[0] + (0.1 * rho if uneven and not measured else 0)
        assert terms.mean() == pytest.approx(exact.ics, abs=tolerance)


def test_the_errors_of_the_zoos_pairs_are_below_0_02() -> None:
    records = [open_record(str(ZOO / name)) for name in ("llama-a", "llama-a-twin", "mistral-d")]
    for i, j in ((0, 1), (0, 2), (1, 2), (2, 0)):
        exact = compare_records(records[i], records[j]).ics
        entry = make_entry(records[j])
        terms = Ranking(make_query(records[i]))(from_entries([entry]))[1]
        assert exact is not None
        assert terms is not None
        assert abs(terms.mean() - exact) < 0.02


def test_a_picture_has_no_sketch() -> None:
    recipe = load_recipe()[0]
    picture = Record("dog.png", None, recipe, None, None, None, np.ones(512, np.float32))
    with pytest.raises(RegistryError, match=r"dog\.png: a picture carries only the latent"):
        make_entry(picture)
    assert make_query(picture).sketch is None
    with pytest.raises(RegistryError, match="x: its record has no latent"):
        make_query(Record("x", None, recipe, None, None, None, None))


def test_upper_tails_of_the_normal() -> None:
    # Abramowitz and Stegun, tables 26.1 and 26.2.
    for z, minus_log10 in ((0, 0.30103), (1, 0.79955), (5, 6.54265), (10, 23.11805),
                           (40, 349.43701), (100, 2173.87154), (500, 54289.90830)):  # fmt: skip
        assert -log10_upper_tail(z) == pytest.approx(minus_log10, abs=2e-4)
    assert log10_upper_tail(29.9999) == pytest.approx(log10_upper_tail(30.0001), abs=5e-3)


def test_the_probability_of_an_unrelated_score_grows_with_the_bases() -> None:
    values = [log10_stranger(0.08, 0.007, of) for of in (1, 10, 1000, 100_000)]
    assert values == sorted(values)
    assert values[1] - values[0] == pytest.approx(1, abs=0.01)
    assert log10_stranger(-1.0, 0.007, 1000) == pytest.approx(0, abs=1e-12)
    assert log10_stranger(1.0, 0.007, 100) < -400
    assert log10_stranger(0.3, 0.01, 0) <= 0


def test_unrelated_models_pass_the_gate_at_its_level() -> None:
    g = np.random.default_rng(0)
    deviation = ics_deviation(6 * KEPT, measured=True)
    best = g.normal(0, deviation, (20_000, 200)).max(axis=1)
    passed = np.mean([is_worth_reading(score, deviation, 200) for score in best])
    assert passed == pytest.approx(0.01, abs=0.003)


def test_few_anchors_rank_behind_many() -> None:
    few, many = lower_bound(np.array([0.2, 0.9]), 0.05), lower_bound(np.array([0.1, 0.7]), 0.006)
    assert few[0] < many[0]
    assert few[1] > many[1]
