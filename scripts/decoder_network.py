"""What training does to the generator: growing, averaging, and hiding the basis in fc0.

In training the mapping network takes the drawing's k attributes. The shipped one takes 512
latents: with an orthonormal basis B (512, k), attributes are z B, so W (B^T z) = (W B^T) z.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from huref.decoder.stylegan2 import SQRT2, FullyConnected, Generator

State = dict[str, Tensor]
FIRST = "mapping.fc0.weight"


def build(
    inputs: int, w_dim: int, depth: int, channels: dict[int, int], resolution: int, lr_mul: float
) -> Generator:
    """Make a fresh generator up to a resolution."""
    used = {r: c for r, c in channels.items() if r <= resolution}
    return Generator(inputs, w_dim, depth, used, lr_mul=lr_mul)


def trait_directions(names: Sequence[str]) -> Tensor:
    """Unit directions (traits, k) of the traits that attributes "trait.part" make up together."""
    traits = list(dict.fromkeys(name.partition(".")[0] for name in names))
    directions = torch.zeros(len(traits), len(names))
    for column, name in enumerate(names):
        directions[traits.index(name.partition(".")[0]), column] = 1.0
    return torch.nn.functional.normalize(directions)


@torch.no_grad()
def start_from_traits(generator: Generator, names: Sequence[str]) -> None:
    """Give the mapping a head start: fc0 begins with two hinges per trait, the rest as identity.

    The drawing's traits saturate, and a pair of hinges is the simplest saturating curve.
    """
    directions = trait_directions(names)
    for i in range(generator.mapping.depth):
        layer = generator.mapping.get_submodule(f"fc{i}")
        assert isinstance(layer, FullyConnected)
        outputs, inputs = layer.weight.shape
        if i > 0:
            eye = torch.eye(outputs, inputs) * math.sqrt(inputs) / SQRT2
            layer.weight.copy_((eye + 0.3 * layer.weight) / layer.lr_mul)
            continue
        hinges = torch.cat([directions, directions])[:outputs] * math.sqrt(inputs)
        layer.weight[: len(hinges)] = hinges / layer.lr_mul
        layer.bias[: len(directions)] = 0.6 / layer.lr_mul
        layer.bias[len(directions) : len(hinges)] = -0.6 / layer.lr_mul


def grow(generator: Generator, state: State) -> Generator:
    """Load a smaller generator's tensors; what is new starts as plain up-sampling of the old."""
    own = generator.state_dict()
    fitting = {k: v for k, v in state.items() if k in own and own[k].shape == v.shape}
    if set(state) - set(fitting):
        raise ValueError(f"the configuration does not fit {sorted(set(state) - set(fitting))[0]}")
    generator.load_state_dict(own | fitting)
    with torch.no_grad():
        for name, parameter in generator.named_parameters():
            if fitting and name not in fitting and name.endswith("torgb.weight"):
                parameter.zero_()
    return generator


def fold_basis(state: State, basis: Tensor) -> State:
    """Turn a generator of attributes (k) into one of latents (512): same pictures."""
    size, k = basis.shape
    folded = state[FIRST].double() @ basis.double().T * math.sqrt(size / k)
    return state | {FIRST: folded.float()}


def unfold_basis(state: State, basis: Tensor) -> State:
    """Undo `fold_basis`."""
    size, k = basis.shape
    unfolded = state[FIRST].double() @ basis.double() * math.sqrt(k / size)
    return state | {FIRST: unfolded.float()}


@torch.no_grad()
def average(mean: Generator, current: Generator, decay: float) -> None:
    """Move an exponential moving average of the weights towards the current ones."""
    old: list[Tensor] = list(mean.parameters())
    torch._foreach_lerp_(old, list[Tensor](current.parameters()), 1.0 - decay)


@torch.no_grad()
def centre(generator: Generator, seed: int, count: int = 16384) -> None:
    """Set w_avg, the mean of w, from normalised random latents."""
    z = torch.randn(count, generator.z_dim, generator=torch.Generator().manual_seed(seed))
    generator.mapping.w_avg.copy_(generator.mapping(z).mean(0))
