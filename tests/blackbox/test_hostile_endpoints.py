"""Endpoints that lie, shuffle, truncate, charge, limit, or answer pages, streams or another model.

Each gets one line or a finding, and never a wrong verdict.
"""

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from huref.blackbox.answers import AnswerStore
from huref.blackbox.baseline import Mode
from huref.blackbox.client import Client, Limits
from huref.blackbox.endpoint import Endpoint
from huref.blackbox.scoring import collect_scores
from huref.blackbox.watch import revisit
from huref.errors import AccessError, EndpointError, HurefError, NetworkError
from tests.support.endpoint_server import Stub
from tests.support.hostile_endpoints import (
    HostileEndpoint,
    Reply,
    Trouble,
    WordModel,
    change_lists,
    change_scores,
    on_answers,
    route,
    send,
    set_fields,
    set_text,
    stream,
)

SWITCHES: dict[Mode, dict[str, Any]] = {
    "logprobs": {"top": 5, "jitter": 0.003},
    "scores": {"top": 1, "echo": "scores", "jitter": 0.003},
    "tokens": {"top": 0, "bias": "refused", "jitter": 0.003},
}
RANDOM = random.Random(0)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huref.blackbox.client.LONGEST_WAIT", 0.0)
    monkeypatch.setattr("huref.blackbox.permutation._SIMULATIONS", 10)


def serve(mode: Mode, seed: int = 0, **switches: Any) -> Stub:
    return WordModel(seed).serve(**SWITCHES[mode] | switches)


def watch(served: HostileEndpoint, baseline: Path, mode: Mode | None = None) -> dict[str, Any]:
    store = AnswerStore(baseline.with_suffix(".sqlite"))
    client = Client(served.url, None, Limits(20_000, 500_000), store)
    try:
        return revisit(Endpoint(client), baseline, mode=mode)
    finally:
        store.close()


def shuffle_values(found: dict[str, Any]) -> None:
    found["top_logprobs"] = [
        dict(zip(top, RANDOM.sample(list(top.values()), len(top)), strict=True))
        for top in found["top_logprobs"]
    ]


def shuffle_order(found: dict[str, Any]) -> None:
    found["top_logprobs"] = [
        dict(RANDOM.sample(list(top.items()), len(top))) for top in found["top_logprobs"]
    ]


def shuffle_places(found: dict[str, Any]) -> None:
    order = RANDOM.sample(range(1, len(found["tokens"])), len(found["tokens"]) - 1)
    for name in found:
        found[name] = [found[name][i] for i in (0, *order)]


def keep(count: int) -> Callable[[dict[str, Any]], None]:
    def change(found: dict[str, Any]) -> None:
        found["top_logprobs"] = [dict([*top.items()][:count]) for top in found["top_logprobs"]]

    return change


def keep_places(found: dict[str, Any]) -> None:
    for name in found:
        found[name] = found[name][:6]


def other_tokens(found: dict[str, Any]) -> None:
    found["tokens"] = ["zzz" for _ in found["tokens"]]


# What begins after an honest baseline of an unchanged model: its mode, whether the visit may still
# say that nothing changed, and a word of a finding.
LATER: dict[str, tuple[Mode, Trouble, bool | None, str]] = {
    "log-probabilities in another order": ("logprobs", change_lists(shuffle_order), False, ""),
    "one log-probability instead of five": (
        "logprobs", change_lists(keep(1)), False, "only 1 of the 5",
    ),
    "two log-probabilities instead of five": (
        "logprobs", change_lists(keep(2)), False, "only 2 of the 5",
    ),
    "scored places in another order": ("scores", change_lists(shuffle_places, True), None, ""),
    "six scored places": ("scores", change_lists(keep_places, True), False, "only 4 of the"),
    "other scored texts": ("scores", change_lists(other_tokens, True), None, "other texts"),
    "no counts of tokens": ("logprobs", set_fields(usage=[]), False, ""),
    "negative counts": ("logprobs", set_fields(usage={"total_tokens": -7}), False, ""),
    "another name": ("logprobs", set_fields(model="other-1"), False, "'other-1'"),
    "a page now and then": ("logprobs", send(b"<html>", every=11), False, "failed"),
    "an error with status 200 now and then": (
        "logprobs", send({"error": {"code": 429, "message": "slow"}}, every=5), False, "",
    ),
    "a gateway's status now and then": ("logprobs", send(b"<html>", 529, every=7), False, ""),
    "the key is refused": ("logprobs", send({"error": "no"}, 401), None, ""),
    "payment": ("logprobs", send({"error": "no credit"}, 402), None, ""),
    "payment, by text": ("tokens", send({"error": "no credit"}, 402), None, ""),
    "text without a choice": ("tokens", set_fields(choices=[]), None, ""),
    "null": ("scores", send(None), None, ""),
}  # fmt: skip


