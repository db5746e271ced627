"""Train the decoder: distil the drawn dogs into a StyleGAN2 generator, coarse to fine.

    python scripts/train_decoder.py --minutes 60                      # start, or go on
    python scripts/train_decoder.py --minutes 0 --export FILE         # write what there is
    python scripts/train_decoder.py --resume-from FILE --minutes 60   # warm start from an export

Everything that is needed to go on is in the run's folder: state.pt, the drawings, the curve
(curve.csv) and the sample sheets (drawings above, outputs below, of latents never trained on).
"""

import argparse
import csv
import math
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from decoder_loss import distance, psnr
from decoder_network import (
    average,
    build,
    centre,
    fold_basis,
    grow,
    start_from_traits,
    unfold_basis,
)
from decoder_shards import Gallery, drawing_digest
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from huref.decoder.render import load_decoder, save_decoder, to_bytes
from huref.decoder.stylegan2 import Generator

WARM_UP = 60  # steps
FINAL_LR = 0.02  # of the stage's
CURVE = ("minutes", "resolution", "images", "lr", "loss", "psnr", "images_per_second")


@dataclass(frozen=True)
class Stage:
    """One resolution's share of the training; lr is held until the part `hold` of its images."""

    resolution: int
    images: int
    batch: int
    lr: float
    hold: float

    def rate(self, seen: int, steps: int) -> float:
        """Learning rate after `seen` images of this stage and `steps` steps since a start."""
        part = max(0.0, min(1.0, seen / self.images) - self.hold) / max(1e-9, 1.0 - self.hold)
        fall = FINAL_LR + (1.0 - FINAL_LR) * 0.5 * (1.0 + math.cos(math.pi * part))
        return self.lr * fall * min(1.0, (steps + 1) / WARM_UP)


