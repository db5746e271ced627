"""What a forward pass needs beyond canonical blocks: activation, positions, scales, order.

Read from config.json under the keys that families use. A layout is run exactly where a test holds
its hidden states against the module's own; elsewhere as nearly as its config tells.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from huref.architecture.complete_config import routed_scale
from huref.architecture.config_values import look_up
from huref.architecture.layout import Layout
from huref.errors import CheckpointError, one_line
from huref.loader.tensors import MISFIT

Positions = Literal["rotary", "learned", "alibi", "none"]
# Values of model_type whose hidden states tests/architecture/test_running.py compares.
EXACT = (
    "llama", "mistral", "mixtral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3_text", "gpt2",
    "gpt_neox", "phi", "phi3", "gptj", "opt", "olmo", "cohere", "stablelm", "granite",
    "starcoder2", "smollm3",
)  # fmt: skip
PARALLEL = ("gptj", "phi", "falcon", "cohere", "stablelm_parallel")  # layouts
INTERLEAVED = (
    "gptj", "codegen", "cohere", "cohere2", "glm", "glm4", "chatglm", "helium", "ernie4_5",
    "ernie4_5_moe", "llama4_text", "deepseek_v2", "deepseek_v3",
)  # fmt: skip
ALIBI = ("bloom", "mpt")
EPSILON_KEYS = (
    "rms_norm_eps", "layer_norm_eps", "layer_norm_epsilon", "layernorm_epsilon", "norm_eps",
    "norm_epsilon", "layernorm_eps",
)  # fmt: skip
ACTIVATION_KEYS = (
    "hidden_activation", "hidden_act", "activation_function", "hidden_function", "act_fn",
    "mlp_hidden_act", "activation",
)  # fmt: skip


def _gelu_tanh(x: Tensor) -> Tensor:
    return nn.functional.gelu(x, approximate="tanh")


ACTIVATIONS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "silu": nn.functional.silu,
    "swish": nn.functional.silu,
    "gelu": nn.functional.gelu,
    "gelu_new": _gelu_tanh,
    "gelu_fast": _gelu_tanh,
    "gelu_pytorch_tanh": _gelu_tanh,
    "relu": torch.relu,
    "relu2": lambda x: torch.relu(x).square(),
}


@contextmanager
def _reading_settings() -> Iterator[None]:
    """Raise CheckpointError where a setting has another form than its family's."""
    try:
        yield
    except MISFIT as error:
        raise CheckpointError(
            f"config.json has a setting of another form than its family's ({one_line(str(error))})",
            advice="check that it is the model's own",
        ) from error


