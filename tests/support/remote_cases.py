"""Reference layers of families whose code is in their own repositories, not in transformers.

Their modules cannot be run here, because remote code is not trusted. Each layer's arithmetic is
therefore reimplemented from its published modelling code and config, head by head and without
huref's own splitting code. This is a weaker test than the real module: an error in this file would
go unnoticed. Families with Llama's arithmetic and another model_type are compared with the real
Llama module, with the model_type in config.json replaced.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

Weights = dict[str, Tensor]
HeadRows = list[Tensor]  # (m, head_dim) for each head

D, HEADS, GROUPS, HEAD_DIM, HIDDEN, VOCABULARY = 48, 6, 2, 8, 40, 64
PER_GROUP = HEADS // GROUPS


@dataclass(frozen=True)
class RemoteCase:
    """config.json, the shapes of block 0's tensors, and what the block computes.

    Attributes:
        embedding, block, norms, o: names of the embedding, of the block (its prefix), and of the
            norms and o inside it.
        heads: queries, keys and values by head, of rows to which the norm's gain is applied.
        ffn: the feed-forward network's output, of rows to which the norm's gain is applied.
        layernorm: the norms subtract the mean.
    """

    config: dict[str, Any]
    embedding: str
    block: str
    shapes: dict[str, tuple[int, ...]]
    norms: tuple[str, str]
    o: str
    heads: Callable[[Weights, Tensor], tuple[HeadRows, HeadRows, HeadRows]]
    ffn: Callable[[Weights, Tensor], Tensor]
    layernorm: bool = False


def _cut(rows: Tensor, size: int) -> HeadRows:
    return [rows[:, i : i + size] for i in range(0, rows.shape[1], size)]


def _shared(heads: HeadRows, times: int) -> HeadRows:
    return [head for head in heads for _ in range(times)]


def contiguous_heads(name: str, groups: int) -> Callable[[Weights, Tensor], Any]:
    """[all queries | all keys | all values], the split of ChatGLM2, Qwen 1 and Baichuan."""

    def heads(w: Weights, x: Tensor) -> tuple[HeadRows, HeadRows, HeadRows]:
        rows = _cut(x @ w[name].T, HEAD_DIM)
        q, k, v = rows[:HEADS], rows[HEADS : HEADS + groups], rows[HEADS + groups :]
        return q, _shared(k, HEADS // groups), _shared(v, HEADS // groups)

    return heads


def heads_by_group(name: str, groups: int) -> Callable[[Weights, Tensor], Any]:
    """Per key-value head its queries, key and value, the split of InternLM2 and Falcon."""

    def heads(w: Weights, x: Tensor) -> tuple[HeadRows, HeadRows, HeadRows]:
        rows, per_group = _cut(x @ w[name].T, HEAD_DIM), HEADS // groups
        q: HeadRows = []
        k: HeadRows = []
        v: HeadRows = []
        for start in range(0, len(rows), per_group + 2):
            q += rows[start : start + per_group]
            k += [rows[start + per_group]] * per_group
            v += [rows[start + per_group + 1]] * per_group
        return q, k, v

    return heads


def separate_heads(q: str, k: str, v: str) -> Callable[[Weights, Tensor], Any]:
    def heads(w: Weights, x: Tensor) -> tuple[HeadRows, HeadRows, HeadRows]:
        queries, keys, values = (_cut(x @ w[name].T, HEAD_DIM) for name in (q, k, v))
        return queries, _shared(keys, PER_GROUP), _shared(values, PER_GROUP)

    return heads


def gated(gate: str, up: str, down: str) -> Callable[[Weights, Tensor], Tensor]:
    return lambda w, x: ((x @ w[gate].T) * (x @ w[up].T)) @ w[down].T


def halves(fused: str, down: str) -> Callable[[Weights, Tensor], Tensor]:
    return lambda w, x: ((x @ w[fused].T)[:, :HIDDEN] * (x @ w[fused].T)[:, HIDDEN:]) @ w[down].T


def ungated(up: str, down: str) -> Callable[[Weights, Tensor], Tensor]:
    return lambda w, x: x @ w[up].T @ w[down].T


ALL, FEW = HEADS * HEAD_DIM, GROUPS * HEAD_DIM
COMMON = {"hidden_size": D, "num_hidden_layers": 1, "vocab_size": VOCABULARY}
HEADED = COMMON | {"num_attention_heads": HEADS}

FALCON: dict[str, Any] = {
    "embedding": "transformer.word_embeddings.weight",
    "block": "transformer.h.0.",
    "o": "self_attention.dense.weight",
    "ffn": ungated("mlp.dense_h_to_4h.weight", "mlp.dense_4h_to_h.weight"),
    "layernorm": True,
}
FALCON_FFN = {
    "self_attention.dense.weight": (D, ALL),
    "mlp.dense_h_to_4h.weight": (HIDDEN, D),
    "mlp.dense_4h_to_h.weight": (D, HIDDEN),
}

REMOTE_CASES: dict[str, RemoteCase] = {
    "baichuan": RemoteCase(
        config=HEADED,
        embedding="model.embed_tokens.weight",
        block="model.layers.0.",
        shapes={
            "self_attn.W_pack.weight": (3 * ALL, D),
            "self_attn.o_proj.weight": (D, ALL),
            "mlp.gate_proj.weight": (HIDDEN, D),
            "mlp.up_proj.weight": (HIDDEN, D),
            "mlp.down_proj.weight": (D, HIDDEN),
        },
        norms=("input_layernorm.weight", "post_attention_layernorm.weight"),
        o="self_attn.o_proj.weight",
        heads=contiguous_heads("self_attn.W_pack.weight", HEADS),
        ffn=gated("mlp.gate_proj.weight", "mlp.up_proj.weight", "mlp.down_proj.weight"),
    ),
    "internlm2": RemoteCase(
        config=HEADED | {"num_key_value_heads": GROUPS},
        embedding="model.tok_embeddings.weight",
        block="model.layers.0.",
        shapes={
            "attention.wqkv.weight": (ALL + 2 * FEW, D),
            "attention.wo.weight": (D, ALL),
            "feed_forward.w1.weight": (HIDDEN, D),
            "feed_forward.w3.weight": (HIDDEN, D),
            "feed_forward.w2.weight": (D, HIDDEN),
        },
        norms=("attention_norm.weight", "ffn_norm.weight"),
        o="attention.wo.weight",
        heads=heads_by_group("attention.wqkv.weight", GROUPS),
        ffn=gated("feed_forward.w1.weight", "feed_forward.w3.weight", "feed_forward.w2.weight"),
    ),
    "qwen": RemoteCase(
        config=HEADED | {"kv_channels": HEAD_DIM},
        embedding="transformer.wte.weight",
        block="transformer.h.0.",
        shapes={
            "attn.c_attn.weight": (3 * ALL, D),
            "attn.c_proj.weight": (D, ALL),
            "mlp.w1.weight": (HIDDEN, D),
            "mlp.w2.weight": (HIDDEN, D),
            "mlp.c_proj.weight": (D, HIDDEN),
        },
        norms=("ln_1.weight", "ln_2.weight"),
        o="attn.c_proj.weight",
        heads=contiguous_heads("attn.c_attn.weight", HEADS),
        ffn=gated("mlp.w2.weight", "mlp.w1.weight", "mlp.c_proj.weight"),
    ),
    "chatglm": RemoteCase(
        config={
            "hidden_size": D, "num_layers": 1, "num_attention_heads": HEADS,
            "multi_query_attention": True, "multi_query_group_num": GROUPS,
            "kv_channels": HEAD_DIM, "padded_vocab_size": VOCABULARY, "rmsnorm": True,
        },
        embedding="transformer.embedding.word_embeddings.weight",
        block="transformer.encoder.layers.0.",
        shapes={
            "self_attention.query_key_value.weight": (ALL + 2 * FEW, D),
            "self_attention.dense.weight": (D, ALL),
            "mlp.dense_h_to_4h.weight": (2 * HIDDEN, D),
            "mlp.dense_4h_to_h.weight": (D, HIDDEN),
        },
        norms=("input_layernorm.weight", "post_attention_layernorm.weight"),
        o="self_attention.dense.weight",
        heads=contiguous_heads("self_attention.query_key_value.weight", GROUPS),
        ffn=halves("mlp.dense_h_to_4h.weight", "mlp.dense_4h_to_h.weight"),
    ),
    "exaone": RemoteCase(
        config={
            "hidden_size": D, "num_layers": 1, "num_attention_heads": HEADS,
            "num_key_value_heads": GROUPS, "head_dim": HEAD_DIM,
        },
        embedding="transformer.wte.weight",
        block="transformer.h.0.",
        shapes={
            "attn.attention.q_proj.weight": (ALL, D),
            "attn.attention.k_proj.weight": (FEW, D),
            "attn.attention.v_proj.weight": (FEW, D),
            "attn.attention.out_proj.weight": (D, ALL),
            "mlp.c_fc_0.weight": (HIDDEN, D),
            "mlp.c_fc_1.weight": (HIDDEN, D),
            "mlp.c_proj.weight": (D, HIDDEN),
        },
        norms=("ln_1.weight", "ln_2.weight"),
        o="attn.attention.out_proj.weight",
        heads=separate_heads(*(f"attn.attention.{role}_proj.weight" for role in "qkv")),
        ffn=gated("mlp.c_fc_0.weight", "mlp.c_fc_1.weight", "mlp.c_proj.weight"),
    ),
    # Falcon's first checkpoints, published before transformers supported them.
    "RefinedWebModel": RemoteCase(  # 7B: one key-value head
        config={
            "hidden_size": D, "n_layer": 1, "n_head": HEADS, "multi_query": True,
        },
        shapes={"self_attention.query_key_value.weight": (ALL + 2 * HEAD_DIM, D), **FALCON_FFN},
        norms=("input_layernorm.weight", "input_layernorm.weight"),
        heads=heads_by_group("self_attention.query_key_value.weight", 1),
        **FALCON,
    ),
    "RefinedWeb": RemoteCase(  # 40B: groups
        config={
            "hidden_size": D, "n_layer": 1, "n_head": HEADS, "n_head_kv": GROUPS,
        },
        shapes={"self_attention.query_key_value.weight": (ALL + 2 * FEW, D), **FALCON_FFN},
        norms=("ln_attn.weight", "ln_mlp.weight"),
        heads=heads_by_group("self_attention.query_key_value.weight", GROUPS),
        **FALCON,
    ),
}  # fmt: skip

# model_type -> the model_type in `architecture_cases.CASES` with the same arithmetic and names.
RENAMED = {
    "internlm": "llama",
    "internlm3": "llama",
    "iquestcoder": "llama",
    "minicpm": "llama",
    "deepseek": "ernie4_5_moe",
}


def random_checkpoint(case: RemoteCase) -> Weights:
    """All tensors of a model with one block, float32, by their published names."""
    generator = torch.Generator().manual_seed(0)
    tensors = {case.embedding: torch.randn(VOCABULARY, D, generator=generator)}
    for name, shape in case.shapes.items():
        tensors[case.block + name] = torch.randn(shape, generator=generator) / shape[1] ** 0.5
    for name in case.norms:
        tensors[case.block + name] = 0.5 + torch.rand(D, generator=generator)
    return tensors


def reference_terms(case: RemoteCase, tensors: Weights, E: Tensor) -> list[Tensor]:
    """qk, vo and ffn of block 0 on rows E (m, d) float64, head by head."""
    w = {
        name.removeprefix(case.block): tensor.double()
        for name, tensor in tensors.items()
        if name.startswith(case.block)
    }
    rows = E - E.mean(dim=1, keepdim=True) if case.layernorm else E
    queries, keys, values = case.heads(w, rows * w[case.norms[0]])
    qk = sum((q @ k.T for q, k in zip(queries, keys, strict=True)), torch.zeros(1).double())
    o = w[case.o]
    written = sum(
        (v @ o[:, i * HEAD_DIM : (i + 1) * HEAD_DIM].T for i, v in enumerate(values)),
        torch.zeros(1).double(),
    )
    return [qk, written @ rows.T, case.ffn(w, rows * w[case.norms[1]]) @ rows.T]
