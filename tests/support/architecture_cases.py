"""The model of every model_type that is compared with transformers.

A key is a model_type, followed by a word for a variant. `scaled` marks models that multiply a half
by a constant (a residual or attention multiplier), to which correlations are invariant.
"""

from tests.support.architecture_case import Case, case
from tests.support.architecture_preparations import (
    add_shared_block,
    fill_residual_gains,
    fix_streams,
    mix_streams_evenly,
    open_norm_gates,
    route_evenly,
    weigh_shared_evenly,
)

LATENT = {"head_dim": 8, "num_key_value_heads": 4}
MAMBA = {
    "mamba_n_heads": 8,
    "mamba_d_head": 12,
    "mamba_n_groups": 1,
    "mamba_expand": 2,
    "mamba_chunk_size": 8,
}
LINEAR = {
    "linear_num_value_heads": 4, "linear_num_key_heads": 2, "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
}  # fmt: skip
HALF = {"layer_types": ["linear_attention", "full_attention", "full_attention", "linear_attention"]}
WIDE = {"hidden_size": 64, "head_dim": None}

ROPE = {"rope_type": "default", "rope_theta": 1e4}
DOTS = {
    "layer_types": ["sliding_attention", "indexed_attention"] * 2,
    "per_layer_config": {
        i: {"num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 20} for i in (0, 2)
    },
}
LONGCAT = {"expert_ffn_hidden_size": 40, "zero_expert_num": 0}
GEMMA4 = {
    "layer_types": ["sliding_attention", "full_attention"] * 2, "num_kv_shared_layers": 0,
    "global_head_dim": 16, "hidden_size_per_layer_input": 0, "attention_k_eq_v": True,
}  # fmt: skip
ZAMBA = {"attention_hidden_size": 96, "attention_head_dim": 24}
SMALL = {
    "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_blocks": 2, "ext_pw_out_channel": 32, "depthwise_separable_out_channel": 32,
    "nemo_conv_channels": 32,
}  # fmt: skip
INKLING = {
    "swa_head_dim": 16, "swa_num_attention_heads": 4, "swa_num_key_value_heads": 2,
    "layer_types": ["hybrid_sliding", "hybrid"] * 2,
}  # fmt: skip

CASES: dict[str, Case] = {
    # llama.yaml
    "llama": case("llama"),
    "mistral": case("mistral", changes={"head_dim": 16}),
    "mixtral": case("mixtral"),
    "qwen2": case("qwen2"),
    "qwen2_moe": case("qwen2_moe", changes={"shared_expert_intermediate_size": 40}),
    "qwen3": case("qwen3"),
    "qwen3_moe": case("qwen3_moe"),
    "phi3": case("phi3"),
    "granite": case("granite", scaled=True, changes={"residual_multiplier": 0.3}),
    "granite_swa": case("granite_swa"),
    "smollm3": case("smollm3"),
    "ernie4_5": case("ernie4_5"),
    "ernie4_5_moe": case("ernie4_5_moe"),
    "seed_oss": case("seed_oss"),
    "hunyuan_v1_dense": case("hunyuan_v1_dense"),
    "hunyuan_v1_moe": case("hunyuan_v1_moe"),
    "minimax_m2": case("minimax_m2"),
    "olmoe": case("olmoe"),
    "cwm": case("cwm"),
    "ministral": case("ministral"),
    "ministral3": case("ministral3"),
    "helium": case("helium"),
    "glm": case("glm"),
    "glm4_moe": case("glm4_moe"),
    "dots1": case("dots1"),
    "exaone_moe": case("exaone_moe"),
    "mellum": case("mellum"),
    "solar_open": case("solar_open"),
    "hy_v3": case("hy_v3", changes={"router_scaling_factor": 1.0}),
    "flint": case("flint"),
    "laguna": case("laguna", scaled=True),
    "mimo_v2_flash": case("mimo_v2_flash", scaled=True),
    "doge": case("doge", prepare=fill_residual_gains),
    "emu3_text_model": case("emu3"),
    "mllama_text_model": case("mllama"),
    # gemma*.yaml
    "gemma": case("gemma"),
    "gemma2": case("gemma2"),
    "gemma3_text": case("gemma3_text"),
    "vaultgemma": case("vaultgemma"),
    "recurrent_gemma": case("recurrent_gemma"),
    # norms in other places or of another kind
    "beam": case("beam", scaled=True),
    "afmoe": case("afmoe"),
    "glm4": case("glm4"),
    "kolibri1": case("kolibri1"),
    "hyperclovax": case("hyperclovax"),
    "olmo": case("olmo"),
    "olmo2": case("olmo2"),
    "olmo3": case("olmo3"),
    "olmo_hybrid": case("olmo_hybrid", index=3),
    "exaone4": case("exaone4"),
    "flex_olmo": case("flex_olmo"),
    "stablelm": case("stablelm", changes=WIDE),
    "stablelm parallel": case(
        "stablelm",
        changes=WIDE | {"use_parallel_residual": True, "qk_layernorm": True},
    ),
    "phimoe": case("phimoe", prepare=route_evenly),
    "cohere": case("cohere"),
    "cohere norms": case("cohere", changes={"use_qk_norm": True}),
    "cohere2": case("cohere2"),
    "cohere2_moe": case("cohere2_moe"),
    "bitnet": case("bitnet"),
    "nanochat": case("nanochat"),
    "apertus": case("apertus"),
    "modernbert-decoder": case("modernbert-decoder"),
    "minimax": case("minimax", changes=HALF, oracle={"drop_norms": True}),
    "diffllama": case("diffllama", scaled=True),
    "moshi": case("moshi"),
    # ungated
    "starcoder2": case("starcoder2"),
    "jais2": case("jais2"),
    "nemotron": case("nemotron"),
    "arcee": case("arcee"),
    "phi": case("phi", changes={"hidden_size": 64}),
    "persimmon": case("persimmon"),
    "gpt_neox": case("gpt_neox"),
    "gpt_neox_japanese": case("gpt_neox_japanese"),
    "bloom": case(
        "bloom", oracle={"ffn": ("mlp.dense_4h_to_h",), "silent": ("self_attention.dense",)}
    ),
    "gptj": case("gptj"),
    "codegen": case("codegen"),
    "gpt2": case("gpt2"),
    "openai-gpt": case("openai-gpt", oracle={"drop_norms": True}),
    "gpt_bigcode": case("gpt_bigcode"),
    "gpt_bigcode many": case("gpt_bigcode", changes={"multi_query": False}),
    "gpt_neo": case("gpt_neo", changes={"attention_types": [[["global", "local"], 2]]}),
    "opt": case("opt", changes={"word_embed_proj_dim": 48}, scaled=True),
    "opt 350m": case(
        "opt",
        changes={"word_embed_proj_dim": 24, "do_layer_norm_before": False},
        width=48,
        scaled=True,
        oracle={"drop_norms": True},
    ),
    "xglm": case("xglm", scaled=True),
    "biogpt": case("biogpt"),
    "mpt": case("mpt", oracle={"ffn": ("ffn.down_proj",)}),
    "ctrl": case("ctrl"),
    # latent attention
    "deepseek_v2": case("deepseek_v2", changes=LATENT),
    "deepseek_v2 lite": case("deepseek_v2", changes=LATENT | {"q_lora_rank": None}),
    "deepseek_v3": case("deepseek_v3", changes=LATENT),
    "glm4_moe_lite": case("glm4_moe_lite", changes=LATENT),
    "minicpm3": case("minicpm3", changes=LATENT, scaled=True),
    "youtu": case("youtu", changes=LATENT),
    "axk1": case("axk1", changes=LATENT),
    # stacked experts
    "gpt_oss": case("gpt_oss", oracle={"even": True}, scaled=True),
    "granitemoe": case("granitemoe"),
    "granitemoeshared": case(
        "granitemoeshared",
        changes={"shared_intermediate_size": 64},
        oracle={"ffn": ("block_sparse_moe", "shared_mlp")},
    ),
    "granitemoe_swa": case("granitemoe_swa"),
    "aria_text": case("aria_text", changes={"moe_num_experts": 4}),
    "llama4_text": case("llama4_text"),
    "dbrx": case(
        "dbrx",
        changes={
            "attn_config": {"kv_n_heads": 2, "rope_theta": 1e4, "clip_qkv": 1e30},
            "ffn_config": {"ffn_hidden_size": 40, "moe_num_experts": 4, "moe_top_k": 4},
        },
        oracle={"attention": ("norm_attn_norm.attn",)},
    ),
    # hybrids
    "jamba": case("jamba", changes={"attn_layer_period": 2, "attn_layer_offset": 0}),
    "bamba": case("bamba", changes=MAMBA | {"attn_layer_indices": [1, 2]}),
    "falcon_h1": case(
        "falcon_h1",
        changes={"mamba_n_heads": 8, "mamba_d_head": 12, "mamba_d_ssm": 96, "mamba_n_groups": 1}
        | {"mamba_chunk_size": 8},
        oracle={"ffn": ("feed_forward", "mamba"), "silent": ("self_attn", "mamba")},
        scaled=True,
    ),
    "granitemoehybrid": case(
        "granitemoehybrid",
        changes=MAMBA
        | {"layer_types": ["mamba", "attention", "attention", "mamba"]}
        | {"shared_intermediate_size": 64},
        oracle={"ffn": ("block_sparse_moe", "shared_mlp")},
    ),
    "nemotron_h": case(
        "nemotron_h",
        changes={
            "num_hidden_layers": 6,
            "layers_block_type": ["mamba", "attention", "moe", "attention", "mlp", "mamba"],
            "mamba_num_heads": 8,
            "mamba_head_dim": 12,
            "n_groups": 1,
            "moe_shared_expert_intermediate_size": 64,
        },
        index=1,
        oracle={"ffn_index": 2},
    ),
    "lfm2": case("lfm2", changes={"layer_types": ["conv", "full_attention"] * 2}, index=1),
    "lfm2_moe": case(
        "lfm2_moe",
        changes={"layer_types": ["conv", "full_attention"] * 2, "num_dense_layers": 1},
        index=1,
    ),
    "lfm3": case("lfm3"),
    "qwen3_next": case(
        "qwen3_next", changes=LINEAR | {"shared_expert_intermediate_size": 40}, index=3
    ),
    "qwen3_5_text": case("qwen3_5_text", changes=LINEAR, index=3),
    "qwen3_5_moe_text": case(
        "qwen3_5_moe_text", changes=LINEAR | {"shared_expert_intermediate_size": 40}, index=3
    ),
    "kimi_linear": case(
        "kimi_linear", changes=LATENT | HALF | {"linear_num_heads": 2, "linear_head_dim": 8}
    ),
    "mistral4": case("mistral4", cls="Mistral4ForCausalLM", changes=LATENT | {"head_dim": 20}),
    "zamba": case(
        "zamba",
        changes=ZAMBA | {"layers_block_type": ["mamba", "hybrid"] * 2},
        index=3,
        oracle={"attention": ("shared_transf.self_attn",), "chain": "shared_transf"},
        prepare=add_shared_block,
    ),
    "zamba2": case(
        "zamba2",
        changes=ZAMBA
        | {"num_hidden_layers": 6, "num_mem_blocks": 2, "mamba_headdim": 12, "mamba_ngroups": 1}
        | {"n_mamba_heads": 8, "chunk_size": 8, "adapter_rank": 6}
        | {"use_shared_attention_adapter": True, "num_key_value_heads": 4}
        | {"layers_block_type": ["mamba", "hybrid", "hybrid", "mamba", "hybrid", "hybrid"]},
        index=5,
        oracle={"attention": ("shared_transformer.self_attn",), "chain": "shared_transformer"},
        prepare=add_shared_block,
    ),
    "falcon": case("falcon", changes={"head_dim": None, "num_kv_heads": None}),
    "falcon 40b": case("falcon", changes={"head_dim": None, "new_decoder_architecture": True}),
    "falcon rw": case(
        "falcon",
        changes={
            "head_dim": None,
            "num_kv_heads": None,
            "multi_query": False,
            "parallel_attn": False,
        },
    ),
    "deepseek_v32": case("deepseek_v32", changes=LATENT),
    "glm_moe_dsa": case("glm_moe_dsa", changes=LATENT),
    "axk2": case("axk2", changes=LATENT, prepare=open_norm_gates),
    "bailing_hybrid": case("bailing_hybrid", changes=LATENT | HALF),
    "dots3_note_text": case("dots3_note_text", changes=LATENT | DOTS),
    "longcat_flash": case(
        "longcat_flash",
        changes=LATENT | LONGCAT,
        index=2,
        oracle={"index": 1, "attention": ("self_attn.0",), "ffn": ("mlp", "mlps.0")}
        | {"without": ("self_attn.1", "mlps.1")},
    ),
    "longcat_flash second": case(
        "longcat_flash",
        changes=LATENT | LONGCAT,
        index=3,
        oracle={"index": 1, "attention": ("self_attn.1",), "ffn": ("mlps.1",)}
        | {"without": ("self_attn.0", "mlps.0", "mlp")},
    ),
    # several residual streams
    "hy_v4": case("hy_v4", changes=LATENT, oracle={"streams": 4}, prepare=mix_streams_evenly),
    "deepseek_v4": case(
        "deepseek_v4",
        changes={"o_groups": 2, "o_lora_rank": 16, "q_lora_rank": 20, "num_key_value_heads": 1}
        | {"layer_types": ["sliding_attention"] * 4, "mlp_layer_types": ["moe"] * 4},
        oracle={"streams": 4},
        prepare=mix_streams_evenly,
    ),
    "qwen4_exp_text": case(
        "qwen4_exp_text",
        changes=LINEAR
        | {"layer_types": ["linear_attention", "indexed_attention"] * 2, "ple_layer_ids": []}
        | {"indexer_n_heads": 2, "indexer_kv_heads": 1, "indexer_head_dim": 12}
        | {"indexer_budget": 64, "indexer_compress_ratio": 1, "hc_lowrank": 8}
        | {"shared_expert_intermediate_size": 40},
        index=1,
        oracle={"streams": 4},
        prepare=mix_streams_evenly,
    ),
    # others
    "gemma4_text": case("gemma4_text", changes=GEMMA4),
    "gemma4_text full": case("gemma4_text", changes=GEMMA4, index=1),
    "gemma4_text experts": case(
        "gemma4_text",
        changes=GEMMA4 | {"enable_moe_block": True, "top_k_experts": 4},
        oracle={"ffn": ("mlp", "experts")},
    ),
    "gemma4_unified_text": case("gemma4_unified_text", changes=GEMMA4),
    "gemma3n_text": case(
        "gemma3n_text",
        changes={"layer_types": ["sliding_attention", "full_attention"] * 2}
        | {"num_kv_shared_layers": 0, "activation_sparsity_pattern": [0.0] * 4, "laurel_rank": 8}
        | {"intermediate_size": [80] * 4, "hidden_size_per_layer_input": 8}
        | {"vocab_size_per_layer_input": 96},
        oracle={"streams": 4},
        prepare=fix_streams,
        scaled=True,
    ),
    "cohere_compass_text": case(
        "cohere_compass_text",
        changes={"layer_types": ["sliding_attention", "full_attention"] * 2}
        | {"rope_parameters": {"sliding_attention": ROPE, "full_attention": ROPE}},
    ),
    "minimax_m3_vl_text": case(
        "minimax_m3_vl_text",
        changes={"shared_intermediate_size": 40, "dense_intermediate_size": 80},
        oracle={"even": True},
        scaled=True,
    ),
    "jetmoe": case("jetmoe", changes={"kv_channels": 12, "num_attention_heads": 8}, scaled=True),
    "phi4_multimodal": case(
        "phi4_multimodal", changes={"vision_config": SMALL, "audio_config": SMALL}
    ),
    "cpmant": case(
        "cpmant",
        changes={"dim_head": 12, "prompt_length": 0},
        oracle={"attention": ("self_att.self_attention",), "ffn": ("ffn.ffn",)},
    ),
    "hrm_text": case("hrm_text"),
    "inkling_text": case("inkling_text", changes=INKLING, prepare=weigh_shared_evenly),
}
