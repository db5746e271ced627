"""Sketches against the full terms, and the null of a search."""

import math

import numpy as np
import pytest
import torch
from conftest import ZOO
from hypothesis import given
from hypothesis import strategies as st

from huref.encoder.synthetic import ics
from huref.errors import RegistryError
from huref.invariants.anchors import Anchors
from huref.invariants.record import Record
from huref.lineage.similarity import compare_records
from huref.models import open_record
from huref.recipe import load_recipe
from huref.registry.chance import is_worth_reading, log10_stranger, log10_upper_tail
from huref.registry.entry import make_entry, make_query
from huref.registry.sketch import (
    correlate_sketches,
    count_shared,
    encode_anchors,
    lower_end,
    make_sketch,
    shared_entries,
    sketch_shifts,
    spread,
)

M = 512
SHIFTS = [273, 291, 349, 502, 297, 205]
ANCHOR_CODES = [0, 4055931881, 3493906184]
EVERYTHING = np.ones((6, 6 * M), bool)


def correlated(rho: float, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    a = torch.randn(2, 3, M, M, generator=g)
    return a, rho * a + math.sqrt(1 - rho * rho) * torch.randn(2, 3, M, M, generator=g)


@pytest.mark.parametrize("rho", [0.0, 0.3, 0.7, 0.98, 1.0])
def test_a_sketch_keeps_the_ics(rho: float) -> None:
    errors = []
    for seed in range(4):
        a, b = correlated(rho, seed)
        estimate = correlate_sketches(make_sketch(a), make_sketch(b)[None], EVERYTHING).mean()
        errors.append(estimate - float(ics(a, b)))
    assert np.abs(errors).max() < 0.02
    # The figure that identify's null rests on, with room for four samples of it.
    assert np.abs(errors).max() < 4 * (1 - rho**2) * spread(EVERYTHING.sum()) + 1e-4


def test_which_entries_are_kept_never_changes() -> None:
    # A published registry depends on these.
    assert sketch_shifts(6, 512)[0].tolist() == SHIFTS
    shifts = sketch_shifts(6, 512)
    assert shifts.shape == (6, 6)
    assert shifts.min() >= 1
    assert shifts.max() < 512
    assert all(len(set(row)) == 6 for row in shifts.tolist())
    codes = encode_anchors(Anchors((b"", b" the", b"ing"), (-1, 5, 6)))
    assert codes.tolist() == ANCHOR_CODES


def test_codes_are_the_entries_of_the_diagonals() -> None:
    terms = torch.zeros(2, 3, M, M)
    shift = int(sketch_shifts(6, M)[4, 2])
    terms[1, 1, 500, (500 + shift) % M] = -0.25
    terms[1, 1, 3, (3 + shift) % M] = 0.125
    codes = make_sketch(terms)
    assert codes.dtype == np.int8
    assert codes.shape == (6, 6 * M)
    assert np.count_nonzero(codes) == 2
    assert codes[4, 2 * M + 500] == -127
    assert codes[4, 2 * M + 3] == 64


def test_a_term_without_variation_correlates_with_nothing() -> None:
    a, b = correlated(1.0, 0)
    b = b.clone()
    b[0] = 0
    one, other = make_sketch(a), make_sketch(b)
    found = correlate_sketches(one, np.stack([one, other]), EVERYTHING)
    assert found[0] == pytest.approx(np.ones(6), abs=1e-6)
    assert found[1][:3].tolist() == [0, 0, 0]
    assert found[1][3:] == pytest.approx(np.ones(3), abs=1e-6)


@given(st.integers(0, 2**32 - 1), st.integers(1, 70), st.floats(0.2, 1))
def test_correlations_are_pearsons_on_the_shared_entries(
    seed: int, count: int, share: float
) -> None:
    g = np.random.default_rng(seed)
    one = g.integers(-127, 128, (2, 60), dtype=np.int8)
    many = g.integers(-127, 128, (count, 2, 60), dtype=np.int8)
    shared = g.random((2, 60)) < share
    shared[:, :3] = True
    found = correlate_sketches(one, many, shared)
    for row in range(count):
        for term in range(2):
            kept = shared[term]
            expected = np.corrcoef(one[term][kept], many[row, term][kept])[0, 1]
            assert found[row, term] == pytest.approx(expected, abs=1e-4)


def test_partly_shared_anchors_are_compared_as_the_terms_are() -> None:
    a, b = correlated(0.6, 1)
    tokens = [b"%d" % i for i in range(M)]
    others = [t if i % 3 else b"other" + t for i, t in enumerate(tokens)]
    others[7] = b""
    b[:, :, 7], b[:, :, :, 7] = 0, 0
    recipe, ids = load_recipe()[0], tuple(range(M))
    latent = np.zeros(512, np.float32)
    x = Record("a", None, recipe, (1, 2), Anchors(tuple(tokens), ids), a, latent)
    y = Record("b", None, recipe, (1, 2), Anchors(tuple(others), ids), b, latent)
    exact = compare_records(x, y)
    one, other = make_entry(x), make_entry(y)
    assert count_shared(one.anchors, other.anchors) == exact.shared_anchors
    shared = shared_entries(one.anchors, other.anchors, 6)
    assert 0.4 < shared.mean() < 0.48
    estimate = correlate_sketches(one.sketch, other.sketch[None], shared).mean()
    assert exact.ics is not None
    assert estimate == pytest.approx(exact.ics, abs=4 * spread(shared.sum()))


def test_the_zoos_pairs_are_kept_within_two_hundredths() -> None:
    records = [open_record(str(ZOO / name)) for name in ("llama-a", "llama-a-twin", "mistral-d")]
    for i, j in ((0, 1), (0, 2), (1, 2)):
        exact = compare_records(records[i], records[j]).ics
        one, other = make_entry(records[i]), make_entry(records[j])
        shared = shared_entries(one.anchors, other.anchors, 6)
        estimate = correlate_sketches(one.sketch, other.sketch[None], shared).mean()
        assert exact is not None
        assert abs(estimate - exact) < 0.02


def test_a_picture_has_no_sketch() -> None:
    recipe = load_recipe()[0]
    picture = Record("dog.png", None, recipe, None, None, None, np.ones(512, np.float32))
    with pytest.raises(RegistryError, match=r"dog\.png: a picture carries only the latent"):
        make_entry(picture)
    assert make_query(picture).sketch is None
    with pytest.raises(RegistryError, match="without a latent"):
        make_query(Record("x", None, recipe, None, None, None, None))


def test_upper_tails_of_the_normal() -> None:
    # Abramowitz and Stegun, tables 26.1 and 26.2.
    for z, minus_log10 in ((0, 0.30103), (1, 0.79955), (5, 6.54265), (10, 23.11805),
                           (40, 349.43701), (100, 2173.87154), (500, 54289.90830)):  # fmt: skip
        assert -log10_upper_tail(z) == pytest.approx(minus_log10, abs=2e-4)
    assert log10_upper_tail(29.9999) == pytest.approx(log10_upper_tail(30.0001), abs=5e-3)


def test_the_chance_of_a_stranger_counts_all_bases() -> None:
    values = [log10_stranger(0.08, 0.007, of) for of in (1, 10, 1000, 100_000)]
    assert values == sorted(values)
    assert values[1] - values[0] == pytest.approx(1, abs=0.01)
    assert log10_stranger(-1.0, 0.007, 1000) == pytest.approx(0, abs=1e-12)
    assert log10_stranger(1.0, 0.007, 100) < -400
    assert log10_stranger(0.3, 0.01, 0) <= 0


def test_the_gate_lets_as_many_strangers_through_as_it_says() -> None:
    g = np.random.default_rng(0)
    deviation = spread(18432)
    best = g.normal(0, deviation, (20_000, 200)).max(axis=1)
    passed = np.mean([is_worth_reading(score, deviation, 200) for score in best])
    assert passed == pytest.approx(0.01, abs=0.003)


def test_few_anchors_rank_behind_many() -> None:
    few, many = lower_end(np.array([0.2, 0.9]), 288), lower_end(np.array([0.1, 0.7]), 18432)
    assert few[0] < many[0]
    assert few[1] > many[1]