UNREADABLE = (  # troubles of which the visit says one line and no more
    "scored places in another order", "the key is refused", "payment", "payment, by text",
    "text without a choice", "null",
)  # fmt: skip


@pytest.mark.parametrize("what", LATER)
def test_trouble_with_an_unchanged_model_is_no_change(what: str, tmp_path: Path) -> None:
    mode, trouble, expected, finding = LATER[what]
    baseline = tmp_path / "b.json"
    with HostileEndpoint(serve(mode)) as served:
        assert watch(served, baseline, mode)["changed"] is None
        served.trouble = trouble
        found: dict[str, Any] = {"changed": None, "findings": [finding]}
        if what in UNREADABLE:
            with pytest.raises(HurefError) as caught:
                watch(served, baseline)
            assert "\n" not in str(caught.value)
        else:
            found = watch(served, baseline)
    assert found["changed"] is expected, found
    assert any(finding in each for each in found["findings"]) or not finding, found


# What makes a baseline impossible, because no change of the model would show.
BLIND: dict[str, tuple[Mode, Trouble]] = {
    "one value": ("logprobs", change_scores(lambda _: -1.0)),
    "noise": ("logprobs", change_scores(lambda _: RANDOM.uniform(-9, -1))),
    "one score": ("scores", change_scores(lambda _: -1.0)),
    "one text": ("tokens", set_text("Hello")),
    "no text": ("tokens", set_text("")),
    "null as text": ("tokens", set_text(None)),
    "a coin": ("tokens", on_answers(lambda reply: set_text(RANDOM.choice("ab"))(reply))),
    "a count": ("tokens", on_answers(lambda reply: set_text(str(reply.number))(reply))),
}


@pytest.mark.parametrize("what", BLIND)
def test_answers_in_which_no_change_can_show_make_no_baseline(what: str, tmp_path: Path) -> None:
    mode, trouble = BLIND[what]
    with HostileEndpoint(serve(mode), trouble) as served:
        found = watch(served, tmp_path / "b.json", mode)
    assert found["changed"] is None
    assert found["why"].startswith("cannot tell")
    assert not (tmp_path / "b.json").exists()


def test_the_same_text_again_and_again_is_not_paid_for_1200_times(tmp_path: Path) -> None:
    with HostileEndpoint(serve("tokens"), set_text("Hello")) as served:
        assert watch(served, tmp_path / "b.json")["requests"] < 500


