"""Hidden sizes, final norms and logits that `huref probe` recovers, and the requests it takes."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from huref.blackbox.collect import Settings
from huref.blackbox.extract import extract_projection, projection_error
from huref.blackbox.heads import read_head
from huref.blackbox.prompts import make_prompts
from huref.blackbox.signature import make_signature
from huref.blackbox.size import clr, measure_size
from scripts.evaluate.blackbox.served import WAYS, Served

PRECISIONS: dict[str, dict[str, Any]] = {
    "float32": {},
    "step 1e-4": {"step": 1e-4},
    "step 1e-3": {"step": 1e-3},
    "step 1e-2": {"step": 1e-2},
    "float16": {"precision": "float16"},
    "bfloat16": {"precision": "bfloat16"},
}

# All ways return the same values; the expensive ones are measured at few precisions.
MEASURED = {"full": ("float32", "bfloat16"), "top 5": ("float32", "step 1e-3")}


def evaluate_size(folders: list[Path]) -> Iterator[dict[str, Any]]:
    """Yield hidden size, norm and error of the projection, by way of collecting and precision."""
    for folder in folders:
        served = Served(folder)
        head = read_head(str(folder))
        truth = head.weight.shape[1]
        for way, switches in WAYS.items():
            for precision, changes in PRECISIONS.items():
                if precision not in MEASURED.get(way, PRECISIONS):
                    continue
                endpoint = served.endpoint(**switches, **changes)
                size = measure_size(endpoint)
                figures = {
                    "model": folder.name,
                    "truth": truth,
                    "norm": head.norm,
                    "way": way,
                    "precision": precision,
                } | {f"found {key}": value for key, value in size.to_json().items()}
                if way == "chosen":
                    signature = make_signature(endpoint, truth)
                    error = projection_error(extract_projection(signature), head)
                    figures |= {"rms": error.rms, "relative": error.relative}
                yield figures


def evaluate_queries(folders: list[Path], tokens: int, prompts: int) -> Iterator[dict[str, Any]]:
    """Yield requests per logit and error of every collector (published: 0.25, 1.0, 3.7, 10)."""
    ways: list[tuple[str, dict[str, Any], Settings]] = [
        ("reference token, top 5", {"top": 5}, Settings()),
        ("pairs, top 1", {"top": 1}, Settings()),
        *(
            (f"{method} to {precision:g}", {"top": 0}, Settings(method, precision))
            for method in ("one-of-n", "hyperrectangle", "bisection")
            for precision in (1e-2, 1e-3)
        ),
    ]
    for folder in folders:
        served = Served(folder)
        for name, switches, settings in ways:
            endpoint = served.endpoint(settings, **switches)
            ids, texts = endpoint.choose_ids(tokens), make_prompts(prompts)
            before = endpoint.requests
            found = clr(endpoint.outputs(texts, ids))
            truth = clr(np.array([served.logits(prompt)[ids] for prompt in texts]))
            span = float(np.ptp(truth, axis=1).mean())
            rms = float(np.sqrt(np.square(found - truth).mean()))
            yield {
                "model": folder.name,
                "collector": name,
                "requests per logit": (endpoint.requests - before) / (prompts * (tokens - 1)),
                "rms": rms,
                "bits": float(np.log2(span / rms)),
                "range": span,
            }
