"""The encoder that ships: what it maps terms to, and how its file is checked."""

import json
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import save_file
from torch.utils.flop_counter import FlopCounterMode

from huref.encoder import Encoder, load_encoder
from huref.encoder.synthetic import Family, ics
from huref.errors import CheckpointDigestError, HurefError
from huref.invariants.terms import standardise
from tests.support.zoo import ROOT

SHIPPED = ROOT / "checkpoints" / "encoder.safetensors"


def test_latents_are_float32_of_the_right_shape(encoder: Encoder, bases: torch.Tensor) -> None:
    several = encoder.encode(bases[:4].view(2, 2, 2, 3, 512, 512).double())
    assert several.dtype == torch.float32
    assert several.shape == (2, 2, 512)
    one = encoder.encode(bases[3])
    assert one.shape == (512,)
    torch.testing.assert_close(one, several[1, 1], rtol=1e-4, atol=1e-4)
    with pytest.raises(ValueError, match="shape"):
        encoder.encode(bases[:, 0])


def test_a_latent_takes_less_than_a_second(encoder: Encoder, bases: torch.Tensor) -> None:
    """Measured in operations, which do not depend on the machine; two cores do 20 GFLOP/s."""
    with FlopCounterMode(display=False) as counter:
        encoder.encode(bases[0])
    assert 0 < counter.get_total_flops() < 2e9


def test_the_scale_of_a_term_does_not_matter(encoder: Encoder, bases: torch.Tensor) -> None:
    scale = torch.tensor([1e-6, 1.0, 3.0, 1e4, 0.2, 7.0]).view(2, 3, 1, 1)
    latents = encoder.encode(torch.stack([bases[0], bases[0] * scale]))
    torch.testing.assert_close(latents[0], latents[1], rtol=1e-3, atol=1e-3)


def test_empty_terms_and_rows_give_finite_latents(encoder: Encoder, bases: torch.Tensor) -> None:
    terms = bases[0].clone()
    terms[..., :300, :] = 0
    terms[..., :300] = 0
    terms[1] = 0
    assert encoder.encode(terms).isfinite().all()
    assert encoder.encode(torch.zeros_like(terms)).isfinite().all()


@pytest.mark.slow
def test_the_shipped_encoder_keeps_the_correlation(
    encoder: Encoder, families: list[Family], bases: torch.Tensor
) -> None:
    base = encoder.encode(bases)
    for rho in (0.4, 0.9):
        relatives = torch.stack([family.relative(rho) for family in families])
        cosines = torch.cosine_similarity(base, encoder.encode(relatives))
        expected = ics(bases, relatives).mean()
        assert float(cosines.mean()) == pytest.approx(float(expected), abs=0.05)


def test_unrelated_latents_are_as_far_apart_as_random_vectors(
    encoder: Encoder, bases: torch.Tensor
) -> None:
    latents = encoder.encode(bases)
    unit = latents / latents.norm(dim=1, keepdim=True)
    cosines = (unit @ unit.T)[~torch.eye(len(unit), dtype=torch.bool)]
    assert float(cosines.abs().max()) < 0.2
    assert 0.02 < float(cosines.abs().mean()) < 0.05
    assert float(latents.std()) == pytest.approx(1.0, abs=0.05)


def test_a_moved_block_is_recognised(
    encoder: Encoder, families: list[Family], bases: torch.Tensor
) -> None:
    latents = encoder.encode(torch.stack([bases[0], families[0].accident("moved")]))
    assert float(torch.cosine_similarity(latents[0], latents[1], dim=0)) > 0.35
    assert float((standardise(bases[0]) * standardise(families[0].accident("moved"))).mean()) < 0.1


def test_the_checkpoint_says_how_it_was_made(encoder: Encoder) -> None:
    made = encoder.metadata
    config = yaml.safe_load((ROOT / "configs" / "encoder.yaml").read_text())
    assert made["config"]["architecture"] == config["architecture"]
    assert made["steps"] == made["config"]["steps"] == config["steps"]
    assert made["seed"] == config["seed"]
    assert made["command"] == "huref train-encoder --config configs/encoder.yaml"
    assert made["digest"] == encoder.digest
    assert SHIPPED.stat().st_size < 20e6


def test_a_file_that_is_no_encoder_is_refused(tmp_path: Path) -> None:
    garbage = tmp_path / "garbage.safetensors"
    garbage.write_bytes(b"\x10\x00\x00\x00\x00\x00\x00\x00not json at all!")
    foreign = tmp_path / "foreign.safetensors"
    save_file({"x": torch.zeros(1)}, foreign)
    short = tmp_path / "short.safetensors"
    short.write_bytes(SHIPPED.read_bytes()[:100_000])
    for path in (garbage, foreign, short, tmp_path / "nowhere.safetensors"):
        with pytest.raises(HurefError, match=path.name):
            load_encoder(path)


def test_an_altered_encoder_is_refused(tmp_path: Path) -> None:
    raw = SHIPPED.read_bytes()
    size = int.from_bytes(raw[:8], "little")
    assert json.loads(raw[8 : 8 + size])["__metadata__"]["encoder"]
    altered = tmp_path / "altered.safetensors"
    altered.write_bytes(raw[:-10] + bytes([raw[-10] ^ 1]) + raw[-9:])
    with pytest.raises(CheckpointDigestError, match="altered"):
        load_encoder(altered)