REFUSED: dict[str, tuple[Trouble, type[HurefError], str]] = {
    "a page": (send(b"<!DOCTYPE html><html>Welcome</html>"), EndpointError, "not JSON"),
    "a page, forbidden": (send(b"<html>Just a moment", 403), AccessError, "403"),
    "a login": (send(b"<html>", 302, Location="http://127.0.0.1:1/"), EndpointError, "302"),
    "a list": (send([1, 2]), EndpointError, "OpenAI"),
    "a number": (send(3), EndpointError, "OpenAI"),
    "nothing": (send(b""), EndpointError, "not JSON"),
    "other characters": (send(b"\xff\xfe\x00"), EndpointError, "not JSON"),
    "lines of JSON": (send(b'{"response":"a"}\n{"response":"b"}\n'), EndpointError, "not JSON"),
    "half a character": (set_text("\ud800"), EndpointError, "surrogate"),
    "half of the JSON": (
        on_answers(lambda reply: setattr(reply, "answer", json.dumps(reply.answer)[:70].encode())),
        EndpointError,
        "not JSON",
    ),
    "less than it says": (
        on_answers(lambda reply: setattr(reply, "cut", 30)),
        NetworkError,
        "peer closed",
    ),
    "compressed": (send(b"\x1f\x8b", Content_Encoding="gzip"), EndpointError, "encoding"),
    "an unpaid account": (
        send({"error": {"code": "insufficient_quota"}}, 429),
        AccessError,
        "payment",
    ),
    "an unpaid account, status 200": (
        send({"error": {"code": 402, "message": "add credits"}}),
        AccessError,
        "payment",
    ),
    "usage that spends the budget": (
        set_fields(usage={"prompt_tokens": 90_000, "completion_tokens": 9_000}),
        HurefError,
        "--tokens",
    ),
    "usage without a number": (
        set_fields(usage={"total_tokens": 91_000.0, "prompt_tokens": "12"}),
        HurefError,
        "--tokens",
    ),
    "a day's wait": (send({"error": "slow"}, 429, Retry_After="86400"), NetworkError, "86,400"),
    "a date's wait": (
        send({"error": "slow"}, 503, Retry_After="Wed, 21 Oct 2099 07:28:00 GMT"),
        NetworkError,
        "Retry-After",
    ),
    "no end of waiting": (send({"error": "slow"}, 429, Retry_After="inf"), NetworkError, "1,000"),
    "true": (change_scores(lambda _: True), EndpointError, "true or false"),
    "no numbers": (change_scores(lambda _: float("nan")), EndpointError, "nan"),
    "an error in the stream": (
        stream(change=lambda events: [*events[:1], {"error": {"message": "overloaded"}}]),
        EndpointError,
        "overloaded",
    ),
    "an empty stream": (stream(change=lambda _: []), HurefError, ""),
    "a stream that it does not name": (stream(refusal="not so"), EndpointError, "not so"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_an_endpoint_that_answers_nothing_useful_is_one_line(what: str, tmp_path: Path) -> None:
    trouble, kind, words = REFUSED[what]
    with (
        HostileEndpoint(serve("logprobs"), trouble) as served,
        pytest.raises(kind) as caught,
    ):
        watch(served, tmp_path / "b.json", "logprobs")
    assert "\n" not in str(caught.value)
    assert words in str(caught.value)
    assert not (tmp_path / "b.json").exists()


@pytest.mark.parametrize(
    "listing",
    [[], [{}], [{"id": None}], [{"id": {"a": 1}}], [{"id": ""}], {"x": 1}, None, "stub", [3]],
)
def test_a_list_without_a_model_is_one_line(listing: Any) -> None:
    def trouble(reply: Reply) -> None:
        if reply.path.endswith("/models"):
            reply.answer = {"data": listing}

    with (
        HostileEndpoint(serve("logprobs"), trouble) as served,
        pytest.raises(EndpointError, match="lists no model"),
    ):
        Endpoint(Client(served.url))


STREAMS: dict[str, Trouble] = {
    "plain": stream(),
    "with carriage returns": stream(line_end="\r\n"),
    "with a comment first": stream(before=b": OPENROUTER PROCESSING\n\n"),
    "with a named event first": stream(before=b"event: ping\ndata: {}\n\n"),
    "with a retry first": stream(before=b"retry: 3000\n\n"),
    "without an end": stream(end=b""),
    "with nulls": stream(
        change=lambda events: [{"choices": None}, {"choices": [{"delta": None}]}, *events]
    ),
    "with a second answer": stream(
        change=lambda events: [
            part
            for event in events
            for part in (event, {"choices": [{"index": 1, "text": "?", "delta": {"content": "?"}}]})
        ]
    ),
    "with counts at the end": stream(
        change=lambda events: [*events, {"choices": [], "usage": {"total_tokens": 9}}]
    ),
    "with an empty event": stream(before=b"data:\n\n"),
}


@pytest.mark.parametrize("what", STREAMS)
def test_streams_give_what_answers_give(what: str) -> None:
    with HostileEndpoint(serve("logprobs")) as served:
        honest = Endpoint(Client(served.url)).capabilities
    with HostileEndpoint(serve("logprobs"), STREAMS[what]) as served:
        streamed = Endpoint(Client(served.url)).capabilities
    assert (streamed.access, streamed.top) == (honest.access, honest.top) == ("none", 5)


LIMITED: dict[str, Trouble] = {
    "without a wait": send({"error": "slow"}, 429, every=3),
    "a negative wait": send({"error": "slow"}, 429, every=3, Retry_After="-5"),
    "a wait without a number": send({"error": "slow"}, 429, every=3, Retry_After="soon"),
    "nan": send({"error": "slow"}, 503, every=3, Retry_After="nan"),
    "a date that is past": send(
        {"e": 1}, 429, every=3, Retry_After="Wed, 21 Oct 2015 07:28:00 GMT"
    ),
    "a gateway's 522": send(b"<html>", 522, every=4),
    "overloaded, 529": send({"error": "overloaded"}, 529, every=4),
    "closed connections": send(b"", 0, every=5),
    "status 200": send({"error": {"code": 503}}, every=4),
    "early": send({"error": "early"}, 425, every=3),
}


@pytest.mark.parametrize("what", LIMITED)
def test_a_busy_endpoint_offers_what_an_idle_one_does(what: str) -> None:
    with HostileEndpoint(serve("logprobs"), LIMITED[what]) as served:
        endpoint = Endpoint(Client(served.url))
    assert (endpoint.capabilities.access, endpoint.capabilities.top) == ("none", 5)
    assert endpoint.capabilities.requests <= 12


# When another model answers: while the baseline is made, after the detection.
ROUTES: dict[str, tuple[Mode, Callable[[int], bool]]] = {
    "the second half": ("logprobs", lambda n: n > 18),
    "after a third": ("logprobs", lambda n: n > 12),
    "the last third": ("logprobs", lambda n: n > 24),
    "one round in the middle": ("logprobs", lambda n: 12 < n <= 24),
    "the second half of the texts": ("scores", lambda n: n > 12),
    "the first half of the texts": ("scores", lambda n: n <= 12),
}


@pytest.mark.parametrize("what", ROUTES)
def test_a_model_that_changes_within_a_baseline_gives_no_wrong_verdict(
    what: str, tmp_path: Path
) -> None:
    mode, when = ROUTES[what]
    baseline = tmp_path / "b.json"
    with HostileEndpoint(serve(mode)) as served:
        store = AnswerStore()
        endpoint = Endpoint(Client(served.url, None, Limits(concurrency=1), store))
        served.trouble = route(serve(mode, 1), when)
        made = revisit(endpoint, baseline, mode=mode)
        assert made["changed"] is None
        assert not baseline.exists()
    assert any("half" in finding for finding in made["findings"])


def test_two_models_in_turn_are_one_mixture(tmp_path: Path) -> None:
    baseline = tmp_path / "b.json"
    with HostileEndpoint(serve("logprobs")) as served:
        served.trouble = route(serve("logprobs", 1), lambda _: RANDOM.random() < 0.5)
        watch(served, baseline, "logprobs")
        if baseline.exists():
            assert watch(served, baseline)["changed"] is not True


def test_log_probabilities_above_zero_are_a_finding(tmp_path: Path) -> None:
    with HostileEndpoint(serve("logprobs"), change_scores(lambda value: value + 9)) as served:
        found = watch(served, tmp_path / "b.json", "logprobs")
    assert any("of no probabilities" in finding for finding in found["findings"])


def test_a_visit_that_names_two_models_says_so(tmp_path: Path) -> None:
    trouble = on_answers(lambda reply: reply.answer.update(model=f"m{reply.number % 2}"))
    with HostileEndpoint(serve("logprobs"), trouble) as served:
        found = watch(served, tmp_path / "b.json", "logprobs")
    assert any("2 models" in finding for finding in found["findings"])


def test_log_probabilities_of_another_place_are_not_compared(tmp_path: Path) -> None:
    """As llama-cpp-python gives them: those of the token after the generated one."""

    def shift(found: dict[str, Any]) -> None:
        found["token_logprobs"] = [value and value - 8 for value in found["token_logprobs"]]
        found["top_logprobs"] = [
            top and {name: value - (8 if name == token else 0) for name, value in top.items()}
            for token, top in zip(found["tokens"], found["top_logprobs"], strict=True)
        ]

    stub = serve("logprobs", apis=("completions",))
    with HostileEndpoint(stub, change_lists(shift)) as served:
        endpoint = Endpoint(Client(served.url))
        assert endpoint.capabilities.misplaced
        assert "not those of the generated tokens" in endpoint.capabilities.summary
        with pytest.raises(EndpointError, match="cannot tell"):
            collect_scores(endpoint)
    with HostileEndpoint(stub) as served:
        assert not Endpoint(Client(served.url)).capabilities.misplaced


@pytest.mark.parametrize("number", range(1, 8))
def test_one_failed_request_hides_no_capability(number: int) -> None:
    def trouble(reply: Reply) -> None:
        if reply.number == number:
            reply.status, reply.answer = 500, {"error": "out of memory"}

    with HostileEndpoint(serve("scores")) as served:
        honest = Endpoint(Client(served.url)).capabilities
    with HostileEndpoint(serve("scores"), trouble) as served:
        found = Endpoint(Client(served.url)).capabilities
    for name in ("access", "top", "prompt_scores"):
        assert getattr(found, name) == getattr(honest, name)
    assert found.requests <= 12


def test_a_bias_of_the_second_api_is_found_where_the_first_fails_when_refusing() -> None:
    """As transformers' server: status 500 for log-probabilities, and a bias for chats alone."""

    def trouble(reply: Reply) -> None:
        asked = reply.query.get("logprobs")
        if asked or (reply.query.get("logit_bias") and "chat" not in reply.path):
            reply.status, reply.answer = 500, {"error": "unexpected keyword"}

    with HostileEndpoint(serve("tokens", bias="visible"), trouble) as served:
        found = Endpoint(Client(served.url)).capabilities
    assert (found.api, found.access) == ("chat", "argmax")
    assert found.requests <= 12
