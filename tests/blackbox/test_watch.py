"""Capabilities, and watching by tokens, scores and log-probabilities, on odd endpoints."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from huref.blackbox.answers import AnswerStore
from huref.blackbox.client import Client, Limits
from huref.blackbox.endpoint import Endpoint
from huref.blackbox.permutation import compare_tokens
from huref.blackbox.scoring import judge
from huref.blackbox.watch import revisit
from huref.errors import BudgetError, EndpointError, HurefError, NetworkError
from tests.support.endpoint_server import Stub, Switches

V = 400
TEXT_ONLY: dict[str, Any] = {"top": 0, "bias": "refused"}


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huref.blackbox.client.LONGEST_WAIT", 0.0)


def logits_of(seed: int = 0, move: float = 0.0) -> Callable[[str], np.ndarray]:
    """A function from prompts to logits; `move` nat (root mean square) away from its seed's."""

    def logits(prompt: str) -> np.ndarray:
        number = int.from_bytes(hashlib.sha256(prompt.encode()).digest()[:4], "big")
        base = np.random.default_rng([seed, number]).normal(0, 2, V)
        return np.asarray(base + move * np.random.default_rng([9, number]).normal(0, 1, V))

    return logits


def serve(model: int = 0, move: float = 0.0, noise: int = 0, **switches: Any) -> Stub:
    stub = Stub(logits_of(model, move), Switches(**switches))
    stub._noise = np.random.default_rng(noise)
    return stub


def open_stub(stub: Stub, budget: int = 50_000, store: AnswerStore | None = None) -> Endpoint:
    limits = Limits(budget)
    return Endpoint(Client("http://127.0.0.1:1/v1", None, limits, store, stub.transport()))


KINDS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "text only": (TEXT_ONLY, {"top": 0, "access": "none"}),
    "top 5, no bias": ({"top": 5, "bias": "ignored"}, {"top": 5, "access": "none"}),
    "top 20, bias": ({"top": 20}, {"top": 20, "access": "biased"}),
    "clamped": ({"top": 7, "clamp": True}, {"top": 7, "access": "biased"}),
    "all": ({"top": None, "ids": "token_id"}, {"top": V, "access": "full"}),
    "chosen": ({"chosen": True, "ids": "token_id", "bias": "ignored"}, {"access": "chosen"}),
    "null with 200": ({"drop_all": True, "bias": "refused"}, {"top": 0, "dropped": True}),
    "chat only": (TEXT_ONLY | {"apis": ("chat",)}, {"api": "chat", "top": 0}),
    "argmax": ({"top": 0}, {"access": "argmax", "top": 0}),
    "streams only": ({"top": 5, "stream_only": True}, {"top": 5, "access": "biased"}),
    "renamed field": ({"top": 5, "rename": True}, {"top": 5, "access": "biased"}),
    "seed ignored": ({"top": 5, "seed": "ignored"}, {"top": 5}),
    "temperature ignored": (TEXT_ONLY | {"sampling": "ignored"}, {"greedy": False}),
}


@pytest.mark.parametrize("kind", KINDS)
def test_capabilities_take_at_most_twelve_requests(kind: str) -> None:
    switches, expected = KINDS[kind]
    stub = serve(**switches)
    found = open_stub(stub).capabilities
    assert {name: getattr(found, name) for name in expected} == expected
    adapted = 1 if kind in ("streams only", "renamed field") else 0  # a refusal that is understood
    assert stub.requests <= 12 + adapted


def test_capabilities_are_remembered_and_a_lost_field_is_a_finding(tmp_path: Path) -> None:
    store = AnswerStore(tmp_path / "answers.sqlite")
    stub = serve(top=5, bias="ignored")
    first = open_stub(stub, store=store).capabilities
    asked = stub.requests
    assert open_stub(stub, store=store).capabilities == first
    assert stub.requests == asked
    stub.switches.drop_all = True
    client = Client("http://127.0.0.1:1/v1", None, Limits(), store, stub.transport())
    # Answers of the first detection are in the store; another detection must not believe them.
    again = Endpoint(client, ask_again=True)
    assert again.capabilities.top == 0
    assert any("no log-probabilities" in finding for finding in again.findings)


@pytest.mark.slow
def test_tokens_alone_show_a_change_and_no_change(tmp_path: Path) -> None:
    baseline = tmp_path / "b.json"
    noisy = TEXT_ONLY | {"jitter": 0.003, "fail": 0.01}
    first = revisit(open_stub(serve(noise=1, **noisy)), baseline)
    assert (first["changed"], first["mode"]) == (None, "tokens")
    assert 0 < first["detectable"] < 0.5
    quiet = revisit(open_stub(serve(noise=2, **noisy)), baseline)
    assert quiet["changed"] is False
    assert quiet["power"] > 0.2
    moved = revisit(open_stub(serve(move=0.5, noise=3, **noisy)), baseline)
    assert moved["changed"] is True
    other = revisit(open_stub(serve(1, noise=4, **noisy)), baseline)
    assert other["changed"] is True
    assert other["p"] < 0.001