@dataclass(frozen=True)
class Running:
    """How one model's blocks are run.

    Attributes:
        exact: whether hidden states of this family agree with the module's.
        epsilon: of the norms.
        activation: of the gate, or of up where there is no gate.
        positions: "rotary", "learned" (in the embeddings), "alibi" or "none".
        interleaved: rotary planes are neighbours (2i, 2i + 1), not halves (i, i + n / 2).
        embedding_scale: factor of the embeddings.
        residual_scale: factor of what each half writes.
        parallel: both halves read the stream before the block.
        softcap: bound of attention scores, or 0.
        routed_scale: factor of what routed experts write.
    """

    config: Mapping[str, Any]
    exact: bool
    epsilon: float
    activation: Callable[[Tensor], Tensor]
    positions: Positions
    interleaved: bool
    embedding_scale: float
    residual_scale: float
    parallel: bool
    softcap: float
    routed_scale: float = 1.0

    @property
    def homogeneous(self) -> bool:
        """Whether act(c x) = c act(x) for every c > 0."""
        return self.activation is torch.relu

    @_reading_settings()
    def score_scale(self, index: int, head_dim: int) -> float:
        """The factor of the products of queries and keys."""
        if (multiplier := self.config.get("attention_multiplier")) is not None:
            return float(multiplier)
        if self.config.get("model_type") == "gpt_neo":
            return 1.0
        size = self.config.get("query_pre_attn_scalar") or head_dim
        scale: float = float(size) ** -0.5
        by_block = self.config.get("scale_attn_by_inverse_layer_idx")
        return scale / (index + 1) if by_block else scale

    @_reading_settings()
    def rotation(self, index: int, head_dim: int, count: int) -> tuple[Tensor, Tensor] | None:
        """Cosines and sines of the rotary angles, (count, planes) each, or None."""
        if self.positions != "rotary":
            return None
        layers = self.config.get("no_rope_layers")
        if isinstance(layers, list) and index < len(layers) and not layers[index]:
            return None
        settings = self._rope_settings(index)
        size = self._rotary_size(settings, head_dim)
        theta = next(
            (
                float(value)
                for value in (
                    settings.get("rope_theta"),
                    self.config.get("rope_theta"),
                    self.config.get("rotary_emb_base"),
                )
                if value is not None
            ),
            10000.0,
        )
        frequencies = theta ** -(torch.arange(0, size, 2).double() / size)
        frequencies, factor = _scaled(frequencies, settings, theta, size, self.config)
        angles = torch.arange(count).double()[:, None] * frequencies
        return (angles.cos() * factor).float(), (angles.sin() * factor).float()

    def planes(self, index: int, head_dim: int) -> Tensor | None:
        """Of each feature of a head the number of its rotary plane, (head_dim,) int64, or None."""
        rotation = self.rotation(index, head_dim, 1)
        if rotation is None:
            return None
        numbers, of_half = torch.arange(head_dim), torch.arange(rotation[0].shape[1])
        turned = of_half.repeat_interleave(2) if self.interleaved else of_half.repeat(2)
        numbers[: len(turned)] = turned[:head_dim]
        return numbers

    def _rope_settings(self, index: int) -> Mapping[str, Any]:
        """The rotary settings of a block, old `rope_scaling` and new `rope_parameters` alike."""
        kind = look_up(self.config, "layer_types", index)
        local = self.config.get("rope_local_base_freq")
        if kind is None and local is not None:  # Gemma 3 without layer_types: one global in six
            pattern = self.config.get("sliding_window_pattern") or 6
            sliding = (index + 1) % int(pattern) != 0
            kind = "sliding_attention" if sliding else "full_attention"
        settings = self.config.get("rope_scaling") or self.config.get("rope_parameters") or {}
        if not isinstance(settings, Mapping):
            return {}
        own = settings.get(kind) if isinstance(kind, str) else None
        if isinstance(own, Mapping):
            return own
        if local is not None and kind == "sliding_attention":
            return {"rope_theta": local}
        return settings

    def _rotary_size(self, settings: Mapping[str, Any], head_dim: int) -> int:
        if self.config.get("qk_rope_head_dim") == head_dim:
            return head_dim  # a latent head's rotary part, which turns as a whole
        if settings.get("rope_type") == "proportional":
            return head_dim
        if isinstance(size := self.config.get("rotary_dim"), int):
            return min(size, head_dim) // 2 * 2
        for share in (
            settings.get("partial_rotary_factor"),
            self.config.get("partial_rotary_factor"),
            self.config.get("rotary_pct"),
        ):
            if share is not None:
                return int(head_dim * float(share)) // 2 * 2
        return head_dim


