"""Tables from GGUF's names of tensors and settings to those of published checkpoints.

GGUF uses the same tensor names for all architectures; the published names differ by architecture.
{i} is the block and {e} the expert. The suffixes `.weight` and `.bias` are the same in both.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

LLAMA: Mapping[str, str] = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
    "blk.{i}.attn_norm": "model.layers.{i}.input_layernorm",
    "blk.{i}.attn_q": "model.layers.{i}.self_attn.q_proj",
    "blk.{i}.attn_k": "model.layers.{i}.self_attn.k_proj",
    "blk.{i}.attn_v": "model.layers.{i}.self_attn.v_proj",
    "blk.{i}.attn_output": "model.layers.{i}.self_attn.o_proj",
    "blk.{i}.attn_q_norm": "model.layers.{i}.self_attn.q_norm",
    "blk.{i}.attn_k_norm": "model.layers.{i}.self_attn.k_norm",
    "blk.{i}.ffn_norm": "model.layers.{i}.post_attention_layernorm",
    "blk.{i}.ffn_gate": "model.layers.{i}.mlp.gate_proj",
    "blk.{i}.ffn_up": "model.layers.{i}.mlp.up_proj",
    "blk.{i}.ffn_down": "model.layers.{i}.mlp.down_proj",
    "blk.{i}.ffn_gate_inp": "model.layers.{i}.mlp.gate",
    "blk.{i}.exp_probs_b.bias": "model.layers.{i}.mlp.gate.e_score_correction_bias",
    "blk.{i}.ffn_gate_exps.{e}": "model.layers.{i}.mlp.experts.{e}.gate_proj",
    "blk.{i}.ffn_up_exps.{e}": "model.layers.{i}.mlp.experts.{e}.up_proj",
    "blk.{i}.ffn_down_exps.{e}": "model.layers.{i}.mlp.experts.{e}.down_proj",
}
SHARED_EXPERT = {
    "blk.{i}.ffn_gate_inp_shexp": "model.layers.{i}.mlp.shared_expert_gate",
    "blk.{i}.ffn_gate_shexp": "model.layers.{i}.mlp.shared_expert.gate_proj",
    "blk.{i}.ffn_up_shexp": "model.layers.{i}.mlp.shared_expert.up_proj",
    "blk.{i}.ffn_down_shexp": "model.layers.{i}.mlp.shared_expert.down_proj",
}
SANDWICH = {
    "blk.{i}.post_attention_norm": "model.layers.{i}.post_attention_layernorm",
    "blk.{i}.ffn_norm": "model.layers.{i}.pre_feedforward_layernorm",
    "blk.{i}.post_ffw_norm": "model.layers.{i}.post_feedforward_layernorm",
}
MIXTRAL = {
    "blk.{i}.ffn_gate_inp": "model.layers.{i}.block_sparse_moe.gate",
    "blk.{i}.exp_probs_b.bias": "model.layers.{i}.block_sparse_moe.e_score_correction_bias",
    "blk.{i}.ffn_gate_exps.{e}": "model.layers.{i}.block_sparse_moe.experts.{e}.w1",
    "blk.{i}.ffn_down_exps.{e}": "model.layers.{i}.block_sparse_moe.experts.{e}.w2",
    "blk.{i}.ffn_up_exps.{e}": "model.layers.{i}.block_sparse_moe.experts.{e}.w3",
}
DEEPSEEK = {
    "blk.{i}.attn_q_a": "model.layers.{i}.self_attn.q_a_proj",
    "blk.{i}.attn_q_b": "model.layers.{i}.self_attn.q_b_proj",
    "blk.{i}.attn_q_a_norm": "model.layers.{i}.self_attn.q_a_layernorm",
    "blk.{i}.attn_kv_a_mqa": "model.layers.{i}.self_attn.kv_a_proj_with_mqa",
    "blk.{i}.attn_kv_b": "model.layers.{i}.self_attn.kv_b_proj",
    "blk.{i}.attn_kv_a_norm": "model.layers.{i}.self_attn.kv_a_layernorm",
    "blk.{i}.ffn_gate_shexp": "model.layers.{i}.mlp.shared_experts.gate_proj",
    "blk.{i}.ffn_up_shexp": "model.layers.{i}.mlp.shared_experts.up_proj",
    "blk.{i}.ffn_down_shexp": "model.layers.{i}.mlp.shared_experts.down_proj",
}
GPT2 = {
    "token_embd": "transformer.wte",
    "position_embd": "transformer.wpe",
    "output_norm": "transformer.ln_f",
    "output": "lm_head",
    "blk.{i}.attn_norm": "transformer.h.{i}.ln_1",
    "blk.{i}.attn_qkv": "transformer.h.{i}.attn.c_attn",
    "blk.{i}.attn_output": "transformer.h.{i}.attn.c_proj",
    "blk.{i}.ffn_norm": "transformer.h.{i}.ln_2",
    "blk.{i}.ffn_up": "transformer.h.{i}.mlp.c_fc",
    "blk.{i}.ffn_down": "transformer.h.{i}.mlp.c_proj",
}
NEOX = {
    "token_embd": "gpt_neox.embed_in",
    "output_norm": "gpt_neox.final_layer_norm",
    "output": "embed_out",
    "blk.{i}.attn_norm": "gpt_neox.layers.{i}.input_layernorm",
    "blk.{i}.attn_qkv": "gpt_neox.layers.{i}.attention.query_key_value",
    "blk.{i}.attn_output": "gpt_neox.layers.{i}.attention.dense",
    "blk.{i}.ffn_norm": "gpt_neox.layers.{i}.post_attention_layernorm",
    "blk.{i}.ffn_up": "gpt_neox.layers.{i}.mlp.dense_h_to_4h",
    "blk.{i}.ffn_down": "gpt_neox.layers.{i}.mlp.dense_4h_to_h",
}
BLOOM = {
    "token_embd": "transformer.word_embeddings",
    "token_embd_norm": "transformer.word_embeddings_layernorm",
    "output_norm": "transformer.ln_f",
    "output": "lm_head",
    "blk.{i}.attn_norm": "transformer.h.{i}.input_layernorm",
    "blk.{i}.attn_qkv": "transformer.h.{i}.self_attention.query_key_value",
    "blk.{i}.attn_output": "transformer.h.{i}.self_attention.dense",
    "blk.{i}.ffn_norm": "transformer.h.{i}.post_attention_layernorm",
    "blk.{i}.ffn_up": "transformer.h.{i}.mlp.dense_h_to_4h",
    "blk.{i}.ffn_down": "transformer.h.{i}.mlp.dense_4h_to_h",
}
MPT = {
    "token_embd": "transformer.wte",
    "output_norm": "transformer.norm_f",
    "blk.{i}.attn_norm": "transformer.blocks.{i}.norm_1",
    "blk.{i}.attn_qkv": "transformer.blocks.{i}.attn.Wqkv",
    "blk.{i}.attn_output": "transformer.blocks.{i}.attn.out_proj",
    "blk.{i}.ffn_norm": "transformer.blocks.{i}.norm_2",
    "blk.{i}.ffn_up": "transformer.blocks.{i}.ffn.up_proj",
    "blk.{i}.ffn_down": "transformer.blocks.{i}.ffn.down_proj",
}


DBRX = {
    "token_embd": "transformer.wte",
    "output_norm": "transformer.norm_f",
    "output": "lm_head",
    "blk.{i}.attn_norm": "transformer.blocks.{i}.norm_attn_norm.norm_1",
    "blk.{i}.attn_output_norm": "transformer.blocks.{i}.norm_attn_norm.norm_2",
    "blk.{i}.attn_qkv": "transformer.blocks.{i}.norm_attn_norm.attn.Wqkv",
    "blk.{i}.attn_output": "transformer.blocks.{i}.norm_attn_norm.attn.out_proj",
    "blk.{i}.ffn_gate_inp": "transformer.blocks.{i}.ffn.router.layer",
    "blk.{i}.ffn_gate_exps.{e}": "transformer.blocks.{i}.ffn.experts.{e}.gate_proj",
    "blk.{i}.ffn_up_exps.{e}": "transformer.blocks.{i}.ffn.experts.{e}.up_proj",
    "blk.{i}.ffn_down_exps.{e}": "transformer.blocks.{i}.ffn.experts.{e}.down_proj",
}
# The norm before the feed-forward network, in files of these architectures named after attention.
LATE_NORM = {"blk.{i}.post_attention_norm": "model.layers.{i}.post_attention_layernorm"}
SHARED_EXPERTS = {
    "blk.{i}.ffn_gate_shexp": "model.layers.{i}.mlp.shared_experts.gate_proj",
    "blk.{i}.ffn_up_shexp": "model.layers.{i}.mlp.shared_experts.up_proj",
    "blk.{i}.ffn_down_shexp": "model.layers.{i}.mlp.shared_experts.down_proj",
}
FUSED_EXPERTS = {"blk.{i}.ffn_gate_up_exps.{e}": "model.layers.{i}.mlp.experts.{e}.gate_up_proj"}
NORMS_AFTER = {
    "blk.{i}.post_attention_norm": "model.layers.{i}.post_attention_layernorm",
    "blk.{i}.post_ffw_norm": "model.layers.{i}.post_feedforward_layernorm",
}
GEMMA4 = {
    **SANDWICH,
    "blk.{i}.pre_ffw_norm_2": "model.layers.{i}.pre_feedforward_layernorm_2",
    "blk.{i}.post_ffw_norm_1": "model.layers.{i}.post_feedforward_layernorm_1",
    "blk.{i}.post_ffw_norm_2": "model.layers.{i}.post_feedforward_layernorm_2",
    "blk.{i}.ffn_gate_inp": "model.layers.{i}.router.proj",
    "blk.{i}.ffn_gate_up_exps.{e}": "model.layers.{i}.experts.{e}.gate_up_proj",
    "blk.{i}.ffn_gate_exps.{e}": "model.layers.{i}.experts.{e}.gate_proj",
    "blk.{i}.ffn_up_exps.{e}": "model.layers.{i}.experts.{e}.up_proj",
    "blk.{i}.ffn_down_exps.{e}": "model.layers.{i}.experts.{e}.down_proj",
    "blk.{i}.ffn_down_exps.scale": "model.layers.{i}.router.per_expert_scale",
}
FEED_FORWARD = {
    "blk.{i}.ffn_gate": "model.layers.{i}.feed_forward.gate_proj",
    "blk.{i}.ffn_up": "model.layers.{i}.feed_forward.up_proj",
    "blk.{i}.ffn_down": "model.layers.{i}.feed_forward.down_proj",
    "blk.{i}.ffn_gate_inp": "model.layers.{i}.feed_forward.router",
    "blk.{i}.ffn_gate_exps.{e}": "model.layers.{i}.feed_forward.experts.{e}.gate_proj",
    "blk.{i}.ffn_up_exps.{e}": "model.layers.{i}.feed_forward.experts.{e}.up_proj",
    "blk.{i}.ffn_down_exps.{e}": "model.layers.{i}.feed_forward.experts.{e}.down_proj",
    "blk.{i}.ffn_gate_shexp": "model.layers.{i}.feed_forward.shared_expert.gate_proj",
    "blk.{i}.ffn_up_shexp": "model.layers.{i}.feed_forward.shared_expert.up_proj",
    "blk.{i}.ffn_down_shexp": "model.layers.{i}.feed_forward.shared_expert.down_proj",
}
HYBRID = {**FEED_FORWARD, "blk.{i}.ffn_norm": "model.layers.{i}.pre_ff_layernorm"}
LFM2 = {
    "token_embd_norm": "model.embedding_norm",
    "blk.{i}.attn_norm": "model.layers.{i}.operator_norm",
    "blk.{i}.ffn_norm": "model.layers.{i}.ffn_norm",
    "blk.{i}.attn_output": "model.layers.{i}.self_attn.out_proj",
    "blk.{i}.attn_q_norm": "model.layers.{i}.self_attn.q_layernorm",
    "blk.{i}.attn_k_norm": "model.layers.{i}.self_attn.k_layernorm",
    "blk.{i}.ffn_gate": "model.layers.{i}.feed_forward.w1",
    "blk.{i}.ffn_up": "model.layers.{i}.feed_forward.w3",
    "blk.{i}.ffn_down": "model.layers.{i}.feed_forward.w2",
    "blk.{i}.ffn_gate_inp": "model.layers.{i}.feed_forward.gate",
    "blk.{i}.exp_probs_b.bias": "model.layers.{i}.feed_forward.expert_bias",
    "blk.{i}.ffn_gate_exps.{e}": "model.layers.{i}.feed_forward.experts.{e}.w1",
    "blk.{i}.ffn_up_exps.{e}": "model.layers.{i}.feed_forward.experts.{e}.w3",
    "blk.{i}.ffn_down_exps.{e}": "model.layers.{i}.feed_forward.experts.{e}.w2",
}
EXAONE = {
    "token_embd": "transformer.wte",
    "output_norm": "transformer.ln_f",
    "output": "lm_head",
    "blk.{i}.attn_norm": "transformer.h.{i}.ln_1",
    "blk.{i}.attn_q": "transformer.h.{i}.attn.attention.q_proj",
    "blk.{i}.attn_k": "transformer.h.{i}.attn.attention.k_proj",
    "blk.{i}.attn_v": "transformer.h.{i}.attn.attention.v_proj",
    "blk.{i}.attn_output": "transformer.h.{i}.attn.attention.out_proj",
    "blk.{i}.ffn_norm": "transformer.h.{i}.ln_2",
    "blk.{i}.ffn_gate": "transformer.h.{i}.mlp.c_fc_0",
    "blk.{i}.ffn_up": "transformer.h.{i}.mlp.c_fc_1",
    "blk.{i}.ffn_down": "transformer.h.{i}.mlp.c_proj",
}
QWEN = {
    **EXAONE,
    "blk.{i}.attn_qkv": "transformer.h.{i}.attn.c_attn",
    "blk.{i}.attn_output": "transformer.h.{i}.attn.c_proj",
    "blk.{i}.ffn_gate": "transformer.h.{i}.mlp.w2",
    "blk.{i}.ffn_up": "transformer.h.{i}.mlp.w1",
}
CHATGLM = {
    "token_embd": "transformer.embedding.word_embeddings",
    "output_norm": "transformer.encoder.final_layernorm",
    "output": "transformer.output_layer",
    "blk.{i}.attn_norm": "transformer.encoder.layers.{i}.input_layernorm",
    "blk.{i}.attn_qkv": "transformer.encoder.layers.{i}.self_attention.query_key_value",
    "blk.{i}.attn_output": "transformer.encoder.layers.{i}.self_attention.dense",
    "blk.{i}.ffn_norm": "transformer.encoder.layers.{i}.post_attention_layernorm",
    "blk.{i}.ffn_up": "transformer.encoder.layers.{i}.mlp.dense_h_to_4h",
    "blk.{i}.ffn_down": "transformer.encoder.layers.{i}.mlp.dense_4h_to_h",
}
NEMOTRON_H = {
    "token_embd": "backbone.embeddings",
    "output_norm": "backbone.norm_f",
    "output": "lm_head",
    "blk.{i}.attn_norm": "backbone.layers.{i}.norm",
    "blk.{i}.attn_q": "backbone.layers.{i}.mixer.q_proj",
    "blk.{i}.attn_k": "backbone.layers.{i}.mixer.k_proj",
    "blk.{i}.attn_v": "backbone.layers.{i}.mixer.v_proj",
    "blk.{i}.attn_output": "backbone.layers.{i}.mixer.o_proj",
    "blk.{i}.ffn_up": "backbone.layers.{i}.mixer.up_proj",
    "blk.{i}.ffn_down": "backbone.layers.{i}.mixer.down_proj",
    "blk.{i}.ffn_gate_inp": "backbone.layers.{i}.mixer.gate",
    "blk.{i}.exp_probs_b.bias": "backbone.layers.{i}.mixer.gate.e_score_correction_bias",
    "blk.{i}.ffn_up_exps.{e}": "backbone.layers.{i}.mixer.experts.{e}.up_proj",
    "blk.{i}.ffn_down_exps.{e}": "backbone.layers.{i}.mixer.experts.{e}.down_proj",
    "blk.{i}.ffn_up_shexp": "backbone.layers.{i}.mixer.shared_experts.up_proj",
    "blk.{i}.ffn_down_shexp": "backbone.layers.{i}.mixer.shared_experts.down_proj",
}
GRANITE_SHARED = {
    "blk.{i}.ffn_gate_shexp": "model.layers.{i}.shared_mlp.gate_proj",
    "blk.{i}.ffn_up_shexp": "model.layers.{i}.shared_mlp.up_proj",
    "blk.{i}.ffn_down_shexp": "model.layers.{i}.shared_mlp.output_linear",
}
GRANITE_HYBRID = {
    **GRANITE_SHARED,
    "blk.{i}.ffn_gate": "model.layers.{i}.shared_mlp.gate_proj",
    "blk.{i}.ffn_up": "model.layers.{i}.shared_mlp.up_proj",
    "blk.{i}.ffn_down": "model.layers.{i}.shared_mlp.output_linear",
}
KIMI = {
    "blk.{i}.ffn_gate_inp": "model.layers.{i}.block_sparse_moe.gate",
    "blk.{i}.exp_probs_b.bias": "model.layers.{i}.block_sparse_moe.e_score_correction_bias",
    "blk.{i}.ffn_gate_exps.{e}": "model.layers.{i}.block_sparse_moe.experts.{e}.w1",
    "blk.{i}.ffn_down_exps.{e}": "model.layers.{i}.block_sparse_moe.experts.{e}.w2",
    "blk.{i}.ffn_up_exps.{e}": "model.layers.{i}.block_sparse_moe.experts.{e}.w3",
    "blk.{i}.ffn_gate_shexp": "model.layers.{i}.block_sparse_moe.shared_experts.gate_proj",
    "blk.{i}.ffn_up_shexp": "model.layers.{i}.block_sparse_moe.shared_experts.up_proj",
    "blk.{i}.ffn_down_shexp": "model.layers.{i}.block_sparse_moe.shared_experts.down_proj",
}


@dataclass(frozen=True)
class GgufArchitecture:
    """How one architecture's GGUF files differ from its published checkpoints.

    Attributes:
        model_type: the `model_type` of the published config.json.
        names: GGUF name -> published name, without suffix.
        rotary_pairs: GGUF interleaves the two halves of the rows of q and k (rotary pairs).
        norms_plus_one: GGUF stores the RMSNorm gain 1 + w; published is w.
        transposed: roles of the matrices that are published as (in, out).
        fused_by_head: GGUF stores all of q, then k, then v; published is q, k, v head by head.
    """

    model_type: str
    names: Mapping[str, str] = field(default_factory=lambda: LLAMA)
    rotary_pairs: bool = False
    norms_plus_one: bool = False
    transposed: tuple[str, ...] = ()
    fused_by_head: bool = False

    @property
    def is_latent(self) -> bool:
        """Whether keys and values are read from a latent, so that heads have two parts."""
        return "blk.{i}.attn_kv_a_mqa" in self.names


_PERMUTED_LLAMA = GgufArchitecture("llama", rotary_pairs=True)
ARCHITECTURES: Mapping[str, GgufArchitecture] = {
    "llama": _PERMUTED_LLAMA,
    "mistral3": GgufArchitecture("mistral", rotary_pairs=True),
    # The converters of these rename and reorder tensors as for a Llama checkpoint.
    "internlm2": _PERMUTED_LLAMA,
    "baichuan": _PERMUTED_LLAMA,
    "xverse": _PERMUTED_LLAMA,
    "deci": _PERMUTED_LLAMA,
    "minicpm": GgufArchitecture("minicpm", rotary_pairs=True),
    "granite": GgufArchitecture("granite", rotary_pairs=True),
    "smollm3": GgufArchitecture("smollm3", rotary_pairs=True),
    "arcee": GgufArchitecture("arcee", rotary_pairs=True),
    "olmo": GgufArchitecture("olmo", rotary_pairs=True),
    "olmo2": GgufArchitecture(
        "olmo2",
        {**LLAMA, **{k: v for k, v in SANDWICH.items() if "ffn_norm" not in k}},
    ),
    "olmoe": GgufArchitecture("olmoe"),
    "qwen2": GgufArchitecture("qwen2"),
    "qwen2moe": GgufArchitecture("qwen2_moe", {**LLAMA, **SHARED_EXPERT}),
    "qwen3": GgufArchitecture("qwen3"),
    "qwen3moe": GgufArchitecture("qwen3_moe"),
    "gemma": GgufArchitecture("gemma", norms_plus_one=True),
    "gemma2": GgufArchitecture("gemma2", {**LLAMA, **SANDWICH}, norms_plus_one=True),
    "gemma3": GgufArchitecture("gemma3_text", {**LLAMA, **SANDWICH}, norms_plus_one=True),
    "phi2": GgufArchitecture(
        "phi",
        {
            **LLAMA,
            "output_norm": "model.final_layernorm",
            "blk.{i}.attn_output": "model.layers.{i}.self_attn.dense",
            "blk.{i}.ffn_up": "model.layers.{i}.mlp.fc1",
            "blk.{i}.ffn_down": "model.layers.{i}.mlp.fc2",
        },
    ),
    "phi3": GgufArchitecture(
        "phi3",
        {
            **LLAMA,
            "blk.{i}.attn_qkv": "model.layers.{i}.self_attn.qkv_proj",
            "blk.{i}.ffn_up": "model.layers.{i}.mlp.gate_up_proj",
        },
    ),
    "starcoder2": GgufArchitecture(
        "starcoder2",
        {
            **LLAMA,
            "blk.{i}.ffn_up": "model.layers.{i}.mlp.c_fc",
            "blk.{i}.ffn_down": "model.layers.{i}.mlp.c_proj",
        },
    ),
    "command-r": GgufArchitecture("cohere"),
    "cohere2": GgufArchitecture("cohere2"),
    "stablelm": GgufArchitecture(
        "stablelm",
        {
            **LLAMA,
            "blk.{i}.attn_q_norm": "model.layers.{i}.self_attn.q_layernorm",
            "blk.{i}.attn_k_norm": "model.layers.{i}.self_attn.k_layernorm",
        },
    ),
    "nemotron": GgufArchitecture("nemotron", norms_plus_one=True),
    "glm4": GgufArchitecture(
        "glm4",
        {
            **LLAMA,
            "blk.{i}.post_attention_norm": "model.layers.{i}.post_self_attn_layernorm",
            "blk.{i}.ffn_up": "model.layers.{i}.mlp.gate_up_proj",
            "blk.{i}.post_ffw_norm": "model.layers.{i}.post_mlp_layernorm",
        },
    ),
    "deepseek": GgufArchitecture("deepseek", {**LLAMA, **DEEPSEEK}),
    "deepseek2": GgufArchitecture("deepseek_v3", {**LLAMA, **DEEPSEEK}),
    "gpt2": GgufArchitecture(
        "gpt2", GPT2, transposed=("attn_qkv", "attn_output", "ffn_up", "ffn_down")
    ),
    "gptneox": GgufArchitecture("gpt_neox", NEOX, fused_by_head=True),
    "bloom": GgufArchitecture("bloom", BLOOM, fused_by_head=True),
    "falcon": GgufArchitecture("falcon", BLOOM, fused_by_head=True),
    "mpt": GgufArchitecture("mpt", MPT),
    "gpt-oss": GgufArchitecture("gpt_oss", {**LLAMA, **LATE_NORM}),
    "seed_oss": GgufArchitecture("seed_oss", {**LLAMA, **LATE_NORM}),
    "glm4moe": GgufArchitecture("glm4_moe", {**LLAMA, **LATE_NORM, **SHARED_EXPERTS}),
    "qwen2vl": GgufArchitecture("qwen2"),
    "qwen3vl": GgufArchitecture("qwen3"),
    "qwen3vlmoe": GgufArchitecture("qwen3_moe"),
    "qwen3next": GgufArchitecture(
        "qwen3_next",
        {**LLAMA, **LATE_NORM, **SHARED_EXPERT, **FUSED_EXPERTS},
        norms_plus_one=True,
    ),
    "qwen35": GgufArchitecture("qwen3_5_text", {**LLAMA, **LATE_NORM}, norms_plus_one=True),
    "qwen35moe": GgufArchitecture(
        "qwen3_5_moe_text",
        {**LLAMA, **LATE_NORM, **SHARED_EXPERT, **FUSED_EXPERTS},
        norms_plus_one=True,
    ),
    "gemma3n": GgufArchitecture("gemma3n_text", {**LLAMA, **SANDWICH}),
    "gemma4": GgufArchitecture("gemma4_text", {**LLAMA, **GEMMA4}),
    "llama4": GgufArchitecture("llama4_text", {**LLAMA, **FEED_FORWARD}),
    "exaone": GgufArchitecture("exaone", EXAONE),
    "exaone4": GgufArchitecture("exaone4", {**LLAMA, **NORMS_AFTER}),
    "exaone-moe": GgufArchitecture("exaone_moe", {**LLAMA, **SHARED_EXPERTS}),
    "ernie4_5": GgufArchitecture("ernie4_5"),
    "ernie4_5-moe": GgufArchitecture("ernie4_5_moe", {**LLAMA, **SHARED_EXPERTS}),
    "paddleocr": GgufArchitecture("ernie4_5"),
    "lfm2": GgufArchitecture("lfm2", {**LLAMA, **LFM2}),
    "lfm2moe": GgufArchitecture("lfm2_moe", {**LLAMA, **LFM2}),
    "hunyuan-dense": GgufArchitecture("hunyuan_v1_dense"),
    "hunyuan_vl": GgufArchitecture("hunyuan_v1_dense"),
    "hunyuan-moe": GgufArchitecture(
        "hunyuan_v1_moe",
        {
            **LLAMA,
            **{k: v.replace("shared_experts", "shared_mlp") for k, v in SHARED_EXPERTS.items()},
        },
    ),
    "minimax-m2": GgufArchitecture("minimax_m2"),
    "mimo2": GgufArchitecture("mimo_v2_flash"),
    "dots1": GgufArchitecture("dots1", {**LLAMA, **SHARED_EXPERTS}),
    "mistral4": GgufArchitecture("mistral4", {**LLAMA, **DEEPSEEK, **FUSED_EXPERTS}),
    "glm-dsa": GgufArchitecture("glm_moe_dsa", {**LLAMA, **DEEPSEEK}),
    "minicpm3": GgufArchitecture("minicpm3", {**LLAMA, **DEEPSEEK}),
    "kimi-linear": GgufArchitecture("kimi_linear", {**LLAMA, **DEEPSEEK, **KIMI}),
    "granitemoe": GgufArchitecture("granitemoe", {**LLAMA, **GRANITE_SHARED}, rotary_pairs=True),
    "granitehybrid": GgufArchitecture(
        "granitemoehybrid", {**LLAMA, **GRANITE_HYBRID}, rotary_pairs=True
    ),
    "jamba": GgufArchitecture("jamba", {**LLAMA, **HYBRID}),
    "falcon-h1": GgufArchitecture("falcon_h1", {**LLAMA, **HYBRID}),
    # Without rotary embedding, yet the converter reorders the rows as Granite's.
    "nemotron_h": GgufArchitecture("nemotron_h", NEMOTRON_H, rotary_pairs=True),
    "nemotron_h_moe": GgufArchitecture("nemotron_h", NEMOTRON_H, rotary_pairs=True),
    "apertus": GgufArchitecture(
        "apertus",
        {
            **LLAMA,
            "blk.{i}.attn_norm": "model.layers.{i}.attention_layernorm",
            "blk.{i}.ffn_norm": "model.layers.{i}.feedforward_layernorm",
        },
    ),
    "afmoe": GgufArchitecture(
        "afmoe",
        {
            **LLAMA,
            **SHARED_EXPERTS,
            "blk.{i}.post_attention_norm": "model.layers.{i}.post_attention_layernorm",
            "blk.{i}.ffn_norm": "model.layers.{i}.pre_mlp_layernorm",
            "blk.{i}.post_ffw_norm": "model.layers.{i}.post_mlp_layernorm",
        },
    ),
    "bitnet": GgufArchitecture(
        "bitnet",
        {
            **LLAMA,
            "blk.{i}.attn_sub_norm": "model.layers.{i}.self_attn.attn_sub_norm",
            "blk.{i}.ffn_sub_norm": "model.layers.{i}.mlp.ffn_sub_norm",
        },
    ),
    "phimoe": GgufArchitecture("phimoe", {**LLAMA, **MIXTRAL}),
    "jais2": GgufArchitecture("jais2"),
    "dbrx": GgufArchitecture("dbrx", DBRX),
    "starcoder": GgufArchitecture("gpt_bigcode", GPT2),
    "qwen": GgufArchitecture("qwen", QWEN),
    "chatglm": GgufArchitecture("chatglm", CHATGLM),
    # Diffusion and other models with the blocks of a known family.
    "dream": GgufArchitecture("qwen2"),
    "llada": _PERMUTED_LLAMA,
    "llada-moe": GgufArchitecture("olmoe"),
    "rnd1": GgufArchitecture("qwen3_moe"),
    "maincoder": GgufArchitecture("qwen3"),
    "pangu-embedded": GgufArchitecture("qwen2"),
    "refact": GgufArchitecture("llama"),
}
FALCON_40B = {
    "blk.{i}.attn_norm": "transformer.h.{i}.ln_mlp",
    "blk.{i}.attn_norm_2": "transformer.h.{i}.ln_attn",
}
MIXTRAL_ARCHITECTURE = GgufArchitecture("mixtral", {**LLAMA, **MIXTRAL}, rotary_pairs=True)

# GGUF setting, without its prefix "ARCHITECTURE.", and the corresponding keys of config.json.
SETTINGS: Mapping[str, tuple[str, ...]] = {
    "embedding_length": ("hidden_size", "n_embd", "d_model"),
    "feed_forward_length": ("intermediate_size", "n_inner"),
    "block_count": ("num_hidden_layers", "n_layer", "n_layers"),
    "attention.head_count": ("num_attention_heads", "n_head", "n_heads"),
    "attention.head_count_kv": (
        "num_key_value_heads",
        "num_kv_heads",
        "multi_query_group_num",
    ),
    "attention.key_length": ("head_dim", "kv_channels"),
    "attention.shared_kv_layers": ("num_kv_shared_layers",),
    "attention.layer_norm_rms_epsilon": ("rms_norm_eps",),
    "attention.layer_norm_epsilon": ("layer_norm_epsilon", "layer_norm_eps"),
    "attention.scale": ("attention_multiplier",),
    "embedding_scale": ("embedding_multiplier",),
    "residual_scale": ("residual_multiplier",),
    "attn_logit_softcapping": ("attn_logit_softcapping",),
    "context_length": ("max_position_embeddings",),
    "rope.freq_base": ("rope_theta",),
    "rope.freq_base_swa": ("rope_local_base_freq",),
    "rope.dimension_count": ("rotary_dim",),
    "expert_count": ("num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts"),
    "expert_used_count": ("num_experts_per_tok",),
    "expert_feed_forward_length": ("moe_intermediate_size",),
    "expert_group_count": ("n_group",),
    "expert_group_used_count": ("topk_group",),
    "use_parallel_residual": ("use_parallel_residual",),
}
LATENT_SETTINGS: Mapping[str, tuple[str, ...]] = {
    "attention.q_lora_rank": ("q_lora_rank",),
    "attention.kv_lora_rank": ("kv_lora_rank",),
    "attention.value_length": ("v_head_dim",),
    "attention.value_length_mla": ("v_head_dim",),
    "rope.dimension_count": ("qk_rope_head_dim",),
    "expert_count": ("n_routed_experts",),
    "expert_shared_count": ("n_shared_experts",),
    "leading_dense_block_count": ("first_k_dense_replace",),
}
