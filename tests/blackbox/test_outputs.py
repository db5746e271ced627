"""Collecting outputs, and measuring the hidden size from them, with every kind of access."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from huref.blackbox.answers import AnswerStore
from huref.blackbox.argmax import Differences, next_bias
from huref.blackbox.local_model import LocalModel
from huref.blackbox.precision import detect_precision
from huref.blackbox.prompts import make_prompts, order_ids
from huref.blackbox.size import clr, find_gap, measure_size
from huref.errors import AccessError, BudgetError, EndpointError, NetworkError
from tests.support.endpoint_server import Stub
from tests.support.served_models import FULL, KINDS, V, connect

ACCESS: dict[str, dict[str, Any]] = {
    "full, ids": {"top": None, "ids": "id"},
    "full, names as ids": FULL,
    "chosen ids": {"chosen": True, "ids": "token_id", "bias": "invisible"},
    "top 20": {"top": 20},
    "top 5, chat": {"top": 5, "apis": ("chat",)},
    "top 5, clamped": {"top": 5, "clamp": True},
    "top 1": {"top": 1},
    "argmax, bias invisible": {"top": 20, "bias": "invisible"},
    "argmax, no logprobs": {"top": 0},
    "argmax, chat, few biased": {"top": 0, "apis": ("chat",), "most_biased": 20},
}


EXPECTED = {"full": 0.05, "chosen": 0.05, "top 20": 0.15, "top 5": 0.3, "top 1": 2.5, "argmax": 8.0}


@pytest.mark.parametrize("way", ACCESS)
def test_every_access_gives_the_logits_of_the_model(way: str, served: Callable[..., Stub]) -> None:
    stub = served(**ACCESS[way])
    endpoint = connect(stub)
    assert endpoint.vocabulary == V
    collector = way.split()[0].strip(",")
    assert endpoint.capabilities.access == {"top": "biased"}.get(collector, collector)
    ids, prompts = endpoint.choose_ids(24), make_prompts(4)
    before = endpoint.requests
    found = clr(endpoint.outputs(prompts, ids))
    truth = clr(np.array([stub.logits(p)[ids] for p in prompts]))
    tolerance = 1e-3 if way.startswith("argmax") else 2e-5
    assert np.abs(found - truth).max() < tolerance
    assert np.abs(truth).max() > 0.5  # otherwise the tolerance would be meaningless
    per_logit = (endpoint.requests - before) / (4 * 23)
    assert per_logit < next(v for k, v in EXPECTED.items() if way.startswith(k))


@pytest.mark.parametrize("kind", KINDS)
def test_size_and_norm_of_every_kind_of_head(kind: str, models: Callable[..., Path]) -> None:
    _, _, hidden, norm = KINDS[kind]
    found = measure_size(LocalModel(str(models(kind))))
    assert (found.hidden_size, found.norm) == (hidden, norm)
    assert found.low is not None
    assert found.high is not None
    assert found.low <= hidden <= found.high
    assert found.precision == "float32"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("switches", "precision"),
    [
        (FULL, "float32"),
        (FULL | {"precision": "bfloat16"}, "bfloat16"),
        (FULL | {"precision": "float16"}, "float16"),
        (FULL | {"step": 0.001}, "steps of 0.001"),
        (FULL | {"temperature": 0.6}, "float32"),
        ({"top": 20}, "unknown from differences"),
    ],
)
def test_size_through_rounding(
    switches: dict[str, object], precision: str, served: Callable[..., Stub]
) -> None:
    found = measure_size(connect(served(**switches)))
    assert found.precision == precision
    assert found.hidden_size == 24


@pytest.mark.parametrize("trouble", [{"step": 0.1}, {"defence": 0.5}, {"jitter": 0.3}])
def test_size_that_cannot_be_determined_is_none(
    trouble: dict[str, object], served: Callable[..., Stub]
) -> None:
    found = measure_size(connect(served(**FULL, **trouble), budget=240))
    assert found.hidden_size is None
    assert found.why
    assert list(found.to_json()) == [
        "hidden_size", "low", "high", "norm", "precision", "requests", "why",
    ]  # fmt: skip


def test_size_stops_at_the_budget(served: Callable[..., Stub]) -> None:
    with pytest.raises(BudgetError, match="--budget"):
        measure_size(connect(served(top=5), budget=200))


@pytest.mark.parametrize(("usage", "most"), [(100, 60), (None, 105)])
def test_tokens_are_capped_too(usage: int | None, most: int, served: Callable[..., Stub]) -> None:
    """An answer counts as the endpoint's usage says, or as 25 tokens without one."""
    endpoint = connect(served(top=5, usage=usage), tokens=2_500)
    with pytest.raises(BudgetError, match=r"2,500 tokens .* --tokens"):
        measure_size(endpoint)
    assert endpoint.requests <= most
    assert endpoint.client.tokens < 2_500 + 8 * 100  # eight requests are pending at a time


