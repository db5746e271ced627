"""Another model that runs beside a model's own parts, in dimensions of its own that nothing reads.

Both share their norms. So the other part is kept to a fifth of the stream, and the gains make up
for what it adds to the stream's length on average over texts that the model writes itself.
"""

from functools import partial
from typing import Any

import torch
from torch import Generator, Tensor

from huref.attacks.blocks import READERS, WRITERS, EditableBlock
from huref.attacks.disguised_vocabulary import shared_ids
from huref.attacks.editable import Editable
from huref.attacks.framing import require_same, width_of
from huref.attacks.padding import set_heads, set_units
from huref.attacks.running import first_token, load_network, write_texts
from huref.errors import AttackError

FIFTH = 0.2  # the other part of the stream, in units of the model's own
TEXTS, TOKENS = 16, 48  # on which sizes are measured
TRIES = 12  # in which a block's writing is reduced


def add_parasite(model: Editable, generator: Generator, other: Editable) -> None:
    """Let the other model run in dimensions of its own, at a fifth of the stream at most.

    Embeddings, heads and units of both stand side by side. Nothing that the other part computes
    reaches the output.
    """
    count = len(model.blocks)
    require_same(model, other, "numbers of blocks", count, len(other.blocks))
    sizes = [(m.blocks[0].weights["q"].shape[1] // m.heads, m.heads // m.blocks[0].kv_heads)
             for m in (model, other)]  # fmt: skip
    require_same(model, other, "heads", *sizes)
    width, extra = width_of(model), width_of(other)
    scale = (width / (width + extra)) ** 0.5
    ids = shared_ids(model.tokenizer, other.tokenizer)
    if len(ids) < len(model.embedding) // 2:
        raise AttackError("the two vocabularies have too little in common", model=other.model)
    network = load_network(model, "parasite")
    texts = write_texts(network, first_token(model), TEXTS, TOKENS, generator)
    # Sizes in the stream are compared in units of each model's embeddings.
    size = float(model.embedding.square().mean().sqrt() / other.embedding.square().mean().sqrt())
    share = FIFTH * size
    rows = torch.zeros(len(model.embedding), extra, dtype=torch.float64)
    rows[list(ids)] = other.embedding[list(ids.values())] * share
    model.untie()
    model.embedding = torch.cat([model.embedding, rows], 1)
    zeros = torch.zeros(len(model.head), extra, dtype=torch.float64)
    model.head = torch.cat([model.head, zeros], 1)
    model.gain = torch.cat([model.gain * scale, torch.ones(extra, dtype=torch.float64)])
    for block, theirs in zip(model.blocks, other.blocks, strict=True):
        _join(block, theirs, scale, share)
    model.config["head_dim"] = sizes[0][0]
    model.config["hidden_size"] = width + extra
    model.config["rms_norm_eps"] = float(model.config["rms_norm_eps"]) * scale**2
    set_heads(model)
    set_units(model)
    _keep_small(model, width, texts)


def _join(block: EditableBlock, theirs: EditableBlock, scale: float, share: float) -> None:
    """Set another block beside a block, in dimensions of its own that hold `share` of its values.

    The common norm divides both by the size of the first, so the gains of the second part undo
    `share`.
    """
    for role in (*READERS["attention"], *READERS["ffn"]):
        if role in block.weights:
            block.weights[role] = _block_diagonal(block.weights[role], theirs.weights[role])
    for role in WRITERS:
        block.weights[role] = _block_diagonal(block.weights[role], theirs.weights[role] * share)
    for place in ("attention", "ffn"):
        gains = (block.gains[place] * scale, theirs.gains[place] * scale / FIFTH)
        block.gains[place] = torch.cat(gains)
    block.kv_heads += theirs.kv_heads


def _keep_small(model: Editable, width: int, texts: Tensor) -> None:
    """Reduce what the other part writes to a fifth of the stream, and make up for it in the gains.

    Each block is run alone until it is quiet enough, within one pass over the texts.

    Args:
        model: both parts.
        width: of the model's own part.
        texts: ids (texts, tokens).
    """
    network = load_network(model, "parasite")
    sizes: dict[Any, float] = {}

    def share(stream: Tensor) -> float:
        """Energy of the other part over that of the model's own."""
        own, rest = (x.square().sum(-1) for x in stream.tensor_split([width], dim=-1))
        return float((rest / own).mean())

    def note(norm: Any, inputs: tuple[Tensor, ...]) -> None:
        sizes[norm] = share(inputs[0])

    def reduce(block: EditableBlock, layer: Any, inputs: Any, settings: Any) -> None:
        writers = {"o": layer.self_attn.o_proj, "down": layer.mlp.down_proj}
        for _ in range(TRIES):
            written = layer.forward(*inputs, **settings)
            stream = written[0] if isinstance(written, tuple) else written
            largest = max(share(stream), sizes[layer.post_attention_layernorm]) ** 0.5
            if largest <= 1.05 * FIFTH:
                break
            factor = max(FIFTH / largest, 0.5)
            for role, module in writers.items():
                module.weight[width:] *= factor
                block.weights[role][:, width:] *= factor

    handles = [network.model.norm.register_forward_pre_hook(note)]
    for layer, block in zip(network.model.layers, model.blocks, strict=True):
        for norm in (layer.input_layernorm, layer.post_attention_layernorm):
            handles.append(norm.register_forward_pre_hook(note))
        handles.append(layer.register_forward_pre_hook(partial(reduce, block), with_kwargs=True))
    with torch.no_grad():
        network(texts, use_cache=False)
    for handle in handles:
        handle.remove()
    for layer, block in zip(network.model.layers, model.blocks, strict=True):
        block.gains["attention"][:width] *= (1 + sizes[layer.input_layernorm]) ** 0.5
        block.gains["ffn"][:width] *= (1 + sizes[layer.post_attention_layernorm]) ** 0.5
    model.gain[:width] *= (1 + sizes[network.model.norm]) ** 0.5


def _block_diagonal(first: Tensor, second: Tensor) -> Tensor:
    """Two matrices in the corners of one, zeros elsewhere."""
    (a, b), (c, d) = first.shape, second.shape
    joined = first.new_zeros(a + c, b + d)
    joined[:a, :b], joined[a:, b:] = first, second
    return joined
