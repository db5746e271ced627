"""What outputs tell, against models whose weights are known."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from endpoint_server import LoopbackEndpoint, Stub, Switches

from huref.blackbox.answers import AnswerStore
from huref.blackbox.argmax import Differences, next_bias
from huref.blackbox.client import Client, Limits
from huref.blackbox.extract import extract_projection, projection_error
from huref.blackbox.heads import read_head
from huref.blackbox.match import match_outputs, match_signature
from huref.blackbox.precision import detect_precision
from huref.blackbox.prompts import make_prompts, order_ids
from huref.blackbox.signature import collect_outputs, load_signature, make_signature
from huref.blackbox.size import clr, find_gap, measure_size
from huref.blackbox.sources import Endpoint, LocalModel
from huref.blackbox.watch import Baseline, compare_visits, load_baseline
from huref.errors import (
    AccessError,
    BudgetError,
    EndpointError,
    NetworkError,
    SignatureError,
    UnsupportedModelError,
)

V = 640
KINDS = {  # class, its own settings, hidden size, final norm
    "llama": ("LlamaForCausalLM", {"hidden_size": 24, "intermediate_size": 32}, 24, "RMSNorm"),
    "qwen2": ("Qwen2ForCausalLM", {"hidden_size": 32, "intermediate_size": 32}, 32, "RMSNorm"),
    "gemma": (
        "GemmaForCausalLM",
        {"hidden_size": 24, "intermediate_size": 32, "head_dim": 8},
        24,
        "RMSNorm",
    ),
    "olmo": ("OlmoForCausalLM", {"hidden_size": 24, "intermediate_size": 32}, 24, "LayerNorm"),
    "cohere": ("CohereForCausalLM", {"hidden_size": 32, "intermediate_size": 32}, 32, "LayerNorm"),
    "neox": (
        "GPTNeoXForCausalLM",
        {"hidden_size": 24, "intermediate_size": 32},
        24,
        "LayerNorm with bias",
    ),
    "gpt2": (
        "GPT2LMHeadModel",
        {"n_embd": 32, "n_layer": 2, "n_head": 2},
        32,
        "LayerNorm with bias",
    ),
    "phi": (
        "PhiForCausalLM",
        {"hidden_size": 24, "intermediate_size": 32},
        24,
        "LayerNorm with bias",
    ),
}


def make_model(folder: Path, kind: str, seed: int = 0) -> Path:
    """A tiny random model whose norms' gains and biases are drawn, too."""
    import transformers

    name, settings, _, _ = KINDS[kind]
    common = {"vocab_size": V, "max_position_embeddings": 32, "initializer_range": 0.15}
    common |= {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}
    if kind != "gpt2":
        common |= {"num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 2}
    if kind == "neox":
        del common["num_key_value_heads"]
    torch.manual_seed(seed)
    config = getattr(
        transformers, name.replace("ForCausalLM", "").replace("LMHeadModel", "") + "Config"
    )
    model = getattr(transformers, name)(config(**common | settings))
    for parameter_name, parameter in model.named_parameters():
        if parameter.dim() == 1 and parameter_name.endswith("weight"):
            parameter.data.uniform_(0.5, 1.5)
        elif parameter.dim() == 1:
            parameter.data.normal_(0, 0.5)
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Folders of tiny models, made once."""
    root = tmp_path_factory.mktemp("served")

    def get(kind: str, seed: int = 0) -> Path:
        folder = root / f"{kind}-{seed}"
        return folder if folder.exists() else make_model(folder, kind, seed)

    return get


@pytest.fixture(scope="module")
def served(models: Callable[..., Path]) -> Callable[..., Stub]:
    """Stub endpoints; the outputs of each model are computed once."""
    tables: dict[tuple[str, int], dict[str, np.ndarray]] = {}
    sources: dict[tuple[str, int], LocalModel] = {}

    def serve(kind: str = "llama", seed: int = 0, **switches: object) -> Stub:
        key = (kind, seed)
        if key not in sources:
            sources[key] = LocalModel(str(models(kind, seed)))
            prompts = [p for which in "ab" for p in make_prompts(72, which)]
            rows = sources[key].outputs(prompts, np.arange(V))
            tables[key] = dict(zip(prompts, rows, strict=True))

        def logits(prompt: str) -> np.ndarray:
            if prompt not in tables[key]:
                tables[key][prompt] = sources[key].outputs([prompt], np.arange(V))[0]
            return tables[key][prompt]

        stub = Stub(logits, Switches(**switches))
        stub.truth = logits
        return stub

    return serve


def connect(stub: Stub, budget: int = 100_000, **options: object) -> Endpoint:
    """An endpoint in this process, without a socket."""
    client = Client(
        "http://127.0.0.1:1/v1",
        limits=Limits(budget),
        store=options.pop("store", None),
        transport=stub.transport(),
    )
    return Endpoint(client, **options)


FULL = {"top": None, "ids": "token_id"}
WAYS = {
    "full, ids": {"top": None, "ids": "id"},
    "full, names as ids": FULL,
    "chosen ids": {"chosen": True, "ids": "token_id", "bias": "invisible"},
    "top 20": {"top": 20},
    "top 5, chat": {"top": 5, "dialects": ("chat",)},
    "top 5, clamped": {"top": 5, "clamp": True},
    "top 1": {"top": 1},
    "argmax, bias invisible": {"top": 20, "bias": "invisible"},
    "argmax, no logprobs": {"top": 0},
    "argmax, chat, few biased": {"top": 0, "dialects": ("chat",), "most_biased": 20},
}
EXPECTED = {"full": 0.05, "chosen": 0.05, "top 20": 0.15, "top 5": 0.3, "top 1": 2.5, "argmax": 8.0}


@pytest.mark.parametrize("way", WAYS)
def test_every_way_of_answering_gives_the_models_own_logits(
    way: str, served: Callable[..., Stub]
) -> None:
    stub = served(**WAYS[way])
    endpoint = connect(stub)
    assert endpoint.vocabulary == V
    collector = way.split()[0].strip(",")
    assert endpoint.can.collector == {"top": "biased"}.get(collector, collector)
    ids, prompts = endpoint.choose_ids(24), make_prompts(4)
    before = endpoint.requests
    found = clr(endpoint.outputs(prompts, ids))
    truth = clr(np.array([stub.truth(p)[ids] for p in prompts]))
    tolerance = 1e-3 if way.startswith("argmax") else 2e-5
    assert np.abs(found - truth).max() < tolerance
    assert np.abs(truth).max() > 0.5  # or the tolerance would say nothing
    per_logit = (endpoint.requests - before) / (4 * 23)
    assert per_logit < next(v for k, v in EXPECTED.items() if way.startswith(k))


@pytest.mark.parametrize("kind", KINDS)
def test_size_and_norm_of_every_kind_of_head(kind: str, models: Callable[..., Path]) -> None:
    _, _, hidden, norm = KINDS[kind]
    found = measure_size(LocalModel(str(models(kind))))
    assert (found.hidden_size, found.norm) == (hidden, norm)
    assert found.low <= hidden <= found.high
    assert found.precision == "float32"


@pytest.mark.parametrize(
    ("switches", "precision"),
    [
        (FULL, "float32"),
        (FULL | {"precision": "bfloat16"}, "bfloat16"),
        (FULL | {"precision": "float16"}, "float16"),
        (FULL | {"step": 0.001}, "steps of 0.001"),
        (FULL | {"temperature": 0.6}, "float32"),
        ({"top": 20}, "not told by differences"),
    ],
)
def test_size_through_rounding(
    switches: dict[str, object], precision: str, served: Callable[..., Stub]
) -> None:
    found = measure_size(connect(served(**switches)))
    assert found.precision == precision
    assert found.hidden_size == 24


@pytest.mark.parametrize("trouble", [{"step": 0.1}, {"defence": 0.5}, {"wobble": 0.3}])
def test_size_says_that_it_cannot_tell(
    trouble: dict[str, object], served: Callable[..., Stub]
) -> None:
    found = measure_size(connect(served(**FULL, **trouble)))
    assert found.hidden_size is None
    assert found.why
    assert list(found.to_json()) == [
        "hidden_size", "low", "high", "norm", "precision", "requests", "why",
    ]  # fmt: skip


def test_size_stops_at_the_budget(served: Callable[..., Stub]) -> None:
    with pytest.raises(BudgetError, match="--budget"):
        measure_size(connect(served(top=5), budget=200))


def test_precision_of_a_hidden_shift() -> None:
    logits = torch.from_numpy(np.random.default_rng(0).normal(0, 4, (8, 200)))
    for name in ("bfloat16", "float16"):
        rounded = logits.to(getattr(torch, name)).float()
        served = torch.log_softmax(rounded, 1).double().numpy()
        found = detect_precision(served)
        assert found.name == name
        true = (rounded.double() - logits).std().item()
        assert found.noise == pytest.approx(true, rel=0.1)


def test_gap_is_found_below_one() -> None:
    left, right = np.random.default_rng(0).normal(size=(2, 60, 20))
    values = 1e-3 * left @ right.T + 1e-9 * np.random.default_rng(1).normal(size=(60, 60))
    assert find_gap(values).rank == 20


def test_argmax_bounds_always_hold_the_truth() -> None:
    truth = np.random.default_rng(3).normal(0, 3, 12)
    for method in ("one-of-n", "hyperrectangle", "bisection"):
        known = Differences(12, 40.0)
        bias, asked = np.zeros(12), 0
        while bias is not None:
            known.learn(int(np.argmax(truth + bias)), bias)
            assert (known.low <= truth - truth[known.reference] + 1e-9).all()
            assert (known.high >= truth - truth[known.reference] - 1e-9).all()
            bias, asked = next_bias(known, 0.01, method), asked + 1
            assert asked < 400
        assert known.width.max() <= 0.01


def test_argmax_contradictions_are_noticed(served: Callable[..., Stub]) -> None:
    endpoint = connect(served(top=0, wobble=0.5))
    with pytest.raises(EndpointError, match=r"contradict|changed their meaning"):
        endpoint.outputs(make_prompts(4), endpoint.choose_ids(24))


@pytest.mark.parametrize("kind", ["llama", "gemma", "olmo", "neox", "gpt2", "phi"])
def test_head_read_from_weights_spans_the_models_outputs(
    kind: str, models: Callable[..., Path]
) -> None:
    source, head = LocalModel(str(models(kind))), read_head(str(models(kind)))
    other = read_head(str(models(kind, 1)))
    assert head.norm == KINDS[kind][3]
    values, ids = collect_outputs(source, 1, 200)
    own, strange = (match_outputs(values, ids, 1e-6, h) for h in (head, other))
    assert own.verdict == "same head"
    assert own.residual < 1e-5
    assert strange.verdict == "other model"
    assert strange.residual > 0.6


def test_head_of_an_unknown_layout(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    save_file({"strange": torch.ones(2, 2)}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(UnsupportedModelError, match="lm_head"):
        read_head(str(tmp_path))


def changed_head(head: SimpleNamespace, change: np.ndarray) -> SimpleNamespace:
    """The same model with something added to its head."""
    from dataclasses import replace

    return replace(head, weight=head.weight + change * head.weight.std())


def test_match_grades_what_happened_to_a_head(models: Callable[..., Path], tmp_path: Path) -> None:
    path = str(models("qwen2"))
    signature = make_signature(LocalModel(path))
    signature.save(tmp_path / "a.sig")
    signature = load_signature(tmp_path / "a.sig")
    head, random = read_head(path), np.random.default_rng(0)
    assert match_signature(signature, head).verdict == "same head"
    lora = random.normal(size=(V, 4)) @ random.normal(size=(4, 32)) * 0.3
    found = match_signature(signature, changed_head(head, lora))
    assert found.verdict == "same head, LoRA of rank about 4"
    tuned = match_signature(
        signature, changed_head(head, random.normal(size=head.weight.shape) / 50)
    )
    assert tuned.verdict == "fine-tuned head"
    assert 0.005 < tuned.residual < 0.1
    stranger = match_signature(signature, read_head(str(models("qwen2", 1))))
    assert stranger.verdict == "other model"
    assert found.overlap > tuned.overlap - 0.2 > stranger.overlap


def test_match_needs_enough_tokens_and_no_softcap(models: Callable[..., Path]) -> None:
    from dataclasses import replace

    head = read_head(str(models("llama")))
    few = match_outputs(np.zeros((1, 30)), np.arange(30), 1e-6, head)
    assert (few.residual, few.verdict) == (None, "cannot tell")
    capped = match_outputs(np.zeros((1, 99)), np.arange(99), 1e-6, replace(head, softcap=True))
    assert capped.verdict == "cannot tell"
    assert "soft cap" in capped.why


@pytest.mark.parametrize("kind", ["llama", "neox"])
def test_extraction_is_the_head_up_to_an_invertible_map(
    kind: str, models: Callable[..., Path]
) -> None:
    projection = extract_projection(make_signature(LocalModel(str(models(kind)))))
    own = projection_error(projection, read_head(str(models(kind))))
    other = projection_error(projection, read_head(str(models(kind, 1))))
    assert own.relative < 1e-4
    assert other.relative > 0.5


def test_signature_sketches_are_as_alike_as_the_images(models: Callable[..., Path]) -> None:
    first, second = (make_signature(LocalModel(str(models("llama", s)))) for s in (0, 1))
    turned = np.linalg.qr(np.random.default_rng(0).normal(size=(24, 24)))[0].astype(np.float32)
    from dataclasses import replace

    same = replace(first, basis=first.basis @ turned)
    a, b, c = (s.terms(64).numpy().ravel() for s in (first, same, second))
    assert np.corrcoef(a, b)[0, 1] > 0.9999
    assert abs(np.corrcoef(a, c)[0, 1]) < 0.2
    assert abs(float(((a - a.mean()) ** 4).mean() / a.var() ** 2) - 3) < 0.6  # Gaussian


def test_damaged_signatures(tmp_path: Path) -> None:
    path = tmp_path / "x.sig"
    path.write_bytes(b"not a signature")
    with pytest.raises(SignatureError, match=r"x\.sig"):
        load_signature(path)
    path.write_text("{}")
    with pytest.raises(SignatureError, match=r"x\.sig"):
        load_baseline(path)


def test_watch_sees_an_update_and_not_noise(served: Callable[..., Stub], tmp_path: Path) -> None:
    prompts = make_prompts(6, "watch")

    def visit(seed: int) -> list[list[dict[str, float]]]:
        stub = served("llama", seed, top=5, wobble=0.02)
        stub._noise = np.random.default_rng(visits.pop())
        return connect(stub).visit(prompts, 6)

    visits = list(range(30))
    before = visit(0)
    Baseline("stub", before).save(tmp_path / "b.json")
    before = load_baseline(tmp_path / "b.json").answers
    quiet = [compare_visits(before, visit(0)).p for _ in range(8)]
    assert sum(p < 0.01 for p in quiet) <= 1
    assert compare_visits(before, visit(1)).changed
    with pytest.raises(SignatureError, match="same prompts"):
        compare_visits(before, visit(0)[:2])


def test_answers_are_kept_and_asked_only_once(served: Callable[..., Stub], tmp_path: Path) -> None:
    stub = served(top=5)
    path = tmp_path / "answers.sqlite"
    endpoint = connect(stub, budget=110, store=AnswerStore(path))
    ids = endpoint.choose_ids(24)
    with pytest.raises(BudgetError, match=r"answers\.sqlite"):
        endpoint.outputs(make_prompts(40), ids)
    assert endpoint.requests == 110
    again = connect(stub, store=AnswerStore(path))
    assert again.requests <= 1  # the list of models, which is not an answer
    first = again.outputs(make_prompts(40), again.choose_ids(24))
    total = stub.requests
    third = connect(stub, store=AnswerStore(path))
    second = third.outputs(make_prompts(40), third.choose_ids(24))
    assert np.array_equal(first, second)
    assert stub.requests - total <= 3  # the models, and two names checked anew


@pytest.mark.parametrize(
    ("switches", "error", "words"),
    [
        ({"key": "secret"}, AccessError, "key"),
        ({"failures": [500] * 50}, NetworkError, "status 500"),
        ({"nan": True}, EndpointError, "nan"),
        ({"dialects": ()}, EndpointError, "neither"),
    ],
)
def test_endpoints_that_cannot_be_used(
    switches: dict[str, object],
    error: type[Exception],
    words: str,
    served: Callable[..., Stub],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with pytest.raises(error, match=words):
        connect(served(**switches))


def test_no_way_to_the_logits(served: Callable[..., Stub]) -> None:
    endpoint = connect(served(top=5, bias="ignored"))
    assert endpoint.can.collector == "none"
    with pytest.raises(EndpointError, match="not enough"):
        measure_size(endpoint)
    assert connect(served(top=0, bias="refused")).can.collector == "none"


def test_truncated_vocabulary_is_noticed(served: Callable[..., Stub]) -> None:
    stub = served(**FULL)
    endpoint = connect(stub)
    stub._cache.clear()
    stub.switches.truncate = 100
    with pytest.raises(EndpointError, match="truncated"):
        endpoint.outputs(make_prompts(3), endpoint.choose_ids(200))


def test_ids_that_change_their_meaning_are_noticed(served: Callable[..., Stub]) -> None:
    stub = served(top=5)
    endpoint = connect(stub)
    ids = endpoint.choose_ids(24)
    stub.switches.swap_after = stub.requests
    with pytest.raises(EndpointError, match=r"missing|another model"):
        endpoint.outputs(make_prompts(3), ids)


def test_texts_of_two_ids_alike_are_left_out(served: Callable[..., Stub]) -> None:
    endpoint = connect(served(top=0, spell=lambda i: "" if i % 7 == 0 else f"t{i // 2}"))
    ids = endpoint.choose_ids(20)
    assert all(i % 7 for i in ids)
    assert len({i // 2 for i in ids}) == len(ids) == 20


def test_failures_are_retried_and_counted(served: Callable[..., Stub]) -> None:
    stub = served(**FULL, failures=[429, 0, 503])
    endpoint = connect(stub)
    assert endpoint.requests == stub.requests >= 6


def test_ids_come_in_an_order_that_a_longer_vocabulary_keeps() -> None:
    short, long = order_ids(4000), order_ids(4200)
    assert sorted(short) == list(range(4000))
    assert [i for i in long if i < 4000] == list(short)


@pytest.fixture
def endpoint_url(served: Callable[..., Stub]) -> Iterator[Callable[..., str]]:
    """Base URLs of stubs behind real sockets."""
    running = []

    def start(kind: str = "llama", seed: int = 0, **switches: object) -> str:
        server = LoopbackEndpoint(served(kind, seed, **switches))
        running.append(server)
        return server.__enter__().url

    yield start
    for server in running:
        server.__exit__()


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("huref.blackbox.client.LONGEST_WAIT", 0.001)


def invoke(*arguments: str) -> SimpleNamespace:
    """Run the command line; stdin is not a terminal."""
    from click.testing import CliRunner

    from huref.cli import main

    result = CliRunner().invoke(main, ["probe", *arguments])
    return SimpleNamespace(code=result.exit_code, out=result.stdout, err=result.stderr)


def test_probe_commands_over_a_socket(
    endpoint_url: Callable[..., str], models: Callable[..., Path], tmp_path: Path
) -> None:
    url, own, other = endpoint_url(**FULL), str(models("llama")), str(models("llama", 1))
    size = json.loads(invoke("size", url, "--yes", "--json").out)
    assert size["hidden_size"] == 24
    assert size["requests"] > 64
    found = json.loads(invoke("match", url, own, other, "--yes", "--json", "--outputs", "1").out)
    assert [c["verdict"] for c in found["candidates"]] == ["same head", "other model"]
    assert list(found["candidates"][0]) == ["model", "residual", "verdict", "why"]
    sig = str(tmp_path / "s.sig")
    assert json.loads(invoke("signature", url, "-o", sig, "--yes", "--json").out)["rank"] == 24
    found = json.loads(invoke("match", sig, own, other, "--json").out)
    assert [c["verdict"] for c in found["candidates"]] == ["same head", "other model"]
    assert found["requests"] == 0
    out = str(tmp_path / "w.safetensors")
    result = json.loads(invoke("extract", sig, own, "-o", out, "--json").out)
    assert result["errors"][own]["relative"] < 1e-4
    baseline = str(tmp_path / "b.json")
    first = json.loads(invoke("watch", url, "--baseline", baseline, "--yes", "--json").out)
    assert first["changed"] is None
    again = json.loads(invoke("watch", url, sig, "--baseline", baseline, "--yes", "--json").out)
    assert again["changed"] is False
    updated = endpoint_url("llama", 1, **FULL)
    last = json.loads(invoke("watch", updated, sig, "--baseline", baseline, "--yes", "--json").out)
    assert last["changed"] is True
    assert last["image_residual"] > 0.5


def test_nothing_is_sent_before_somebody_agrees(endpoint_url: Callable[..., str]) -> None:
    url = endpoint_url()
    result = invoke("size", url, "--budget", "500")
    assert result.code == 1
    assert "500 requests" in result.err
    assert "--yes" in result.err


def test_an_endpoint_that_is_down() -> None:
    result = invoke("size", "http://127.0.0.1:9/v1", "--yes")
    assert result.code == 1
    assert result.err.strip().splitlines()[-1].startswith("huref: http://127.0.0.1:9/v1")
    assert "Traceback" not in result.err
