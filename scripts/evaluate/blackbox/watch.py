"""False alarms and power of `huref probe watch`."""

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from huref.blackbox.local_model import LocalModel
from huref.blackbox.prompts import make_prompts
from huref.blackbox.watch import PROMPTS, REPEATS, compare_visits


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
