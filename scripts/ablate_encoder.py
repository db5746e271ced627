"""Trains the encoder with one part of its loss off at a time, on the same families.

    python scripts/ablate_encoder.py --out /tmp/ablation --minutes 7

Each variant is trained on a short schedule and written as <name>.safetensors; those that exist
are skipped, so the command can be repeated until all are there. `evaluate_encoder.py --ablation`
measures them.
"""

import argparse
import time
from dataclasses import replace
from pathlib import Path

import torch
from tqdm import tqdm

from huref.encoder.batches import FamilyPool
from huref.encoder.checkpoint import save_encoder
from huref.encoder.config import Loss, TrainingConfig, read_config
from huref.encoder.trainer import Trainer


def variants(loss: Loss) -> dict[str, Loss]:
    """The losses to compare: whole, and each part off."""
    return {
        "whole": loss,
        "no contrastive": replace(loss, graded=0.0),
        "no adversarial": replace(loss, adversarial=0.0),
        "no decorrelation": replace(loss, strangers=0.0),
        "no robust": replace(loss, robust=0.0),
    }


def train_variant(config: TrainingConfig, pool: FamilyPool, path: Path) -> None:
    """All steps of one variant, and its file."""
    trainer = Trainer(config, "cpu")
    for step in tqdm(range(config.steps), desc=path.stem, disable=None):
        trainer.advance(pool.draw(step))
    record = {"config": config.values, "seed": config.seed, "steps": config.steps}
    save_encoder(trainer.network, path, record)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", type=Path, default=Path("configs/encoder.yaml"))
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--pool", type=int, default=36, help="families drawn once")
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--minutes", type=float, default=float("inf"))
    options = parser.parse_args()
    deadline = time.monotonic() + 60 * options.minutes
    config = read_config(options.config)
    torch.set_num_threads(config.threads)
    data = replace(config.data, pool=options.pool, families=min(4, config.data.families))
    config = replace(config, data=data, steps=options.steps)
    wanted = {
        name: loss
        for name, loss in variants(config.loss).items()
        if not (options.out / f"{name}.safetensors").exists()
    }
    if not wanted:
        return
    pool = FamilyPool(config, "cpu")
    for name, loss in wanted.items():
        if time.monotonic() < deadline:
            train_variant(replace(config, loss=loss), pool, options.out / f"{name}.safetensors")


if __name__ == "__main__":
    main()
