"""Signatures, matches, extraction and detection of updates, compared with known weights."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from huref.blackbox.baseline import Baseline, load_baseline
from huref.blackbox.extract import extract_projection, projection_error
from huref.blackbox.heads import Head, read_head
from huref.blackbox.local_model import LocalModel
from huref.blackbox.match import match_outputs, match_signature
from huref.blackbox.permutation import compare_visits
from huref.blackbox.prompts import make_prompts
from huref.blackbox.query import TokenQuery
from huref.blackbox.signature import collect_outputs, load_signature, make_signature
from huref.errors import SignatureError, UnsupportedModelError
from tests.support.endpoint_server import Stub
from tests.support.served_models import KINDS, V, connect


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
    assert own.residual is not None
    assert own.residual < 1e-5
    assert strange.verdict == "other model"
    assert strange.residual is not None
    assert strange.residual > 0.6


def test_head_of_an_unknown_layout(tmp_path: Path) -> None:
    save_file({"strange": torch.ones(2, 2)}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(UnsupportedModelError, match="lm_head"):
        read_head(str(tmp_path))


def changed_head(head: Head, change: np.ndarray) -> Head:
    """The model's head plus a change in units of its standard deviation."""
    return replace(head, weight=head.weight + change * head.weight.std())


def test_match_grades_changes_of_a_head(models: Callable[..., Path], tmp_path: Path) -> None:
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
    assert tuned.residual is not None
    assert 0.005 < tuned.residual < 0.1
    unrelated = match_signature(signature, read_head(str(models("qwen2", 1))))
    assert unrelated.verdict == "other model"
    assert found.overlap is not None
    assert tuned.overlap is not None
    assert unrelated.overlap is not None
    assert found.overlap > tuned.overlap - 0.2 > unrelated.overlap


def test_unrelated_head_is_not_matched_although_it_is_wide() -> None:
    """A head with 400 dimensions fits nearly any outputs over 416 tokens."""
    random = np.random.default_rng(0)
    frequent = random.normal(size=(1000, 1))  # the frequent tokens, which every model learns
    own, strange = (
        Head("m", np.hstack([frequent, random.normal(size=(1000, 399))]), None, "RMSNorm", False)
        for _ in range(2)
    )
    ids = np.arange(416)
    hidden = random.normal(size=(4, 400)) * np.r_[20.0, np.ones(399)]
    outputs = hidden @ own.weight[ids].T
    assert match_outputs(outputs, ids, 1e-7, own).verdict == "same head"
    found = match_outputs(outputs, ids, 1e-7, strange)
    assert found.residual is not None
    assert found.residual < 0.15
    assert found.verdict in ("cannot tell", "other model")


def test_match_needs_enough_tokens_and_no_softcap(models: Callable[..., Path]) -> None:
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


def test_signature_terms_correlate_as_the_images_overlap(models: Callable[..., Path]) -> None:
    first, second = (make_signature(LocalModel(str(models("llama", s)))) for s in (0, 1))
    turned = np.linalg.qr(np.random.default_rng(0).normal(size=(24, 24)))[0].astype(np.float32)
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


def test_watch_detects_an_update_and_ignores_noise(
    served: Callable[..., Stub], tmp_path: Path
) -> None:
    prompts = make_prompts(6, "watch")

    def visit(seed: int) -> list[list[dict[str, float]]]:
        stub = served("llama", seed, top=5, jitter=0.02)
        stub._noise = np.random.default_rng(visits.pop())
        endpoint = connect(stub)
        queries = [TokenQuery(p, 5, greedy=True, repeat=str(i)) for p in prompts for i in range(6)]
        answers = [a.by_text for a in endpoint.ask_all(queries, "visit") if a is not None]
        return [answers[i : i + 6] for i in range(0, 36, 6)]

    visits = list(range(30))
    Baseline("stub", visit(0)).save(tmp_path / "b.json")
    before = load_baseline(tmp_path / "b.json").answers
    quiet = [compare_visits(before, visit(0)).p for _ in range(8)]
    assert sum(p < 0.01 for p in quiet) <= 1
    assert compare_visits(before, visit(1)).changed
    with pytest.raises(SignatureError, match="same prompts"):
        compare_visits(before, visit(0)[:2])
