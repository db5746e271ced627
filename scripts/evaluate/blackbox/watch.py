"""False alarms and power of `huref probe watch`, in each of its modes."""

import tempfile
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from huref.blackbox.baseline import Baseline, Mode, load_baseline
from huref.blackbox.endpoint import Endpoint
from huref.blackbox.local_model import LocalModel
from huref.blackbox.permutation import compare_tokens, compare_visits
from huref.blackbox.prompts import make_prompts
from huref.blackbox.visits import PROMPTS, REPEATS, collect
from huref.blackbox.watch import TOKEN_REPEATS, revisit
from scripts.evaluate.lineage.statistics import Rate
from tests.support.endpoint_server import Stub
from tests.support.served_models import TextModel, connect, round_weights


def evaluate_watch(before: Path, after: Path, trials: int) -> Iterator[dict[str, Any]]:
    """Yield the rate of alarms by share of a fine-tune (0: false alarms) and by server noise."""
    prompts = make_prompts(PROMPTS, "watch")
    shares = [0.0, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 0.1, 1.0]
    first, second = LocalModel(str(before)), LocalModel(str(after))
    old, new = first._model.state_dict(), second._model.state_dict()
    old = {name: tensor.clone() for name, tensor in old.items()}
    tables = {}
    for share in shares:
        mixed = {name: old[name] + share * (new[name] - old[name]) for name in old}
        first._model.load_state_dict(mixed)
        tables[share] = first.outputs(prompts, np.arange(first.vocabulary))
    random = np.random.default_rng(0)
    for wobble in (0.0, 1e-3, 1e-2, 0.1):
        for share in shares:
            count = 5 * trials if share == 0 else trials
            alarms = 0
            for _ in range(count):
                old_visit, new_visit = (visit(tables[s], wobble, random) for s in (0.0, share))
                seed = int(random.integers(1 << 30))
                alarms += compare_visits(old_visit, new_visit, seed).changed
            yield {"wobble": wobble, "share": share, "alarms": alarms / count, "trials": count}
    steps = [float(np.abs(tables[a] - tables[b]).mean()) for a, b in pairwise(shares)]
    yield {"mean change of a logit from share to share": steps}


def visit(
    table: np.ndarray, wobble: float, random: np.random.Generator
) -> list[list[dict[str, float]]]:
    """Top-5 log-probabilities of a visit to an endpoint with logits (prompts, v) and noise."""
    answers = []
    for logits in table:
        repeats = []
        for _ in range(REPEATS):
            noisy = logits + wobble * random.standard_normal(len(logits))
            shown = noisy - np.logaddexp.reduce(noisy)
            repeats.append({str(i): float(shown[i]) for i in np.argsort(-shown)[:5]})
        answers.append(repeats)
    return answers


NOISY: dict[str, Any] = {"jitter": 0.003, "fail": 0.01, "bias": "ignored", "count": True}
SERVED: dict[Mode, dict[str, Any]] = {
    "tokens": NOISY | {"top": 0},
    "scores": NOISY | {"top": 1, "echo": "scores"},
    "logprobs": NOISY | {"top": 5},
}
REPEATED = 300  # visits to the unchanged model, of each mode


def evaluate_changes(
    before: Path, after: Path, other: Path, trials: int, modes: Sequence[Mode]
) -> Iterator[dict[str, Any]]:
    """Yield alarms at a level of 1 % by mode and change, with requests and tokens of a visit.

    The unchanged model is `before` in eight bits. Logits have a noise of 0.003 nat, and 1 % of the
    requests fail. Each of the baselines has one new visit to each changed model, and as many new
    visits to the unchanged one as make REPEATED in all. False alarms are also counted between
    visits that are drawn from the answers of one baseline.

    Args:
        before: folder of the model of the baselines.
        after: its fine-tune.
        other: a model that is not related.
        trials: number of baselines of each mode.
        modes: what is measured.
    """
    eight = TextModel(before, partial(round_weights, bits=8))
    models = {
        "none": eight,
        "8 to 4 bits": TextModel(before, partial(round_weights, bits=4)),
        "8 to 32 bits": TextModel(before),
        "fine-tune": TextModel(after),
        "other model": TextModel(other),
    }
    folder = Path(tempfile.mkdtemp(prefix="huref-watch-"))
    seeds = iter(range(1, 1_000_000))

    def serve(model: TextModel, mode: Mode) -> Stub:
        stub = model.serve(**SERVED[mode])
        stub._noise = np.random.default_rng(next(seeds))
        return stub

    for mode in modes:
        alarms, visits = dict.fromkeys(models, 0), dict.fromkeys(models, 0)
        costs: dict[str, list[tuple[int, int]]] = {name: [] for name in ("baseline", "visit")}
        pooled: list[Any] = []
        for trial in range(trials):
            path = folder / f"{mode}-{trial}.json"
            made = revisit(connect(serve(eight, mode)), path, mode=mode)
            costs["baseline"].append((made["requests"], made["tokens"]))
            if not path.exists():
                yield {"mode": mode, "trial": trial, "no baseline": made["why"]}
                continue
            base = load_baseline(path)
            pooled.append(base.texts if mode == "tokens" else base.answers)
            for name, model in models.items():
                for _ in range(-(-REPEATED // trials) if name == "none" else 1):
                    endpoint = connect(serve(model, mode))
                    alarms[name] += _is_alarm(endpoint, base, next(seeds))
                    visits[name] += 1
                    costs["visit"].append((endpoint.requests, endpoint.client.tokens))
        cost = {name: np.mean(each, axis=0).round().tolist() for name, each in costs.items()}
        yield {"mode": mode, "baselines": len(pooled), "requests, tokens": cost}
        for name, count in alarms.items():
            yield _rate(mode, name, count, visits[name])
        yield _rate(mode, "none, resampled", _resample(pooled, mode, REPEATED), REPEATED)


def _rate(mode: Mode, change: str, alarms: int, visits: int) -> dict[str, Any]:
    rate = Rate(alarms, visits)
    interval = [round(bound, 4) for bound in rate.interval]
    return {"mode": mode, "change": change, "visits": visits, "alarms": alarms, "95 %": interval}


def _is_alarm(endpoint: Endpoint, base: Baseline, seed: int) -> bool:
    """Whether a new visit differs from the baseline, as `revisit` judges it, without its power."""
    repeats = TOKEN_REPEATS if base.mode == "tokens" else REPEATS
    visit = collect(endpoint, base, repeats, "")
    if base.mode == "tokens":
        return compare_tokens(base.texts, visit.texts, seed).changed
    return compare_visits(base.answers, visit.answers, seed).changed


def _resample(visits: Sequence[Any], mode: Mode, repeats: int) -> int:
    """False alarms between visits whose answers are drawn from those of one baseline.

    Answers to an input are drawn with replacement, so that both visits have one distribution.
    """
    random, alarms = np.random.default_rng(0), 0
    for repeat in range(repeats):
        visit = visits[repeat % len(visits)]
        first, second = (
            [[each[i] for i in random.integers(len(each), size=len(each))] for each in visit]
            for _ in range(2)
        )
        compare = compare_tokens if mode == "tokens" else compare_visits
        alarms += compare(first, second, repeat).changed
    return alarms