def _scaled(
    frequencies: Tensor,
    settings: Mapping[str, Any],
    theta: float,
    size: int,
    config: Mapping[str, Any],
) -> tuple[Tensor, float]:
    """Rotary frequencies changed for longer contexts, and a factor of cosines and sines."""
    kind = settings.get("rope_type") or settings.get("type") or "default"
    if kind == "proportional":  # Gemma 4: a share of the planes turns, at the speed of all
        turning = int(float(settings.get("partial_rotary_factor") or 1.0) * size // 2)
        return frequencies * (torch.arange(len(frequencies)) < turning), 1.0
    if kind == "factors":  # of a GGUF file
        return _divided(frequencies, settings.get("factors")), 1.0
    length = float(
        settings.get("original_max_position_embeddings")
        or config.get("original_max_position_embeddings")
        or config.get("max_position_embeddings")
        or 4096
    )
    if kind in ("longrope", "su"):  # the second is its older name
        return _long_scaled(frequencies, settings, length, config)
    if kind not in ("linear", "llama3", "yarn") or not settings.get("factor"):
        return frequencies, 1.0
    factor = float(settings["factor"])
    if kind == "linear":
        return frequencies / factor, 1.0
    if kind == "llama3":
        low, high = float(settings["low_freq_factor"]), float(settings["high_freq_factor"])
        turns = length * frequencies / (2 * math.pi)
        share = ((turns - low) / (high - low)).clamp(0, 1)
        return frequencies * (share + (1 - share) / factor), 1.0
    fast, slow = float(settings.get("beta_fast") or 32), float(settings.get("beta_slow") or 1)

    def plane(turns: float) -> float:
        return size * math.log(length / (turns * 2 * math.pi)) / (2 * math.log(theta))

    first, last = max(math.floor(plane(fast)), 0), min(math.ceil(plane(slow)), size - 1)
    ramp = ((torch.arange(size // 2).double() - first) / max(last - first, 1e-3)).clamp(0, 1)
    attention = settings.get("attention_factor") or _attention_factor(factor, settings)
    return frequencies * (ramp / factor + (1 - ramp)), float(attention)


def _divided(frequencies: Tensor, factors: object) -> Tensor:
    """Frequencies divided by a list of as many factors; as they are where there is no such list."""
    if not isinstance(factors, list) or len(factors) != len(frequencies):
        return frequencies
    return frequencies / torch.tensor(factors, dtype=torch.float64)


def _long_scaled(
    frequencies: Tensor, settings: Mapping[str, Any], length: float, config: Mapping[str, Any]
) -> tuple[Tensor, float]:
    """LongRoPE (arXiv 2402.13753): the frequencies of texts that are not longer than `length`."""
    frequencies = _divided(frequencies, settings.get("short_factor"))
    if stated := settings.get("short_mscale") or settings.get("attention_factor"):  # Phi 3.5 MoE
        return frequencies, float(stated)
    longest = float(config.get("max_position_embeddings") or length)
    factor = float(settings.get("factor") or longest / length)
    if min(factor, length) <= 1:
        return frequencies, 1.0
    return frequencies, math.sqrt(1 + math.log(factor) / math.log(length))


def _attention_factor(factor: float, settings: Mapping[str, Any]) -> float:
    """YaRN's factor of cosines and sines (arXiv 2309.00071), with DeepSeek's two scales."""
    scales = (settings.get("mscale"), settings.get("mscale_all_dim"))
    above, below = (0.1 * float(s or 0) * math.log(max(factor, 1.0)) + 1 for s in scales)
    return above / below if all(scales) else 0.1 * math.log(max(factor, 1.0)) + 1


@_reading_settings()
def running(layout: Layout, config: Mapping[str, Any], width: int, learned: bool) -> Running:
    """How a model is run, from its layout and config.

    Args:
        layout: the model's layout.
        config: the model's settings.
        width: of the residual stream.
        learned: whether there are learned embeddings of positions.
    """
    model_type = str(config.get("model_type"))
    epsilons = [config[key] for key in EPSILON_KEYS if isinstance(config.get(key), int | float)]
    names = [config[key] for key in ACTIVATION_KEYS if isinstance(config.get(key), str)]
    gated = layout.ffn is None or bool(layout.ffn.gate or layout.ffn.gate_up)
    default = "silu" if gated else "gelu_new"
    if model_type in ("gemma", "gemma2", "gemma3_text"):
        names = [str(config.get("hidden_activation") or "gelu_pytorch_tanh")]
    if model_type in ("bloom", "phi"):
        names = names or ["gelu_new"]
    if model_type == "opt":
        names = names or ["relu"]
    name = names[0] if names else default
    known = name in ACTIVATIONS
    embedding_scale = float(config.get("embedding_multiplier") or config.get("scale_emb") or 1.0)
    if model_type.startswith("gemma"):
        embedding_scale = width**0.5
    parallel = layout.name in PARALLEL or layout.name.startswith("gpt_neox")
    if parallel and layout.name.startswith("gpt_neox"):
        parallel = bool(config.get("use_parallel_residual", True))
    if layout.name == "falcon":
        parallel = bool(config.get("parallel_attn", True) or config.get("new_decoder_architecture"))
    alibi = model_type in ALIBI or bool(config.get("alibi"))
    positions: Positions = "learned" if learned else "alibi" if alibi else "rotary"
    residual = config.get("residual_multiplier")
    depth = config.get("scale_depth")
    if residual is None and depth is not None:
        residual = float(depth) / float(config.get("num_hidden_layers") or 1) ** 0.5
    return Running(
        config=config,
        exact=model_type in EXACT and known,
        epsilon=float(epsilons[0]) if epsilons else 1e-5,
        activation=ACTIVATIONS[name if known else default],
        positions=positions,
        interleaved=model_type in INTERLEAVED,
        embedding_scale=embedding_scale,
        residual_scale=1.0 if residual is None else float(residual),
        parallel=parallel,
        softcap=float(config.get("attn_logit_softcapping") or 0.0),
        routed_scale=routed_scale(config),
    )
