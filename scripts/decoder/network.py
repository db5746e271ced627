"""Construction, growth, averaging and export of the generator in training.

In training the mapping network takes the k attributes of a drawing; the exported one takes latents
z (512,). With an orthonormal basis B (512, k) the attributes are B^T z, so the first weight W is
replaced by W B^T.
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
    """Make a generator up to a resolution, with learned noise maps."""
    used = {r: c for r, c in channels.items() if r <= resolution}
    generator = Generator(inputs, w_dim, depth, used, lr_mul=lr_mul)
    learn_noise(generator)
    return generator


@torch.no_grad()
def learn_noise(generator: Generator) -> None:
    """Make every layer's fixed noise a parameter that starts at zero, with strength one.

    The texture of fur and the positions of freckles are the same in all drawings. A learned map
    can store them; with random noise, training reduced the noise's strength to zero.
    """
    for layer in generator.modules():
        if isinstance(layer, StyledConv):
            noise = torch.zeros_like(layer.noise_const)
            del layer.noise_const
            layer.register_parameter("noise_const", torch.nn.Parameter(noise))
            layer.noise_strength.fill_(1.0).requires_grad_(False)


def trait_directions(names: Sequence[str]) -> Tensor:
    """Unit vectors (traits, k): for each trait, the sum of its attributes "trait.part"."""
    traits = list(dict.fromkeys(name.partition(".")[0] for name in names))
    directions = torch.zeros(len(traits), len(names))
    for column, name in enumerate(names):
        directions[traits.index(name.partition(".")[0]), column] = 1.0
    return torch.nn.functional.normalize(directions)


@torch.no_grad()
def start_from_traits(generator: Generator, names: Sequence[str]) -> None:
    """Initialise the mapping: fc0 with two hinges per trait, later layers near the identity.

    Traits saturate, and the difference of two hinges is the simplest function that does.
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
    """Load the tensors of a smaller generator into this one.

    New blocks add no colour at first, so the picture starts as the old one, up-sampled. Noise
    strengths other than one are multiplied into the noise; see `learn_noise`.
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
        name = sorted(set(state) - set(fitting))[0]
        raise ValueError(f"the configuration does not fit the tensor {name}")
    generator.load_state_dict(own | fitting)
    with torch.no_grad():
        for name, parameter in generator.named_parameters():
            if fitting and name not in fitting and name.endswith("torgb.weight"):
                parameter.zero_()
    return generator


def fold_basis(state: State, basis: Tensor) -> State:
    """Convert the state of a generator from attributes (k,) to latents (512,)."""
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
    """Update the exponential moving average of the weights."""
    old: list[Tensor] = list(mean.parameters())
    torch._foreach_lerp_(old, list[Tensor](current.parameters()), 1.0 - decay)


@torch.no_grad()
def centre(generator: Generator, seed: int, count: int = 16384) -> None:
    """Set w_avg to the mean of w over random latents."""
    z = torch.randn(count, generator.z_dim, generator=torch.Generator().manual_seed(seed))
    generator.mapping.w_avg.copy_(generator.mapping(z).mean(0))
