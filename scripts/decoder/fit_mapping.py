"""Fits the mapping of a decoder to drawings whose colours and lengths blend linearly.

    python -m scripts.decoder fit-mapping FORMER --out checkpoints/decoder.safetensors

FORMER is a decoder of the drawings before (5459cd755f9b), in which a colour was a logistic step of
its trait; now it is linear in it (`scripts.dogs.attributes.blend`). No picture is drawn: for
attributes u the target is FORMER's w at the u' of which the former drawing is the new one of u, so
that the synthesis network, which stays as it is, is given what it was given for that drawing.
Errors of w count as the styles of the layers see them. The red of the coat, whose response in
FORMER is steeper than in the drawings, is fitted last: its target is a blend of FORMER's w at both
of its ends, and its derivative counts too.

It takes some five minutes of one core.
"""

import copy
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import erf, erfinv
from torch import Tensor
from tqdm import tqdm

from huref.decoder.render import Decoder, load_decoder, save_decoder
from huref.decoder.stylegan2 import Generator, Mapping
from scripts import ROOT, make_parser
from scripts.decoder.loss import psnr
from scripts.decoder.network import centre, fold_basis, unfold_basis
from scripts.decoder.shards import to_colours
from scripts.dogs.attributes import ATTRIBUTES
from scripts.dogs.digest import drawing_digest
from scripts.dogs.draw import latent_basis
from scripts.evaluate.decoder.drawings import drawings, latents_of

BLENDED = ("coat_light", "coat_warm", "coat_red", "mark_warm", "coat_length", "eye_light",
           "eye_sclera", "brow_light", "beard_light", "ear_inner")  # fmt: skip
RED = ATTRIBUTES.index("coat_red")
STEPS, STEPS_OF_RED = 924, 420
BATCH, BATCH_OF_RED = 192, 128
PEAK_LR = 1e-3
WARM_UP = 20  # steps
END = 2.2  # standard deviations: the ends between which the red is blended, and its samples' range
SLOPE = 0.25  # standard deviations: the difference that stands for the derivative
SLOPE_WEIGHT = 0.006
HELD_OUT = 256

Array = NDArray[np.float64]


def trait(attribute: Array) -> Array:
    """A saturated trait of its attribute, -1 to 1; `scripts.dogs.attributes.traits_of`."""
    return np.asarray(erf(1.2 * attribute / math.sqrt(2)))


def attribute(value: Array) -> Array:
    """The inverse of `trait`, of values cut to what attributes reach."""
    return np.asarray(erfinv(value.clip(-0.9995, 0.9995)) * math.sqrt(2) / 1.2)


def former_attributes(attributes: Array) -> Array:
    """The attributes (n, k) of which the former drawings are the new ones of `attributes`."""
    former = attributes.copy()
    for name in BLENDED:
        column = ATTRIBUTES.index(name)
        weight = (0.04 + 0.46 * (trait(attributes[:, column]) + 1)).clip(0.055, 0.945)
        former[:, column] = attribute(0.35 * np.log(weight / (1 - weight)))
    # The lightness of markings depends on that of the coat, whose trait has just changed.
    light, mark = ATTRIBUTES.index("coat_light"), ATTRIBUTES.index("mark_light")
    moved = trait(former[:, light]) - trait(attributes[:, light])
    former[:, mark] = attribute(trait(attributes[:, mark]) + 0.75 / 0.55 * moved)
    return former


@dataclass(frozen=True)
class Former:
    """The mapping before, of attributes (n, k), and a square root (w_dim, w_dim) of w's metric."""

    mapping: Mapping
    metric: Tensor

    @torch.no_grad()
    def target(self, attributes: Array) -> Tensor:
        """The w (n, w_dim) of the former attributes."""
        return self.mapping.from_normalised(to_input(former_attributes(attributes)))

    @torch.no_grad()
    def red_target(self, attributes: Array) -> Tensor:
        """The same with the red blended between w at its ends, by its weight in the drawing."""
        low = former_attributes(attributes)
        high = low.copy()
        low[:, RED], high[:, RED] = -END, END
        w = self.mapping.from_normalised(to_input(np.concatenate([low, high])))
        share = to_input((trait(attributes[:, RED]) + 1) / 2)[:, None]
        return torch.lerp(w[: len(attributes)], w[len(attributes) :], share)


def to_input(values: Array) -> Tensor:
    """Float32 tensor of an array."""
    return torch.from_numpy(values.astype(np.float32))


def to_picture(images: NDArray[np.uint8]) -> Tensor:
    """Colours (n, 3, r, r) in [-1, 1] of images (n, r, r, 3)."""
    return to_colours(torch.from_numpy(images).permute(0, 3, 1, 2))


