"""Trains the encoder with one part of its loss removed or added, and from a neutral start.

    python -m scripts.encoder ablate --work /tmp/ablation --minutes 7

The networks have fewer anchors and channels than the shipped encoder, so that every run can be
finished and every measured family is drawn independently. In "neutral" runs the limits on rows and
entries start at values without effect: any gain over "neutral, untrained" was learned. Files in
the folder `--work` are reused; repeat the command until it writes the table.
"""

import argparse
import time
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from tqdm import tqdm

from huref.encoder.batches import FamilyPool
from huref.encoder.checkpoint import load_encoder, save_encoder
from huref.encoder.config import LossConfig, TrainingConfig, read_config
from huref.encoder.network import FingerprintCNN
from huref.encoder.trainer import Trainer
from scripts import make_parser
from scripts.encoder.ablation import ModelPairs, draw_test, measure, to_table
from scripts.evaluate.encoder.codes import OrthogonalProjection, stacked

MEMORY = 8  # earlier batches whose latents also serve as negatives
# Logarithms: only rows above 4.5 times the mean and entries above 20 are tempered.
NEUTRAL_FLOOR, NEUTRAL_LIMIT = 1.5, 3.0


@dataclass(frozen=True)
class Variant:
    """One run: its loss, whether it starts neutral, and whether it is trained."""

    loss: LossConfig
    neutral: bool = False
    trained: bool = True


def variants(loss: LossConfig) -> dict[str, Variant]:
    """The runs to compare: the whole loss, each part removed, and neutral starts."""
    no_robust = replace(loss, robust=0.0)
    return {
        "whole": Variant(loss),
        "untrained": Variant(loss, trained=False),
        "no contrastive": Variant(replace(loss, graded=0.0)),
        "no adversarial": Variant(replace(loss, adversarial=0.0)),
        "no decorrelation": Variant(replace(loss, strangers=0.0)),
        "no robust": Variant(no_robust),
        "strangers across batches": Variant(replace(loss, memory=MEMORY)),
        "neutral, untrained": Variant(loss, neutral=True, trained=False),
        "neutral, whole": Variant(loss, neutral=True),
        "neutral, no robust": Variant(no_robust, neutral=True),
    }


def reduced(config: TrainingConfig, options: argparse.Namespace) -> TrainingConfig:
    """The config at fewer anchors; the ratio of widths to anchors stays."""
    anchors = int(config.architecture["anchors"])
    architecture = dict(
        config.architecture, anchors=options.anchors, channels=[16, 128], kernels=[8, 4, 4]
    )
    widths = [width * options.anchors // anchors for width in config.data.widths]
    data = replace(config.data, pool=options.pool, embeddings=options.pool // 4, widths=widths)
    return replace(
        config, architecture=architecture, data=data, steps=options.steps, scalar_rate=options.rate
    )


def run_variant(config: TrainingConfig, variant: Variant, pool: FamilyPool, path: Path) -> None:
    """Train one variant and save its encoder to `path`."""
    trainer = Trainer(replace(config, loss=variant.loss), "cpu")
    network = trainer.network
    if variant.neutral:
        if not isinstance(network, FingerprintCNN):
            raise SystemExit("a neutral start needs the architecture of the shipped encoder")
        with torch.no_grad():
            for name, value in (("log_floor", NEUTRAL_FLOOR), ("log_limit", NEUTRAL_LIMIT)):
                network.temper.get_parameter(name).fill_(value)
    steps = config.steps if variant.trained else 0
    for step in tqdm(range(steps), desc=path.stem, disable=None):
        trainer.advance(pool.draw(step))
    save_encoder(network, path, {"config": config.values, "seed": config.seed, "steps": steps})


def load_test(folder: Path, options: argparse.Namespace, widths: list[int]) -> ModelPairs:
    """The test families, drawn on the first call and kept in the folder."""
    path = folder / "test.pt"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        torch.save(draw_test(options.test, options.anchors, widths), path)
    return ModelPairs(**torch.load(path, mmap=True))


def main() -> None:
    """Train the missing variants, then measure all of them and write the table."""
    parser = make_parser(__doc__)
    parser.add_argument("--config", type=Path, default=Path("configs/encoder.yaml"))
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--anchors", type=int, default=128)
    parser.add_argument("--pool", type=int, default=160, help="training families, drawn once")
    parser.add_argument(
        "--test", type=int, default=200, help="test families, different from the training families"
    )
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument(
        "--rate", type=float, default=0.05, help="learning rate of floors, limits and bends"
    )
    parser.add_argument("--minutes", type=float, default=float("inf"))
    parser.add_argument("--out", type=Path, default=Path("docs/measured/encoder-ablation.md"))
    options = parser.parse_args()
    deadline = time.monotonic() + 60 * options.minutes
    config = reduced(read_config(options.config), options)
    torch.set_num_threads(config.threads)
    runs = variants(config.loss)
    paths = {name: options.work / f"{name}.safetensors" for name in runs}
    wanted = [name for name, path in paths.items() if not path.exists()]
    if wanted:
        pool = FamilyPool(config, "cpu")
        for name in wanted:
            if time.monotonic() >= deadline:
                return
            run_variant(config, runs[name], pool, paths[name])
    test = load_test(options.work, options, config.data.widths)
    networks = {name: load_encoder(path).network for name, path in paths.items()}
    projection = OrthogonalProjection(6, options.anchors)
    found = {"projection": measure(lambda terms: projection(stacked(terms)), test)}
    found |= {name: measure(network, test) for name, network in networks.items()}
    tempers = {
        name: [
            round(float(value), 2)
            for value in network.get_parameter("temper.log_floor").detach().flatten()
        ]
        for name, network in networks.items()
    }
    about = (
        f"`python -m scripts.encoder ablate --anchors {options.anchors} --pool {options.pool} "
        f"--test {options.test} --steps {options.steps} --rate {options.rate} --work FOLDER`"
    )
    options.out.write_text(to_table(about, found, tempers, test))
