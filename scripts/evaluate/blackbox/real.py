"""What `huref probe watch` sees on a real server, in each mode that it allows."""

import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from huref.blackbox.answers import AnswerStore
from huref.blackbox.baseline import MODES, Mode
from huref.blackbox.client import Client, Limits
from huref.blackbox.endpoint import Endpoint
from huref.blackbox.watch import revisit
from scripts.evaluate.lineage.statistics import Rate
from tests.support.served_models import round_weights


def write_rounded(before: Path, after: Path, bits: int = 4) -> Iterator[dict[str, Any]]:
    """Write a copy of a model whose linear layers are rounded to so many bits."""
    from transformers import AutoModelForCausalLM

    shutil.copytree(before, after)
    model = AutoModelForCausalLM.from_pretrained(before, dtype=torch.float32)
    round_weights(model, bits)
    for file in after.glob("*.safetensors*"):
        file.unlink()
    model.save_pretrained(after)
    yield {"written": str(after), "bits": bits}


def evaluate_server(
    url: str, folder: Path, change: str, trials: dict[Mode, int]
) -> Iterator[dict[str, Any]]:
    """Yield alarms at a level of 1 % by mode, with requests, tokens and seconds of a visit.

    A mode's first call makes the baseline in `folder`; the server may be another one afterwards.

    Args:
        url: base URL of the server.
        folder: where baselines are kept.
        change: what differs from the baseline, for the report.
        trials: visits by mode; modes that are absent are not measured.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for mode in MODES:
        if not trials.get(mode) or not _allows(_open(url), mode):
            continue
        path = folder / f"{mode}.json"
        if not path.exists():
            start = time.monotonic()
            made = revisit(_open(url), path, mode=mode)
            names = ("requests", "tokens", "power", "detectable", "findings", "why")
            yield {"mode": mode, "baseline": path.exists(), "seconds": time.monotonic() - start} | {
                name: made[name] for name in names
            }
            if not path.exists():
                continue
        alarms, unknown, findings = 0, 0, set[str]()
        spent: list[tuple[int, int, float]] = []
        for _ in range(trials[mode]):
            endpoint, start = _open(url), time.monotonic()
            before = endpoint.requests, endpoint.client.tokens
            found = revisit(endpoint, path)
            alarms += found["changed"] is True
            unknown += found["changed"] is None
            findings |= set(found["findings"])
            spent.append(
                (
                    found["requests"] - before[0],
                    found["tokens"] - before[1],
                    time.monotonic() - start,
                )
            )
        means = [round(sum(column) / len(spent), 1) for column in zip(*spent, strict=True)]
        yield {
            "mode": mode,
            "change": change,
            "visits": trials[mode],
            "alarms": alarms,
            "cannot tell": unknown,
            "interval": Rate(alarms, trials[mode]).interval,
            "requests, tokens, seconds": means,
            "findings": sorted(findings)[:4],
        }


def _open(url: str) -> Endpoint:
    return Endpoint(Client(url, None, Limits(1_000_000, concurrency=4), AnswerStore()))


def _allows(endpoint: Endpoint, mode: Mode) -> bool:
    found = endpoint.capabilities
    return {"logprobs": bool(found.top), "scores": found.prompt_scores is not None}.get(mode, True)
