"""A small network that predicts a dog's traits from a picture of 64 px, trained on drawings.

Applied to generated pictures it measures which traits the decoder shows. Distances of predicted
traits also measure the similarity of pictures. The prediction is the sum of two parts: ridge
regression on the picture at 32 px, which explains most of the variance, and a convolutional network
trained on the residual.
"""

import math
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional
from tqdm import tqdm

from scripts.dogs.attributes import ATTRIBUTES, traits_of
from scripts.dogs.draw import latent_basis
from scripts.evaluate.decoder.drawings import SIDE, Images, Latents, drawings, latents_of

TRAITS = ATTRIBUTES
FEATURES = 128
COARSE = 32  # pixels on a side of the linear part's input
RIDGE = 4e-3  # in squared colours; about 1 % of a pixel's variance
TRAINING_SEED = 1
BATCH = 64
PEAK_LR = 2e-3
SAVE_EVERY = 200  # steps

Array = NDArray[np.float32]


class Regressor(nn.Module):
    """Maps pictures (n, 3, 64, 64) in [-1, 1] to traits (n, traits), about -1 to 1."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3 * COARSE**2, len(TRAITS)).requires_grad_(False)
        layers: list[nn.Module] = []
        inputs = 3
        for outputs, stride in ((32, 2), (64, 2), (64, 1), (128, 2), (128, 1), (256, 2)):
            layers += [
                nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False),
                nn.BatchNorm2d(outputs),
                nn.ReLU(),
            ]
            inputs = outputs
        # No pooling: positions matter.
        self.trunk = nn.Sequential(
            *layers,
            nn.Flatten(),
            nn.Linear(256 * 16, FEATURES, bias=False),
            nn.BatchNorm1d(FEATURES),  # without it most features become zero early and stay so
            nn.GELU(),
        )
        self.head = nn.Linear(FEATURES, len(TRAITS))
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Map pictures to traits."""
        seen: Tensor = self.linear(coarse(x)) + self.head(self.trunk(x)).float()
        return seen

    def solve_linear(self, pictures: Images, truth: Tensor) -> None:
        """Set the linear part by ridge regression of traits (n, traits) on pictures."""
        parts = [coarse(to_input(pictures[i : i + 256])) for i in range(0, len(pictures), 256)]
        x = torch.cat(parts)
        middle, mean = x.mean(0), truth.mean(0)
        x = x - middle
        covariance = x.T @ x / len(x)
        covariance.diagonal().add_(RIDGE)
        weight = torch.linalg.solve(covariance, x.T @ (truth - mean) / len(x)).T
        self.linear.weight.copy_(weight)
        self.linear.bias.copy_(mean - weight @ middle)


def coarse(x: Tensor) -> Tensor:
    """Reduce pictures (n, 3, 64, 64) to 32 px and flatten them, (n, 3072) float32."""
    return functional.avg_pool2d(x.float(), x.shape[-1] // COARSE).flatten(1)


def traits(z: Latents, basis_seed: int) -> Array:
    """True traits (n, traits) of latents (n, 512)."""
    attributes = z @ latent_basis(basis_seed)
    return np.array([[t[k] for k in TRAITS] for t in map(traits_of, attributes)], np.float32)


def to_input(images: Images) -> Tensor:
    """Convert images (n, 64, 64, 3) uint8 to pictures (n, 3, 64, 64) in [-1, 1]."""
    colours = torch.from_numpy(images).permute(0, 3, 1, 2).float()
    return (colours / 127.5 - 1).contiguous(memory_format=torch.channels_last)


def load_regressor(folder: Path, basis_seed: int, images: int, epochs: int) -> Regressor:
    """Load the regressor of a folder; train it first, or continue its training, if necessary."""
    path = folder / f"regressor-{basis_seed}-{images}-{epochs}.pt"
    torch.manual_seed(0)
    model = Regressor()
    steps = epochs * (images // BATCH)
    learned = [p for p in model.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(learned, PEAK_LR, weight_decay=0.02)
    begin = -1  # the linear part is step 0
    if path.exists():
        state = torch.load(path, weights_only=True)
        model.load_state_dict(state["model"])
        optimiser.load_state_dict(state["optimiser"])
        begin = state["step"]
    if begin < steps or begin < 0:
        z = latents_of(TRAINING_SEED, images)
        pictures = drawings(folder, f"{TRAINING_SEED}", z, SIDE, basis_seed)
        truth = torch.from_numpy(traits(z, basis_seed))
        if begin < 0:
            model.solve_linear(pictures, truth)
            begin = 0
            _save(model, optimiser, begin, path)
        _train(model, optimiser, pictures, truth, begin, steps, path)
    model.eval()
    return model.requires_grad_(False)


def _train(
    model: Regressor,
    optimiser: torch.optim.Optimizer,
    pictures: Images,
    truth: Tensor,
    begin: int,
    steps: int,
    path: Path,
) -> None:
    per_epoch = len(pictures) // BATCH
    model.train()
    for step in tqdm(range(begin, steps), desc="regressor", delay=2, disable=None):
        epoch, place = divmod(step, per_epoch)
        order = np.random.default_rng(epoch).permutation(len(pictures))
        chosen = order[place * BATCH : (place + 1) * BATCH]
        for group in optimiser.param_groups:
            fall = 0.5 * (1 + math.cos(math.pi * step / steps))
            group["lr"] = PEAK_LR * min(1.0, (step + 1) / 100) * (0.01 + 0.99 * fall)
        with torch.autocast("cpu", torch.bfloat16):
            output = model(to_input(pictures[chosen]))
        loss = (output - truth[chosen]).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        if (step + 1) % SAVE_EVERY == 0 or step + 1 == steps:
            _save(model, optimiser, step + 1, path)


def _save(model: Regressor, optimiser: torch.optim.Optimizer, step: int, path: Path) -> None:
    temporary = path.with_suffix(".part")
    state = {"model": model.state_dict(), "optimiser": optimiser.state_dict()}
    torch.save(state | {"step": step}, temporary)
    temporary.replace(path)


@torch.inference_mode()
def read_traits(model: Regressor, images: Images) -> Array:
    """Predict traits (n, traits) from images (n, 64, 64, 3)."""
    starts = range(0, len(images), 256)
    return torch.cat([model(to_input(images[i : i + 256])) for i in starts]).numpy()
