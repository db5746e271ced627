"""Steps that make single families linear, in addition to what `module_oracle` does to all.

They replace routers that never weigh experts evenly, gates that are not the sigmoid of a linear
map, and the mixing of residual streams by weights that depend on the token.
"""

from typing import Any

import torch
from torch import Tensor, nn


class EvenRouter(nn.Module):
    """Sends every token to all experts with equal weights."""

    def __init__(self, experts: int):
        super().__init__()
        self.experts = experts

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        shape = (len(x), self.experts)
        even = torch.full(shape, 1 / self.experts, dtype=x.dtype)
        return torch.zeros(shape), even, torch.arange(self.experts).expand(shape)


def route_evenly(model: nn.Module) -> None:
    """For PhiMoE, whose router always chooses two experts."""
    for module in model.modules():
        if hasattr(module, "router"):
            module.router = EvenRouter(4)


def fill_residual_gains(model: nn.Module) -> None:
    """For Doge, which has additional gains on its residual stream."""
    for name, parameter in model.named_parameters():
        if name.endswith("_residual"):
            parameter.data.fill_(1.0)


def weigh_shared_evenly(model: nn.Module) -> None:
    """For Inkling, whose router also weights the shared experts."""
    for module in model.modules():
        if type(module).__name__.endswith("TopkRouter"):
            even = EvenRouter(4)

            def forward(x: Tensor, even: EvenRouter = even) -> tuple[Tensor, ...]:
                flat = x.reshape(-1, x.shape[-1])
                return (*even(flat), torch.ones(len(flat), 1, dtype=x.dtype))

            module.forward = forward


def mix_streams_evenly(model: nn.Module) -> None:
    """For hyper-connections: read the mean of the streams, and write to every stream once."""
    for module in model.modules():
        kind = type(module).__name__
        if kind.endswith("V4HyperConnection"):
            module.forward = _three_weights if "Deepseek" in kind else _two_weights
        elif kind.endswith("GatedResidual") and module.block_inject_weight is not None:
            module.forward = _MeanOfNormed(module)


def _three_weights(streams: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    count = streams.shape[2]
    even = torch.ones(streams.shape[:3], dtype=streams.dtype)
    return even, torch.eye(count, dtype=streams.dtype).expand(*even.shape, count), streams.mean(2)


def _two_weights(streams: Tensor) -> tuple[Tensor, Tensor]:
    return torch.ones(streams.shape[:3], dtype=streams.dtype), streams.mean(2)


class _MeanOfNormed:
    """Qwen4's gated residual with all gates set to one."""

    def __init__(self, module: Any):
        self.module = module

    def __call__(self, streams: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        count = self.module.hc_count
        normed = self.module.hc_norm(streams).unflatten(-1, (count, -1))
        ones = torch.ones((*streams.shape[:-1], count), dtype=streams.dtype)
        return normed.mean(dim=-2), streams, ones


def open_norm_gates(model: nn.Module) -> None:
    """For A.X K2, whose norms gate their output."""
    for module in model.modules():
        if type(module).__name__.endswith("GatedRMSNorm") and hasattr(module, "mlp"):
            module.get_submodule("mlp").forward = lambda x: torch.full_like(x, 1e4)


def fix_streams(model: nn.Module) -> None:
    """For Gemma 3n: AltUp leaves the streams unchanged, and LAuReL writes nothing."""
    for module in model.modules():
        kind = type(module).__name__
        if kind.endswith("AltUp"):
            replaced: Any = module
            replaced.predict = lambda streams: streams
            replaced.correct = lambda streams, activated: activated.expand_as(streams).clone()
        elif kind.endswith("LaurelBlock"):
            module.forward = torch.zeros_like


def add_shared_block(model: nn.Module) -> None:
    """For Zamba: feed the stream to both inputs of the shared block and add its output."""
    for module in model.modules():
        if type(module).__name__.endswith("HybridLayer"):
            module.get_submodule("mamba_decoder").forward = _added
            shared: Any = getattr(module, "shared_transf", None) or module.shared_transformer
            shared.forward = _BesideItself(shared.forward)


def _added(hidden_states: Tensor, transformer_hidden_states: Tensor, **_: Any) -> Tensor:
    return hidden_states + transformer_hidden_states


class _BesideItself:
    """A shared block that gets the stream also as the embedding."""

    def __init__(self, forward: Any):
        self.forward = forward

    def __call__(self, hidden_states: Tensor, **named: Any) -> Any:
        return self.forward(hidden_states, **{**named, "original_hidden_states": hidden_states})