@pytest.mark.slow
def test_the_test_on_tokens_keeps_its_level() -> None:
    random = np.random.default_rng(0)
    chances = random.dirichlet(np.ones(3), size=16)
    alarms = 0
    for trial in range(300):
        first, second = (
            [[str(t) for t in random.choice(3, 12, p=chance)] for chance in chances]
            for _ in range(2)
        )
        alarms += compare_tokens(first, second, seed=trial, level=0.05).changed
    assert alarms <= 28  # 15 are expected; more than 28 have a probability of 0.1 %


def test_log_probabilities_that_vanish_are_a_finding(tmp_path: Path) -> None:
    baseline = tmp_path / "b.json"
    stub = serve(top=5, bias="ignored", jitter=0.01)
    store = AnswerStore(tmp_path / "answers.sqlite")
    assert revisit(open_stub(stub, store=store), baseline)["mode"] == "logprobs"
    stub.switches.drop_all = True
    found = revisit(open_stub(stub, store=store), baseline)
    assert found["changed"] is None
    assert found["mode"] == "tokens"
    assert any("status 200" in finding for finding in found["findings"])
    other = serve(1, top=5, bias="ignored", drop_all=True)
    assert revisit(open_stub(other, store=store), baseline)["changed"] is True


@pytest.mark.slow
def test_some_answers_without_log_probabilities_change_no_verdict(tmp_path: Path) -> None:
    baseline = tmp_path / "b.json"
    revisit(open_stub(serve(top=5, bias="ignored", jitter=0.01)), baseline)
    store = AnswerStore()
    stub = serve(top=5, bias="ignored", jitter=0.01, noise=7)
    endpoint = open_stub(stub, store=store)
    stub.switches.lose = 0.1
    found = revisit(endpoint, baseline)
    assert found["changed"] is False
    assert any("lack log-probabilities" in finding for finding in found["findings"])


def test_a_model_that_changes_within_the_baseline_makes_none(tmp_path: Path) -> None:
    baseline = tmp_path / "b.json"
    stub = serve(top=5, bias="ignored")
    endpoint = open_stub(stub)
    stub.second, stub.switches.change_after = logits_of(1), stub.requests + 18
    found = revisit(endpoint, baseline)
    assert found["changed"] is None
    assert any("half" in finding for finding in found["findings"])
    assert not baseline.exists()


@pytest.mark.parametrize("habit", [{"constant": "Hello"}, {"sampling": "greedy"}])
def test_an_endpoint_without_border_inputs_is_not_judged(
    habit: dict[str, Any], tmp_path: Path
) -> None:
    found = revisit(open_stub(serve(**TEXT_ONLY, **habit)), tmp_path / "b.json")
    assert found["changed"] is None
    assert "cannot tell" in found["why"]


@pytest.mark.slow
def test_random_answers_are_no_change(tmp_path: Path) -> None:
    baseline = tmp_path / "b.json"
    revisit(open_stub(serve(**TEXT_ONLY, shuffle=True)), baseline)
    found = revisit(open_stub(serve(**TEXT_ONLY, shuffle=True, noise=7)), baseline)
    assert found["changed"] is not True


@pytest.mark.parametrize(
    ("switches", "error"),
    [
        ({"html": True}, EndpointError),
        ({"failures": [429] * 99, "retry_after": "86400"}, NetworkError),
        ({"failures": [402] * 99}, HurefError),
    ],
)
def test_endpoints_that_answer_nothing_useful(
    switches: dict[str, Any], error: type[Exception]
) -> None:
    with pytest.raises(error) as caught:
        open_stub(serve(**switches))
    assert "\n" not in str(caught.value)


def test_an_endpoint_that_charges_much_is_stopped_by_the_tokens(tmp_path: Path) -> None:
    stub = serve(**TEXT_ONLY, usage=100_000)
    client = Client("http://127.0.0.1:1/v1", None, Limits(9999, 500_000), None, stub.transport())
    with pytest.raises(BudgetError, match="--tokens"):
        revisit(Endpoint(client), tmp_path / "b.json")


def test_served_scores_are_judged_by_the_errors_of_quantisation() -> None:
    random = np.random.default_rng(0)
    true = random.normal(-3, 2.5, 200)
    errors = {
        bits: random.normal(0, size, 200) for bits, size in ((16, 0.003), (8, 0.02), (4, 0.2))
    }
    own = {0: true} | {bits: true + error for bits, error in errors.items()}
    near = random.normal(0, 1, 200)
    expected = {
        "same model": true + 1e-4 * near,
        "same model, about 8 bits": own[8] + 0.002 * near,
        "same model, about 4 bits": true + 0.7 * errors[4] + 0.1 * near,
        "cannot tell": true + 0.25 * near,
        "other model": true + 1.5 * near,
    }
    assert {verdict: judge("m", served, own).verdict for verdict, served in expected.items()} == {
        verdict: verdict for verdict in expected
    }
    assert judge("m", true[:20], {b: v[:20] for b, v in own.items()}).verdict == "cannot tell"
