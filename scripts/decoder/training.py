"""State of the decoder's training: networks, schedule, checkpoint, warm start, export."""

import csv
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from huref.decoder.render import load_decoder, save_decoder, to_bytes
from huref.decoder.stylegan2 import Generator
from scripts.decoder.loss import distance, psnr
from scripts.decoder.network import (
    average,
    build,
    centre,
    fold_basis,
    grow,
    start_from_traits,
    unfold_basis,
)
from scripts.decoder.optimiser import MuonAndAdam
from scripts.decoder.precision import fast_dtype
from scripts.decoder.shards import Gallery
from scripts.dogs.digest import drawing_digest

WARM_UP = 60  # steps
FINAL_LR = 0.02  # as a fraction of the stage's rate
CURVE = ("minutes", "resolution", "images", "matrix_lr", "loss", "psnr", "images_per_second")


@dataclass(frozen=True)
class Stage:
    """One resolution's share of the training.

    Attributes:
        lr, matrix_lr: learning rates of Adam and Muon, constant for the fraction `hold` of the
            images.
        frozen: the mapping and blocks up to this resolution are not trained; 0: all are.
    """

    resolution: int
    images: int
    batch: int
    lr: float
    matrix_lr: float
    hold: float
    frozen: int = 0

    def part_of_rate(self, seen: int, steps: int) -> float:
        """Fraction of the rate after `seen` images of this stage and `steps` steps of this run."""
        part = max(0.0, min(1.0, seen / self.images) - self.hold) / max(1e-9, 1.0 - self.hold)
        fall = FINAL_LR + (1.0 - FINAL_LR) * 0.5 * (1.0 + math.cos(math.pi * part))
        return fall * min(1.0, (steps + 1) / WARM_UP)


