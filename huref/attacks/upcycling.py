"""Copies dense networks into equal experts, in the format of a mixture that transformers supports.

The output of equal experts is that of one of them, because the router's weights sum to one.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Generator, Tensor

from huref.attacks.editable import Editable

EXPERTS = 4
CHOSEN = 2
DENSE = re.compile(r"(?P<block>.+\.)mlp\.(?P<role>gate|up|down)_proj\.weight")


@dataclass(frozen=True)
class MixtureFormat:
    """A mixture-of-experts architecture that differs from a dense one only in the networks.

    Attributes:
        model_type, architecture: as config.json has them.
        expert: name of an expert's matrix, with {e} for the expert and {role} for the matrix.
        router: name of the router.
        roles: its names for gate, up and down.
        config: further values of config.json.
    """

    model_type: str
    architecture: str
    expert: str
    router: str
    roles: dict[str, str]
    config: dict[str, Any] = field(default_factory=dict)


MIXTRAL = MixtureFormat(
    "mixtral",
    "MixtralForCausalLM",
    "block_sparse_moe.experts.{e}.{role}.weight",
    "block_sparse_moe.gate.weight",
    {"gate": "w1", "up": "w3", "down": "w2"},
    {"num_local_experts": EXPERTS},
)
QWEN3_MOE = MixtureFormat(
    "qwen3_moe",
    "Qwen3MoeForCausalLM",
    "mlp.experts.{e}.{role}_proj.weight",
    "mlp.gate.weight",
    {"gate": "gate", "up": "up", "down": "down"},
    {
        "num_experts": EXPERTS,
        "norm_topk_prob": True,
        "decoder_sparse_step": 1,
        "mlp_only_layers": [],
    },
)
FORMATS = {"llama": MIXTRAL, "mistral": MIXTRAL, "qwen3": QWEN3_MOE}


def find_mixture(model: Editable) -> MixtureFormat | None:
    """The mixture into which a model's blocks fit, or None."""
    return FORMATS.get(str(model.config.get("model_type")))


def upcycle(model: Editable, generator: Generator) -> None:
    """Copy every dense network into equal experts with a random router."""
    mixture = find_mixture(model)
    assert mixture is not None
    width, hidden = model.blocks[0].weights["up"].shape
    routers = [
        torch.randn(EXPERTS, width, generator=generator, dtype=torch.float64) for _ in model.blocks
    ]

    def rewrite(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        return _as_experts(tensors, mixture, iter(routers))

    model.rewrites.append(rewrite)
    model.config |= mixture.config | {
        "model_type": mixture.model_type,
        "architectures": [mixture.architecture],
        "num_experts_per_tok": CHOSEN,
        "moe_intermediate_size": hidden,
        "sliding_window": model.config.get("sliding_window"),
    }


def _as_experts(
    tensors: dict[str, Tensor], mixture: MixtureFormat, routers: Iterator[Tensor]
) -> dict[str, Tensor]:
    """All tensors, with each dense network copied into experts and a router added."""
    rewritten: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        match = DENSE.fullmatch(name)
        if match is None:
            rewritten[name] = tensor
            continue
        for expert in range(EXPERTS):
            role = mixture.roles[match["role"]]
            rewritten[match["block"] + mixture.expert.format(e=expert, role=role)] = tensor.clone()
        if match["role"] == "down":
            rewritten[match["block"] + mixture.router] = next(routers)
    return rewritten