def test_precision_of_a_hidden_shift() -> None:
    logits = torch.from_numpy(np.random.default_rng(0).normal(0, 4, (8, 200)))
    for name in ("bfloat16", "float16"):
        rounded = logits.to(getattr(torch, name)).float()
        served = torch.log_softmax(rounded, 1).double().numpy()
        found = detect_precision(served)
        assert found.name == name
        true = (rounded.double() - logits).std().item()
        assert found.noise == pytest.approx(true, rel=0.1)


def test_gap_is_found_among_small_singular_values() -> None:
    left, right = np.random.default_rng(0).normal(size=(2, 60, 20))
    values = 1e-3 * left @ right.T + 1e-9 * np.random.default_rng(1).normal(size=(60, 60))
    assert find_gap(values).rank == 20


def test_argmax_bounds_always_contain_the_truth() -> None:
    truth = np.random.default_rng(3).normal(0, 3, 12)
    for method in ("one-of-n", "hyperrectangle", "bisection"):
        known = Differences(12, 40.0)
        bias: np.ndarray | None = np.zeros(12)
        queries = 0
        while bias is not None:
            known.learn(int(np.argmax(truth + bias)), bias)
            assert (known.low <= truth - truth[known.reference] + 1e-9).all()
            assert (known.high >= truth - truth[known.reference] - 1e-9).all()
            bias, queries = next_bias(known, 0.01, method), queries + 1
            assert queries < 400
        assert known.width.max() <= 0.01


def test_contradicting_argmaxes_are_detected(served: Callable[..., Stub]) -> None:
    endpoint = connect(served(top=0, jitter=0.5))
    with pytest.raises(EndpointError, match=r"contradict|changed their meaning"):
        endpoint.outputs(make_prompts(4), endpoint.choose_ids(24))


def test_answers_are_stored_and_no_query_is_sent_twice(
    served: Callable[..., Stub], tmp_path: Path
) -> None:
    stub = served(top=5)
    path = tmp_path / "answers.sqlite"
    endpoint = connect(stub, budget=110, store=AnswerStore(path))
    ids = endpoint.choose_ids(24)
    with pytest.raises(BudgetError, match=r"answers\.sqlite"):
        endpoint.outputs(make_prompts(40), ids)
    assert endpoint.requests == 110
    again = connect(stub, store=AnswerStore(path))
    not_stored = again.requests  # refusals and the list of models
    assert not_stored < 25
    first = again.outputs(make_prompts(40), again.choose_ids(24))
    total = stub.requests
    third = connect(stub, store=AnswerStore(path))
    second = third.outputs(make_prompts(40), third.choose_ids(24))
    assert np.array_equal(first, second)
    assert stub.requests - total <= not_stored + 2  # two names are checked again


@pytest.mark.parametrize(
    ("switches", "error", "words"),
    [
        ({"key": "secret"}, AccessError, "key"),
        ({"failures": [500] * 50}, NetworkError, "status 500"),
        ({"nan": True}, EndpointError, "nan"),
        ({"apis": ()}, EndpointError, "neither"),
    ],
)
def test_endpoints_that_cannot_be_used(
    switches: dict[str, object],
    error: type[Exception],
    words: str,
    served: Callable[..., Stub],
) -> None:
    with pytest.raises(error, match=words):
        connect(served(**switches))


def test_insufficient_access_is_refused(served: Callable[..., Stub]) -> None:
    endpoint = connect(served(top=5, bias="ignored"))
    assert endpoint.capabilities.access == "none"
    with pytest.raises(EndpointError, match="not enough"):
        measure_size(endpoint)
    assert connect(served(top=0, bias="refused")).capabilities.access == "none"


def test_truncated_vocabulary_is_detected(served: Callable[..., Stub]) -> None:
    stub = served(**FULL)
    endpoint = connect(stub)
    stub._cache.clear()
    stub.switches.truncate = 100
    with pytest.raises(EndpointError, match="truncated"):
        endpoint.outputs(make_prompts(3), endpoint.choose_ids(200))


def test_ids_that_change_their_meaning_are_detected(served: Callable[..., Stub]) -> None:
    stub = served(top=5)
    endpoint = connect(stub)
    ids = endpoint.choose_ids(24)
    stub.switches.swap_after = stub.requests
    with pytest.raises(EndpointError, match=r"missing|another model"):
        endpoint.outputs(make_prompts(3), ids)


def test_ids_with_empty_or_equal_texts_are_omitted(served: Callable[..., Stub]) -> None:
    endpoint = connect(served(top=0, spell=lambda i: "" if i % 7 == 0 else f"t{i // 2}"))
    ids = endpoint.choose_ids(20)
    assert all(i % 7 for i in ids)
    assert len({i // 2 for i in ids}) == len(ids) == 20


def test_failures_are_retried_and_counted(served: Callable[..., Stub]) -> None:
    stub = served(**FULL, failures=[429, 0, 503])
    endpoint = connect(stub)
    assert endpoint.requests == stub.requests >= 6


def test_order_of_ids_is_the_same_for_a_longer_vocabulary() -> None:
    short, long = order_ids(4000), order_ids(4200)
    assert sorted(short) == list(range(4000))
    assert [i for i in long if i < 4000] == list(short)