class Training:
    """A generator in training, its average, its optimiser and its position in the schedule."""

    def __init__(self, config: dict[str, Any], folder: Path, device: torch.device) -> None:
        self.config, self.folder, self.device = config, folder, device
        self.dtype = fast_dtype(device)
        self.stages = [Stage(**stage) for stage in config["stages"]]
        folder.mkdir(parents=True, exist_ok=True)
        self.gallery = Gallery(
            folder,
            config["size"],
            config["shards"],
            config["basis_seed"],
            device,
            config["between_ears"],
        )
        self.basis = torch.from_numpy(self.gallery.basis)
        self.stage, self.seen_in_stage, self.seen, self.seconds = 0, 0, 0, 0.0
        self.sampler = torch.Generator().manual_seed(config["seed"])
        torch.manual_seed(config["seed"])
        self.model, self.mean, self.optimiser = self.networks({})

    @property
    def finished(self) -> bool:
        """Whether all stages are complete."""
        last = self.stage == len(self.stages) - 1
        return last and self.seen_in_stage >= self.stages[-1].images

    def networks(self, state: dict[str, Tensor]) -> tuple[Generator, Generator, MuonAndAdam]:
        """Model, average and optimiser at the current resolution, from a smaller model's state."""
        c, stage = self.config, self.stages[self.stage]
        resolution = stage.resolution
        shape = (c["w_dim"], c["mapping_layers"], c["channels"], resolution, c["lr_mul"])
        model = build(self.basis.shape[1], *shape)
        start_from_traits(model, self.gallery.names)
        model = grow(model, state).to(self.device)
        mean = build(self.basis.shape[1], *shape).to(self.device).requires_grad_(False)
        mean.load_state_dict(model.state_dict())
        if stage.frozen:
            trained = tuple(f"synthesis.b{r}." for r in c["channels"] if r > stage.frozen)
            for name, parameter in model.named_parameters():
                if not name.startswith(trained):
                    parameter.requires_grad_(False)
        self.loss = torch.compile(self.distance) if c["compile"] else self.distance
        return model, mean, MuonAndAdam(model)

    def paint(self, generator: Generator, attributes: Tensor) -> Tensor:
        """Colours (n, 3, r, r) for attributes (n, k), with convolutions in a fast dtype."""
        w = generator.mapping.from_normalised(attributes)
        image: Tensor = generator.synthesis([w] * generator.synthesis.num_ws, self.dtype)
        return image

    def distance(self, attributes: Tensor, target: Tensor) -> Tensor:
        """Loss of the model's pictures of attributes (n, k) against drawings."""
        return distance(self.paint(self.model, attributes), target, **self.config["loss"])

    def step(self, since_start: int) -> Tensor:
        """Train on one batch and return its loss."""
        stage = self.stages[self.stage]
        part = stage.part_of_rate(self.seen_in_stage, since_start)
        attributes, target = self.gallery.sample(stage.batch, self.sampler)
        loss: Tensor = self.loss(attributes, target)
        self.optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimiser.step(part * stage.matrix_lr, part * stage.lr)
        # A short half-life early in a stage, while the new block changes quickly.
        half_life = min(self.config["ema_images"], 100 + self.seen_in_stage / 4)
        average(self.mean, self.model, 0.5 ** (stage.batch / half_life))
        self.seen_in_stage += stage.batch
        self.seen += stage.batch
        return loss.detach()

    @torch.no_grad()
    def evaluate(self, sheet: Path | None) -> float:
        """Held-out PSNR of the averaged generator in dB; writes the first 24 to `sheet`."""
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
        """Grow model and average to the next resolution, with a new optimiser."""
        current, mean = self.model.state_dict(), self.mean.state_dict()
        self.stage, self.seen_in_stage = self.stage + 1, 0
        if self.stages[self.stage].frozen:
            current = mean
        self.model, self.mean, self.optimiser = self.networks(current)
        self.mean.load_state_dict(self.model.state_dict() | mean)

    def save(self) -> None:
        """Write state.pt atomically."""
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
        """Restore state.pt."""
        state = torch.load(self.folder / "state.pt", map_location=self.device, weights_only=True)
        self.stage, self.seen_in_stage = state["stage"], state["seen_in_stage"]
        self.seen, self.seconds = state["seen"], state["seconds"]
        self.model, self.mean, self.optimiser = self.networks(state["model"])
        self.mean.load_state_dict(state["mean"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.sampler.set_state(state["sampler"].cpu())

    def warm_start(self, path: Path) -> None:
        """Start from an exported decoder, at the first stage of at least its resolution."""
        decoder = load_decoder(path)
        resolution, made = decoder.resolution, decoder.metadata["training"]
        self.stage = next(i for i, s in enumerate(self.stages) if s.resolution >= resolution)
        self.seen, self.seconds = made["images"], made["minutes"] * 60.0
        state = unfold_basis(decoder.generator.state_dict(), self.basis)
        self.model, self.mean, self.optimiser = self.networks(state)

    def export(self, path: Path) -> None:
        """Write the averaged generator as a decoder of latents (512,)."""
        state = {name: value.cpu() for name, value in self.mean.state_dict().items()}
        c, folded = self.config, fold_basis(state, self.basis)
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

    def record(self, loss: float, speed: float, steps: int) -> float:
        """Save the state and a sheet, append to curve.csv, and return the held-out PSNR in dB."""
        resolution = self.stages[self.stage].resolution
        quality = self.evaluate(self.folder / f"sheet-{resolution}.png")
        self.save()
        stage = self.stages[self.stage]
        rate = stage.matrix_lr * stage.part_of_rate(self.seen_in_stage, steps)
        path = self.folder / "curve.csv"
        new = not path.exists()
        with path.open("a", newline="") as file:
            writer = csv.writer(file)
            if new:
                writer.writerow(CURVE)
            figures = (f"{rate:.6f}", f"{loss:.5f}", f"{quality:.3f}", f"{speed:.1f}")
            writer.writerow((f"{self.seconds / 60:.2f}", resolution, self.seen, *figures))
        return quality
