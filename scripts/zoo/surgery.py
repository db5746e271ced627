"""Structural changes: blocks, units, heads and residual dimensions removed or repeated."""

import copy
import re
from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel

BLOCK = re.compile(r"^(.*?\b(?:layers|h)\.)(\d+)(\..*)$")
WRITERS = ("o_proj", "down_proj")  # matrices whose output is the residual stream
TABLES = (
    "embed_tokens.weight",
    "embed_in.weight",
    "wte.weight",
    "lm_head.weight",
    "embed_out.weight",
)


def stack_blocks(
    models: Sequence[PreTrainedModel], picks: Sequence[Sequence[int]]
) -> PreTrainedModel:
    """A model whose block i is block picks[i][1] of models[picks[i][0]].

    Embeddings and final norm are those of the first model.
    """
    config = copy.deepcopy(models[0].config)
    config.num_hidden_layers = len(picks)
    if kinds := getattr(config, "layer_types", None):
        config.layer_types = [kinds[index] for _, index in picks]
    states = [model.state_dict() for model in models]
    stacked: dict[str, Tensor] = {}
    for key, tensor in states[0].items():
        if not (found := BLOCK.match(key)):
            stacked[key] = tensor
        elif found[2] == "0":
            for place, (source, index) in enumerate(picks):
                stacked[f"{found[1]}{place}{found[3]}"] = states[source][
                    f"{found[1]}{index}{found[3]}"
                ]
    return _filled(models[0], config, stacked)


def _filled(model: PreTrainedModel, config: object, state: dict[str, Tensor]) -> PreTrainedModel:
    shaped: PreTrainedModel = type(model)(config)
    shaped.load_state_dict(state)
    return shaped


def keep_units(model: PreTrainedModel, share: float) -> PreTrainedModel:
    """Keep a share of the units of a Llama, those of largest norm in each block, in order."""
    config = copy.deepcopy(model.config)
    config.intermediate_size = kept = round(share * config.intermediate_size)
    state = model.state_dict()
    for layer in range(config.num_hidden_layers):
        start = f"model.layers.{layer}.mlp."
        names = {role: f"{start}{role}_proj.weight" for role in ("gate", "up", "down")}
        norms = [state[names[role]].norm(dim=1) for role in ("gate", "up")]
        importance = norms[0] * norms[1] * state[names["down"]].norm(dim=0)
        chosen = importance.topk(kept).indices.sort().values
        for role, name in names.items():
            state[name] = state[name].index_select(1 if role == "down" else 0, chosen)
    return _filled(model, config, state)


def keep_width(model: PreTrainedModel, width: int) -> PreTrainedModel:
    """Keep the residual dimensions of a Llama whose embeddings are largest, in order."""
    config = copy.deepcopy(model.config)
    state = model.state_dict()
    norms = state["model.embed_tokens.weight"].norm(dim=0)
    chosen = norms.topk(width).indices.sort().values
    config.hidden_size = width
    for name, tensor in state.items():
        writes = name.endswith(tuple(f"{role}.weight" for role in WRITERS))
        state[name] = tensor.index_select(0 if writes or tensor.dim() == 1 else 1, chosen)
    return _filled(model, config, state)


def keep_groups(model: PreTrainedModel, groups: int) -> PreTrainedModel:
    """Keep the key-value heads of a Llama with the largest outputs and their query heads."""
    config = copy.deepcopy(model.config)
    heads, old = config.num_attention_heads, config.num_key_value_heads
    config.num_key_value_heads, config.num_attention_heads = groups, groups * heads // old
    state = model.state_dict()
    for layer in range(config.num_hidden_layers):
        names = {r: f"model.layers.{layer}.self_attn.{r}_proj.weight" for r in "qkvo"}
        written = state[names["o"]].reshape(config.hidden_size, old, -1).norm(dim=(0, 2))
        chosen = written.topk(groups).indices.sort().values
        for role, name in names.items():
            if role == "o":
                parts = state[name].T.reshape(old, -1, config.hidden_size)[chosen]
                state[name] = parts.flatten(0, 1).T.contiguous()
            else:
                state[name] = state[name].reshape(old, -1, config.hidden_size)[chosen].flatten(0, 1)
    return _filled(model, config, state)


def replace_vocabulary(
    model: PreTrainedModel, size: int, ends: tuple[int, int], seed: int
) -> PreTrainedModel:
    """The same blocks with random embeddings of the old standard deviation.

    Args:
        model: with tied or untied embeddings.
        size: number of tokens in the new vocabulary.
        ends: ids of the tokens that begin and end a text.
        seed: for the new rows.
    """
    config = copy.deepcopy(model.config)
    config.vocab_size, (config.bos_token_id, config.eos_token_id) = size, ends
    fresh: PreTrainedModel = type(model)(config)
    body = {k: t for k, t in model.state_dict().items() if not k.endswith(TABLES)}
    fresh.load_state_dict(body, strict=False)
    generator = torch.Generator().manual_seed(seed)
    scale = float(model.get_input_embeddings().weight.detach().std())
    for table in tables_of(fresh):
        table.data = scale * torch.randn(table.shape, generator=generator)
    return fresh


def tables_of(model: PreTrainedModel) -> list[torch.nn.Parameter]:
    """The embeddings and, if it is not tied to them, the output matrix."""
    tables = [model.get_input_embeddings().weight, model.get_output_embeddings().weight]
    return tables[:1] if tables[0] is tables[1] else tables
