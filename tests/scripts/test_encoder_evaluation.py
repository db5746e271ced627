"""The statistics of the encoder's evaluation."""

import argparse
import math
from pathlib import Path

import pytest
import torch

from huref.encoder.batches import permute_anchors
from huref.encoder.checkpoint import save_encoder
from huref.encoder.network import PaperCNN
from scripts.evaluate.encoder.codes import (
    Code,
    OrthogonalProjection,
    make_codes,
    mean_pooling,
    reorder_rows,
    row_means,
)
from scripts.evaluate.encoder.figures import gaussianity, kolmogorov, strangers
from scripts.evaluate.encoder.pieces import GRID, encode, encode_mixtures, orders_at
from scripts.evaluate.encoder.run import COUNTS, claim, complete_command
from tests.support.zoo import ROOT

SHIPPED = ROOT / "checkpoints" / "encoder.safetensors"


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_kolmogorov_gives_the_critical_values() -> None:
    # A distance of c / sqrt(n) has p = 0.05 at c = 1.3581 and 0.01 at c = 1.6276.
    n = 100_000
    middle = (torch.arange(n, dtype=torch.float64) + 0.5) / n
    for critical, p in ((1.3581, 0.05), (1.6276, 0.01)):
        shifted = (middle - critical / math.sqrt(n)).clamp(0, 1)[:, None]
        assert float(kolmogorov(shifted)) == pytest.approx(p, rel=0.02)
    assert float(kolmogorov(middle[:, None])) == 1.0


def test_normal_latents_pass_and_other_latents_fail() -> None:
    p_value, norm = "per-dimension KS, smallest p times 512", "KS of the squared norm"
    z = normal(2000, 512)
    good = gaussianity(z)
    assert good[p_value] > 0.05
    assert next(v for k, v in good.items() if k.startswith(norm)) > 0.01
    one_uniform = torch.cat([z[:, :511], torch.rand(2000, 1) - 0.5], dim=1)
    assert gaussianity(one_uniform)[p_value] < 1e-6
    stretched = gaussianity(z * (1 + 0.05 * normal(2000, 1, seed=1)))
    assert next(v for k, v in stretched.items() if k.startswith(norm)) < 1e-3
    tied = torch.cat([z[:, :511], z[:, :1] + 0.5 * z[:, 511:]], dim=1)
    largest = "largest correlation of two dimensions"
    assert good[largest] < 0.15 < gaussianity(tied)[largest]


def test_strangers_has_every_pair_of_different_draws() -> None:
    latents = normal(99, 3, 512)
    twice = torch.cat([latents, latents[:1]])  # the first model twice
    found = strangers(twice, 4000)
    assert found["orders of each"] == 1
    assert found["pairs of different draws"] == 4950
    assert found["largest |cos|"] == pytest.approx(1.0)
    assert found["share with |cos| above 0.2"] == pytest.approx(1 / 4950)
    more = strangers(latents, 15_000)
    assert more["orders of each"] == 2
    assert more["pairs of different draws"] == 198 * 197 / 2 - 99
    assert more["mean |cos| (0.0353 of N(0, I))"] == pytest.approx(0.0353, abs=0.001)


@pytest.mark.parametrize("anchors", [128, 512])
def test_the_projection_has_orthonormal_rows(anchors: int) -> None:
    project = OrthogonalProjection(2, anchors)
    probe = torch.zeros(1, 2, anchors, anchors, requires_grad=True)
    with torch.enable_grad():
        latents = project(probe)[0]
    rows = [torch.autograd.grad(latents[i], probe, retain_graph=True)[0] for i in (0, 1, 4, 511)]
    flat = torch.stack(rows).flatten(1)
    torch.testing.assert_close(flat @ flat.T, torch.eye(4), rtol=0, atol=1e-4)


def test_every_order_of_the_anchors_is_encoded() -> None:
    code = Code(row_means, mean_pooling, orders=(2, 2), reorder=reorder_rows)
    terms = normal(2, 3, 512, 512)
    orders = [torch.arange(512), torch.arange(512).flip(0)]
    latents = encode(code, terms, orders)
    for order, latent in zip(orders, latents, strict=True):
        parts = permute_anchors(terms, order).reshape(512, -1).mean(dim=1)
        standard = (parts - parts.mean()) / parts.std(correction=0)
        torch.testing.assert_close(latent, standard, rtol=1e-3, atol=1e-3)


def test_mixtures_have_the_correlation_and_linear_codes_give_the_same() -> None:
    base, other = normal(2, 3, 512, 512), normal(2, 3, 512, 512, seed=1)
    orders = [torch.arange(512), torch.arange(512).flip(0)]
    planes, project = (lambda terms: terms.flatten(1, 2)), OrthogonalProjection(6)
    quick, slow = (
        encode_mixtures(Code(planes, project, orders=(2, 2), linear=linear), base, other, orders)
        for linear in (True, False)
    )
    assert list(quick) == ["base", *map(str, GRID)]
    for point, latents in quick.items():
        torch.testing.assert_close(latents, slow[point], rtol=1e-3, atol=1e-3)
    assert float(torch.cosine_similarity(quick["base"], quick["0.7"]).mean()) == pytest.approx(
        0.7, abs=0.1
    )


def test_every_baseline_encodes_the_unrelated_models_and_the_exact_inputs(tmp_path: Path) -> None:
    paper = save_encoder(
        PaperCNN(256, (2, 2, 2)),
        tmp_path / "paper.safetensors",
        {"config": {"architecture": {"kind": "paper", "anchors": 256, "channels": [2, 2, 2]}}},
    )
    codes = make_codes(SHIPPED, tmp_path / "paper.safetensors", (9, 5), strangers=4, mixtures=6)
    for name in ("encoder", "projection", "mean pooling", "paper CNN"):
        assert (codes[name].strangers, codes[name].mixtures) == (4, 6), name
    assert [orders_at(point, codes["encoder"]) for point in ("base", "0.5", "moved")] == [9, 9, 5]
    assert [orders_at(point, codes["paper CNN"]) for point in ("base", "0.5", "moved")] == [4, 4, 4]
    terms = normal(1, 2, 3, 512, 512)
    with torch.no_grad():
        direct, alone = codes["paper CNN"](terms), paper.network(terms)
    assert float(torch.cosine_similarity(direct, alone)) > 0.999


def test_the_printed_command_has_every_number() -> None:
    given = argparse.Namespace(paper=Path("p"), **{k.replace("-", "_"): 7 for k in COUNTS})
    command = complete_command(given)
    assert "--paper" in command
    for name in COUNTS:
        assert f"--{name} 7" in command


def test_pieces_of_other_networks_are_refused(tmp_path: Path) -> None:
    claim(tmp_path, {"encoder": "a", "orders": 3})
    claim(tmp_path, {"encoder": "a", "orders": 3})
    with pytest.raises(SystemExit, match="other networks"):
        claim(tmp_path, {"encoder": "a", "orders": 4})
