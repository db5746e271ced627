"""Training is reproducible, can be resumed, and refuses configs that it cannot use."""

from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

from huref.encoder import load_encoder
from huref.encoder.batches import Batch, FamilyPool
from huref.encoder.train import train
from huref.errors import RecipeError

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


def write_config(folder: Path, **changes: object) -> Path:
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump(TINY | changes))
    return path


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


def test_memory_sets_how_many_earlier_batches_give_unrelated_latents(tmp_path: Path) -> None:
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
