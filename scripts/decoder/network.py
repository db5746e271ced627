"""What training does to the generator: growing, averaging, and hiding the basis in fc0.

In training the mapping network takes the drawing's k attributes. The shipped one takes 512
latents: with an orthonormal basis B (512, k), attributes are z B, so W (B^T z) = (W B^T) z.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from huref.decoder.stylegan2 import Generator
from huref.decoder.stylegan2_layers import SQRT2, FullyConnected, StyledConv

State = dict[str, Tensor]
FIRST = "mapping.fc0.weight"


def build(
    inputs: int, w_dim: int, depth: int, channels: dict[int, int], resolution: int, lr_mul: float
) -> Generator:
    """Make a fresh generator up to a resolution, its noise a map to be learned."""
    used = {r: c for r, c in channels.items() if r <= resolution}
    generator = Generator(inputs, w_dim, depth, used, lr_mul=lr_mul)
    learn_noise(generator)
    return generator


@torch.no_grad()
def learn_noise(generator: Generator) -> None:
    """Let every layer's fixed noise be trained, from zero, at a strength of one.

    The grain of fur and the places of freckles are the same in all drawings. Convolutions of
    random noise cannot recall them, and training turned it off; a map of a layer's own can.
    """
    for layer in generator.modules():
        if isinstance(layer, StyledConv):
            noise = torch.zeros_like(layer.noise_const)
            del layer.noise_const
            layer.register_parameter("noise_const", torch.nn.Parameter(noise))
            layer.noise_strength.fill_(1.0).requires_grad_(False)


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
    """Load a smaller generator's tensors; what is new starts as plain up-sampling of the old.

    Strengths of noise other than one become part of the noise, as `learn_noise` has it.
    """
    own = generator.state_dict()
    state = state | {
        name: state[name] * state[name.replace("const", "strength")]
        for name in state
        if name.endswith("noise_const")
    }
    state |= {n: torch.ones_like(state[n]) for n in state if n.endswith("noise_strength")}
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
