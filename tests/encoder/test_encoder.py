"""The encoder: its synthetic data, its training and the checkpoint that ships."""

import json
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from torch.utils.flop_counter import FlopCounterMode

from huref.encoder import Encoder, load_encoder
from huref.encoder.batches import Batch, FamilyPool
from huref.encoder.embeddings import EmbeddingPool
from huref.encoder.network import FingerprintCNN, PaperCNN, Temper
from huref.encoder.synthetic import ACCIDENTS, Family, ics
from huref.encoder.train import train
from huref.errors import CheckpointDigestError, HurefError, RecipeError
from huref.invariants.terms import standardise
from tests.support.zoo import ROOT

SHIPPED = ROOT / "checkpoints" / "encoder.safetensors"
TINY = {
    "architecture": {"kind": "fingerprint", "anchors": 32, "channels": [8], "kernels": [8, 4]},
    "data": {
        "pool": 2,
        "widths": [16, 32],
        "families": 2,
        "accidents": ["anchors", "moved"],
    },
    "loss": {"robust": 0.1, "moments": 0.02, "adversarial": 0.01},
    "steps": 6,
    "rate": 1e-4,
    "scalar_rate": 1e-2,
    "save_every": 2,
}


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return load_encoder(SHIPPED)


@pytest.fixture(scope="module")
def families() -> list[Family]:
    generator = torch.Generator().manual_seed(77)
    pool = EmbeddingPool(2, 512, [96, 384], seed=77)
    return [Family(pool, generator) for _ in range(6)]


@pytest.fixture(scope="module")
def bases(families: list[Family]) -> torch.Tensor:
    return torch.stack([family.base() for family in families])


def write_config(folder: Path, **changes: object) -> Path:
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump(TINY | changes))
    return path