def metric_of(generator: Generator) -> Tensor:
    """A matrix (w_dim, w_dim) that maps differences of w to lengths as the styles change by."""
    tensors = generator.state_dict()
    affine = [t.double() for name, t in tensors.items() if name.endswith("affine.weight")]
    gram = torch.cat(affine).T @ torch.cat(affine)
    gram.diagonal().add_(1e-4 * gram.diagonal().mean())
    root: Tensor = torch.linalg.cholesky(gram).float()
    return root


def descend(mapping: Mapping, former: Former, steps: int, steps_of_red: int) -> None:
    """Fit a mapping of attributes (n, k) to the targets of the former one, in place."""
    rng = np.random.default_rng(5)
    k = len(ATTRIBUTES)
    scale = (former.target(rng.standard_normal((1024, k))) @ former.metric).var(0).mean()

    def error(attributes: Array, target: Tensor) -> Tensor:
        return (mapping.from_normalised(to_input(attributes)) - target) @ former.metric

    def whole() -> Tensor:
        attributes = rng.standard_normal((BATCH, k))
        return error(attributes, former.target(attributes)).square().mean() / scale

    def red() -> Tensor:
        attributes, half = rng.standard_normal((BATCH_OF_RED, k)), BATCH_OF_RED // 2
        attributes[:half, RED] = rng.uniform(-END, END, half)
        moved = attributes[:half].copy()
        moved[:, RED] += SLOPE
        target, beyond = former.red_target(attributes), former.red_target(moved)
        errors = error(attributes, target)
        slopes = error(moved, beyond) - errors[:half]
        size = ((beyond - target[:half]) @ former.metric).square().mean()
        return errors.square().mean() / scale + SLOPE_WEIGHT * slopes.square().mean() / size

    for loss_of, count in ((whole, steps), (red, steps_of_red)):
        optimiser = torch.optim.Adam(mapping.parameters(), PEAK_LR)
        for step in tqdm(range(count), desc="mapping", delay=2, disable=None):
            fall = 0.5 * (1 + math.cos(math.pi * step / count)) * min(1.0, (step + 1) / WARM_UP)
            optimiser.param_groups[0]["lr"] = PEAK_LR * fall + 1e-6
            optimiser.zero_grad()
            loss_of().backward()  # type: ignore[no-untyped-call]
            optimiser.step()


def fit(decoder: Decoder, steps: int = STEPS, steps_of_red: int = STEPS_OF_RED) -> Generator:
    """The generator of latents (512,) of a decoder whose mapping is fitted to the new drawings."""
    made = decoder.metadata
    basis = torch.from_numpy(latent_basis(made["training"]["config"]["basis_seed"]))
    state = unfold_basis(decoder.generator.state_dict(), basis)
    generator = Generator.from_state(state, lr_mul=made["lr_mul"])
    former = Former(copy.deepcopy(generator.mapping), metric_of(generator))
    descend(generator.mapping.requires_grad_(True), former, steps, steps_of_red)
    folded = fold_basis(generator.state_dict(), basis)
    fitted = Generator.from_state(folded, lr_mul=made["lr_mul"])
    centre(fitted, made["seed"])
    return fitted


def main() -> None:
    """Fit, export, and measure against held-out drawings."""
    parser = make_parser(__doc__)
    parser.add_argument("former", type=Path, help="the decoder of the drawings before")
    parser.add_argument("--out", type=Path, required=True, help="where to write the new one")
    parser.add_argument(
        "--runs",
        type=Path,
        default=ROOT / "runs/evaluate-decoder",
        help="folder of the held-out drawings, that of scripts.evaluate decoder",
    )
    options = parser.parse_args()
    former = load_decoder(options.former)
    metadata = {key: value for key, value in former.metadata.items() if key != "digest"}
    training = metadata["training"] | {"drawing": drawing_digest()}
    state = fit(former).state_dict()
    fitted = save_decoder(options.out, state, metadata | {"training": training})
    z = latents_of(2, HELD_OUT)
    seed = training["config"]["basis_seed"]
    drawn = drawings(options.runs / drawing_digest(), "2", z, fitted.resolution, seed)
    made = fitted.render(torch.from_numpy(z))
    quality = round(psnr(*(to_picture(images) for images in (made, drawn))), 2)
    training |= {"held_out_psnr": quality, "held_out_images": HELD_OUT}
    fitted = save_decoder(options.out, state, metadata | {"training": training})
    print(f"{options.out}: {fitted.digest[:12]}, {quality} dB against {HELD_OUT} held-out drawings")