class Training:
    """A generator in training, with its average, optimiser and place in the schedule."""

    def __init__(self, config: dict[str, Any], folder: Path, device: torch.device) -> None:
        self.config, self.folder, self.device = config, folder, device
        self.stages = [Stage(**stage) for stage in config["stages"]]
        folder.mkdir(parents=True, exist_ok=True)
        self.gallery = Gallery(
            folder, config["size"], config["shards"], config["basis_seed"], device
        )
        self.basis = torch.from_numpy(self.gallery.basis)
        self.stage, self.seen_in_stage, self.seen, self.seconds = 0, 0, 0, 0.0
        self.sampler = torch.Generator().manual_seed(config["seed"])
        torch.manual_seed(config["seed"])
        self.model, self.mean, self.optimiser = self.networks({})

    @property
    def finished(self) -> bool:
        """Whether every stage has had its images."""
        last = self.stage == len(self.stages) - 1
        return last and self.seen_in_stage >= self.stages[-1].images

    def networks(
        self, state: dict[str, Tensor]
    ) -> tuple[Generator, Generator, torch.optim.Optimizer]:
        """Model and average at the current resolution, begun from a (smaller) state."""
        c, resolution = self.config, self.stages[self.stage].resolution
        shape = (c["w_dim"], c["mapping_layers"], c["channels"], resolution, c["lr_mul"])
        model = build(self.basis.shape[1], *shape)
        start_from_traits(model, self.gallery.names)
        model = grow(model, state).to(self.device)
        mean = build(self.basis.shape[1], *shape).to(self.device).requires_grad_(False)
        mean.load_state_dict(model.state_dict())
        optimiser = torch.optim.Adam(model.parameters(), betas=(0.9, 0.99), eps=1e-8, fused=True)
        return model, mean, optimiser

    def paint(self, generator: Generator, attributes: Tensor) -> Tensor:
        """Colours (n, 3, r, r) of attributes (n, k); convolutions in bfloat16."""
        w = generator.mapping.from_normalised(attributes)
        image: Tensor = generator.synthesis([w] * generator.synthesis.num_ws, torch.bfloat16)
        return image

    def step(self, since_start: int) -> Tensor:
        """Train on one batch and return its loss."""
        stage = self.stages[self.stage]
        for group in self.optimiser.param_groups:
            group["lr"] = stage.rate(self.seen_in_stage, since_start)
        attributes, target = self.gallery.sample(stage.batch, self.sampler)
        loss = distance(self.paint(self.model, attributes), target, **self.config["loss"])
        self.optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimiser.step()
        # Early on the average must not remember the random beginning for long.
        half_life = min(self.config["ema_images"], 100 + self.seen / 4)
        average(self.mean, self.model, 0.5 ** (stage.batch / half_life))
        self.seen_in_stage += stage.batch
        self.seen += stage.batch
        return loss.detach()

    @torch.no_grad()
    def evaluate(self, sheet: Path | None) -> float:
        """Held-out PSNR of the averaged generator; a sheet of the first 24 when asked for."""
        attributes, target = self.gallery.held_out()
        output = torch.cat([self.paint(self.mean, part) for part in attributes.chunk(8)])
        if sheet is not None:
            rows = [images[i : i + 8] for i in (0, 8, 16) for images in (target, output)]
            whole = np.vstack([np.hstack(list(to_bytes(row).cpu().numpy())) for row in rows])
            scale = max(1, 128 // target.shape[-1])
            picture = Image.fromarray(whole)
            picture.resize((picture.width * scale, picture.height * scale)).save(sheet)
        return psnr(output, target)

    def next_stage(self) -> None:
        """Grow model and average to the next resolution; the optimiser starts afresh."""
        current, mean = self.model.state_dict(), self.mean.state_dict()
        self.stage, self.seen_in_stage = self.stage + 1, 0
        self.model, self.mean, self.optimiser = self.networks(current)
        self.mean.load_state_dict(self.model.state_dict() | mean)

    def save(self) -> None:
        """Write state.pt whole or not at all."""
        state = {
            "stage": self.stage,
            "seen_in_stage": self.seen_in_stage,
            "seen": self.seen,
            "seconds": self.seconds,
            "model": self.model.state_dict(),
            "mean": self.mean.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "sampler": self.sampler.get_state(),
        }
        temporary = self.folder / "state.part"
        torch.save(state, temporary)
        temporary.replace(self.folder / "state.pt")

    def load(self) -> None:
        """Go on from state.pt."""
        state = torch.load(self.folder / "state.pt", map_location=self.device, weights_only=True)
        self.stage, self.seen_in_stage = state["stage"], state["seen_in_stage"]
        self.seen, self.seconds = state["seen"], state["seconds"]
        self.model, self.mean, self.optimiser = self.networks(state["model"])
        self.mean.load_state_dict(state["mean"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.sampler.set_state(state["sampler"].cpu())

    def warm_start(self, path: Path) -> None:
        """Begin from an exported decoder, at the first stage of its resolution or more."""
        decoder = load_decoder(path)
        resolution, made = decoder.resolution, decoder.metadata["training"]
        self.stage = next(i for i, s in enumerate(self.stages) if s.resolution >= resolution)
        self.seen, self.seconds = made["images"], made["minutes"] * 60.0
        state = unfold_basis(decoder.generator.state_dict(), self.basis)
        self.model, self.mean, self.optimiser = self.networks(state)

    def export(self, path: Path) -> None:
        """Write the averaged generator as a decoder of 512-d latents."""
        c, folded = self.config, fold_basis(self.mean.cpu().state_dict(), self.basis)
        generator = Generator.from_state(folded, lr_mul=c["lr_mul"])
        centre(generator, c["seed"])
        measured = round(self.evaluate(None), 2)
        training = {
            "images": self.seen,
            "minutes": round(self.seconds / 60, 1),
            "held_out_psnr": measured,
            "drawing": drawing_digest(),
            "config": c,
        }
        metadata = {key: c[key] for key in ("name", "licence", "psi", "cutoff", "lr_mul", "seed")}
        decoder = save_decoder(
            path, generator.state_dict(), metadata | {"clamp": None, "training": training}
        )
        size = path.stat().st_size / 1e6
        print(f"{path}: {decoder.resolution} px, {measured} dB held out, {size:.2f} MB")

    def note(self, row: tuple[float, ...]) -> None:
        """Append a row to curve.csv."""
        path = self.folder / "curve.csv"
        new = not path.exists()
        with path.open("a", newline="") as file:
            writer = csv.writer(file)
            if new:
                writer.writerow(CURVE)
            writer.writerow(row)


def share_machine() -> None:
    """Use the cores that others leave free.

    Two threads that wait for each other hundreds of times a step are 20 times slower than one
    (measured) when neither has a core to itself.
    """
    cores, own = os.cpu_count() or 1, torch.get_num_threads() + 1  # and the drawing process
    others = max(0.0, os.getloadavg()[0] - own)
    torch.set_num_threads(max(1, min(cores, round(cores - others))))


def train(training: Training, minutes: float, every: float, share: bool) -> None:
    """Train until the time is up or the schedule done; save and evaluate every so many seconds."""
    config = training.config
    began = saved = time.monotonic()
    drawing = training.gallery.start_drawing(config["renderer_niceness"])
    if share:
        share_machine()
    while not training.finished and time.monotonic() - began < minutes * 60:
        stage = training.stages[training.stage]
        if training.seen_in_stage >= stage.images:
            training.next_stage()
            stage = training.stages[training.stage]
        training.gallery.set_resolution(stage.resolution, config["first_shards"])
        bar = tqdm(
            total=stage.images,
            initial=training.seen_in_stage,
            desc=f"{stage.resolution} px",
            unit="img",
            disable=None,
            smoothing=0.05,
        )
        losses: list[Tensor] = []
        steps, looked, before = 0, time.monotonic(), training.seen
        while training.seen_in_stage < stage.images:
            losses.append(training.step(steps))
            steps += 1
            bar.update(stage.batch)
            now = time.monotonic()
            over = now - began >= minutes * 60
            if now - looked < every and not over and training.seen_in_stage < stage.images:
                continue
            speed = (training.seen - before) / (now - looked)
            training.seconds += now - saved
            quality = training.evaluate(training.folder / f"sheet-{stage.resolution}.png")
            training.save()
            saved = time.monotonic()
            loss = torch.stack(losses).mean().item()
            rate = stage.rate(training.seen_in_stage, steps)
            training.note(
                (
                    round(training.seconds / 60, 2),
                    stage.resolution,
                    training.seen,
                    round(rate, 6),
                    round(loss, 5),
                    round(quality, 3),
                    round(speed, 1),
                )
            )
            bar.set_postfix(loss=f"{loss:.4f}", psnr=f"{quality:.2f}")
            training.gallery.refresh()
            if share:
                share_machine()
            if not drawing.is_alive():
                drawing = training.gallery.start_drawing(config["renderer_niceness"])
            losses, looked, before = [], time.monotonic(), training.seen
            if over:
                break
        bar.close()
    drawing.terminate()
    drawing.join()


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--config", type=Path, default=Path("configs/decoder.yaml"))
    parser.add_argument("--run", type=Path, default=Path("runs/decoder"), help="folder of the run")
    parser.add_argument("--minutes", type=float, default=60.0, help="budget of this call")
    parser.add_argument("--every", type=float, default=120.0, help="seconds between checkpoints")
    parser.add_argument("--threads", type=int, default=0, help="0: what others leave free")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    parser.add_argument("--resume-from", type=Path, metavar="FILE", help="an exported decoder")
    parser.add_argument("--export", type=Path, metavar="FILE", help="write a decoder at the end")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    name = "cuda" if options.device == "auto" and torch.cuda.is_available() else options.device
    device = torch.device("cpu" if name == "auto" else name)
    config = yaml.safe_load(options.config.read_text())
    training = Training(config, options.run, device)
    if options.resume_from:
        training.warm_start(options.resume_from)
    elif (options.run / "state.pt").exists():
        training.load()
    if options.minutes > 0:
        train(training, options.minutes, options.every, share=options.threads == 0)
    if options.export:
        resolution = training.stages[training.stage].resolution
        training.gallery.resolution = resolution
        training.export(options.export)


if __name__ == "__main__":
    main()