def test_equal_seeds_give_equal_models_and_other_seeds_do_not() -> None:
    pool = EmbeddingPool(2, 64, [32], seed=1)
    first, again, other = (
        Family(pool, torch.Generator().manual_seed(seed)).base() for seed in (5, 5, 6)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize(
    ("rho", "low"), [(0.0, -0.03), (0.3, 0.2), (0.6, 0.45), (0.9, 0.8), (1, 1)]
)
def test_relatives_correlate_as_asked_less_what_flattening_takes(
    rho: float, low: float, families: list[Family], bases: torch.Tensor
) -> None:
    for family, base in zip(families[:2], bases, strict=False):
        assert low - 1e-6 <= float(ics(base, family.relative(rho))) <= rho + 0.03


def test_accidents_do_what_they_say(families: list[Family], bases: torch.Tensor) -> None:
    seen = {kind: families[0].accident(kind) for kind in ACCIDENTS}
    correlation = {kind: float(ics(bases[0], terms)) for kind, terms in seen.items()}
    assert correlation["fp16"] > 0.999
    assert 0.7 < correlation["int4"] < 0.999
    assert correlation["missing"] == pytest.approx(0.5, abs=0.001)
    assert correlation["moved"] == pytest.approx(0.0, abs=0.05)
    torch.testing.assert_close(seen["moved"][1], bases[0][0])
    assert 0.1 < correlation["anchors"] < 0.9


def test_training_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    config = write_config(tmp_path)
    first, second = (
        train(config, device="cpu", out=tmp_path / name / "e.safetensors") for name in "ab"
    )
    assert first.read_bytes() == second.read_bytes()
    assert load_encoder(first).digest == load_encoder(second).digest


@pytest.mark.parametrize("interrupted_at", [1, 2, 5])  # every second step is saved
def test_a_resumed_run_ends_where_an_uninterrupted_one_does(
    interrupted_at: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loss = {"robust": 0.1, "moments": 0.02, "adversarial": 0.01, "memory": 2}
    config = write_config(tmp_path, loss=loss)
    whole = train(config, device="cpu", out=tmp_path / "whole.safetensors")
    broken = tmp_path / "broken.safetensors"
    with monkeypatch.context() as patch:
        draw = FamilyPool.draw

        def interrupted(pool: FamilyPool, step: int) -> Batch:
            if step == interrupted_at:
                raise KeyboardInterrupt
            return draw(pool, step)

        patch.setattr(FamilyPool, "draw", interrupted)
        with pytest.raises(KeyboardInterrupt):
            train(config, device="cpu", out=broken)
    assert not broken.exists()
    assert broken.with_suffix(".state.pt").exists() == (interrupted_at >= 2)
    train(config, resume=True, device="cpu", out=broken)
    for name, tensor in load_file(whole).items():
        assert torch.equal(tensor, load_file(broken)[name]), name
    assert whole.with_suffix(".csv").read_text() == broken.with_suffix(".csv").read_text()
    assert not broken.with_suffix(".state.pt").exists()


def test_strangers_are_taken_across_batches_as_far_back_as_memory_goes(tmp_path: Path) -> None:
    kept = {}
    for memory in (0, 1, 5):
        loss = {"graded": 0.0, "strangers": 1.0, "memory": memory}
        config = write_config(tmp_path, loss=loss)
        path = train(config, device="cpu", out=tmp_path / f"{memory}.safetensors", steps=3)
        rows = path.with_suffix(".csv").read_text().splitlines()[1:]
        kept[memory] = [float(row.split(",")[1]) for row in rows]
    assert kept[0][0] == kept[1][0] == kept[5][0]  # nothing to remember yet
    assert kept[0][1] != kept[1][1] == kept[5][1]
    assert kept[1][2] != kept[5][2]


def test_the_published_network_and_loss_can_be_trained(tmp_path: Path) -> None:
    config = write_config(
        tmp_path,
        architecture={"kind": "paper", "anchors": 256, "channels": [2, 2, 2]},
        data={"pool": 1, "widths": [32], "families": 2, "rho": [0.85, 0.85]},
        loss={"paper": [1.3, 0.7], "adversarial": 0.5},
        steps=2,
    )
    encoder = load_encoder(train(config, device="cpu", out=tmp_path / "paper.safetensors"))
    latent = encoder.encode(torch.randn(2, 3, 256, 256))
    assert latent.shape == (512,)
    assert float(latent.mean()) == pytest.approx(0.0, abs=1e-3)
    assert float(latent.square().mean()) == pytest.approx(1.0, abs=1e-3)


def test_what_is_left_out_of_the_published_kernels_meets_only_padding() -> None:
    network = PaperCNN(256, (2, 2, 2))
    x = torch.randn(2, 6, 256, 256, generator=torch.Generator().manual_seed(4))
    sizes = []
    for layer in network.layers:
        if isinstance(layer, torch.nn.Conv2d):
            sizes.append(layer.kernel_size[0])
            whole = torch.nn.Conv2d(layer.in_channels, layer.out_channels, 48, 4, padding=22)
            edge = (48 - sizes[-1]) // 2
            weight = whole.weight.detach()
            weight[..., edge : 48 - edge, edge : 48 - edge] = layer.weight.detach()
            assert layer.bias is not None
            whole.bias = layer.bias
            torch.testing.assert_close(layer(x), whole(x), rtol=1e-4, atol=1e-5)
        x = layer(x)
    assert sizes == [48, 48, 28, 4]
    assert x.shape[-1] == 1


def test_resuming_under_another_config_is_refused(tmp_path: Path) -> None:
    out = tmp_path / "e.safetensors"
    train(write_config(tmp_path), device="cpu", out=out, minutes=0)
    with pytest.raises(RecipeError, match="another config"):
        train(write_config(tmp_path, seed=9), resume=True, device="cpu", out=out)
    out.with_suffix(".state.pt").write_bytes(b"no state")
    with pytest.raises(RecipeError, match="cannot be resumed"):
        train(write_config(tmp_path), resume=True, device="cpu", out=out)


@pytest.mark.parametrize(
    "changes",
    [
        {"architecture": {"kind": "transformer"}},
        {
            "architecture": {
                "kind": "fingerprint",
                "anchors": 64,
                "kernels": [8, 4],
                "channels": [8],
            }
        },
        {"architecture": {"kind": "fingerprint", "depth": 3}},
        {"momentum": 0.9},
        {"data": {"colour": "brown"}},
    ],
)
def test_a_config_that_cannot_be_used_is_refused(
    tmp_path: Path, changes: dict[str, object]
) -> None:
    with pytest.raises(RecipeError, match="config"):
        train(write_config(tmp_path, **changes), device="cpu", out=tmp_path / "e.safetensors")
    assert not (tmp_path / "e.safetensors").exists()


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
    """By its work, which does not depend on the machine: two cores do some 20 GFLOP a second."""
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


def test_the_shipped_encoder_keeps_the_correlation(
    encoder: Encoder, families: list[Family], bases: torch.Tensor
) -> None:
    base = encoder.encode(bases)
    for rho in (0.4, 0.9):
        relatives = torch.stack([family.relative(rho) for family in families])
        cosines = torch.cosine_similarity(base, encoder.encode(relatives))
        expected = ics(bases, relatives).mean()
        assert float(cosines.mean()) == pytest.approx(float(expected), abs=0.05)


def test_strangers_are_as_far_apart_as_random_vectors(
    encoder: Encoder, bases: torch.Tensor
) -> None:
    latents = encoder.encode(bases)
    unit = latents / latents.norm(dim=1, keepdim=True)
    cosines = (unit @ unit.T)[~torch.eye(len(unit), dtype=torch.bool)]
    assert float(cosines.abs().max()) < 0.2
    assert 0.02 < float(cosines.abs().mean()) < 0.05
    assert float(latents.std()) == pytest.approx(1.0, abs=0.05)


def test_a_block_that_moved_is_recognised_where_a_projection_sees_a_stranger(
    encoder: Encoder, families: list[Family], bases: torch.Tensor
) -> None:
    latents = encoder.encode(torch.stack([bases[0], families[0].accident("moved")]))
    assert float(torch.cosine_similarity(latents[0], latents[1], dim=0)) > 0.35
    assert float((standardise(bases[0]) * standardise(families[0].accident("moved"))).mean()) < 0.1


def test_a_few_heavy_anchors_do_not_decide() -> None:
    generator = torch.Generator().manual_seed(8)
    scale = torch.ones(64, 1)
    scale[:4] = 10.0
    base, other = (torch.randn(2, 3, 64, 64, generator=generator) * scale for _ in range(2))
    changed = base.clone()
    changed[..., :4, :] = other[..., :4, :]  # four of 64 anchors are other tokens

    def cosine(a: torch.Tensor, b: torch.Tensor) -> float:
        return float(torch.cosine_similarity(a.flatten(), b.flatten(), dim=0))

    temper = Temper()
    with torch.no_grad():
        after = [temper(standardise(t)) for t in (base, changed)]
        assert torch.equal(temper(-standardise(base)), -after[0])  # odd
    torch.testing.assert_close(after[0].square().mean((-2, -1)), torch.ones(2, 3))
    assert cosine(base, changed) < 0.3
    assert cosine(*after) > 0.5


def test_kernels_start_orthonormal_so_that_an_untrained_network_is_an_isometry() -> None:
    network = FingerprintCNN(32, (64,), (8, 4), temper=False, share_blocks=False)
    noise = torch.randn(64, 2, 3, 32, 32, generator=torch.Generator().manual_seed(3))
    latents = network(noise).detach()
    assert latents.shape == (64, 512)
    assert float(latents.square().mean()) == pytest.approx(1.0, abs=0.02)


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
