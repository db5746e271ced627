"""Seeds of the targets that read whole models: one for each source, scheme and kind of answer."""

import json
from collections.abc import Iterator

CONFIG = '{"model_type": "llama", "hidden_size": 8, "num_hidden_layers": 1, "vocab_size": 6}'
WEIGHTS = """model.embed_tokens.weight F32 6,8
model.layers.0.self_attn.q_proj.weight BF16 8,8
model.layers.0.mlp.experts.gate_up_proj F16 2,8,8
model.norm.weight F32 8
lm_head.weight F32 6,8
"""
BPE = {
    "model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2}, "merges": [["a", "b"]]},
    "added_tokens": [
        {
            "id": 3,
            "content": "<s>",
            "special": True,
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
        }
    ],
}


def _input(**files: str) -> bytes:
    """Files by name, in which `__` stands for a slash and `_dot_` for a dot."""
    parts = (
        f"=== {name.replace('__', '/').replace('_dot_', '.')}\n{text}\n"
        for name, text in files.items()
    )
    return "".join(parts).encode("latin-1")


def _quantised(settings: dict[str, object], *tensors: str) -> bytes:
    config = {"model_type": "llama", "quantization_config": settings}
    return _input(config_dot_json=json.dumps(config), model_dot_safetensors="\n".join(tensors))


def folders() -> Iterator[bytes]:
    """Of `folder`."""
    yield _input(
        config_dot_json=CONFIG, model_dot_safetensors=WEIGHTS, tokenizer_dot_json=json.dumps(BPE)
    )
    yield from _sharded()
    yield from _vocabularies()
    yield from _schemes()
    yield from _adapters()
    yield from _ggufs()
    yield from _others()
    yield from _torchao()
    yield from _other_adapters()


def _sharded() -> Iterator[bytes]:
    index = {
        "weight_map": {
            "a": "model-00001-of-00002.safetensors",
            "b": "model-00002-of-00002.safetensors",
        }
    }
    shards = {
        "model-00001-of-00002_dot_safetensors": "a F32 2,2",
        "model-00002-of-00002_dot_safetensors": "b F32 2",
    }
    yield _input(model_dot_safetensors_dot_index_dot_json=json.dumps(index), **shards)
    yield _input(config_dot_json=CONFIG, **shards)
    yield _input(
        model_dot_fp16_dot_safetensors="a F16 2,2", model_dot_bf16_dot_safetensors="a I8 2"
    )
    wrapper = {"model_type": "llava", "text_config": {"model_type": "llama", "hidden_size": 8}}
    beside = "language_model.model.norm.weight F32 8\nvision_tower.a.weight F32 4,4"
    yield _input(config_dot_json=json.dumps(wrapper), model_dot_safetensors=beside)


def _vocabularies() -> Iterator[bytes]:
    settings = '{"add_bos_token": true, "bos_token": "<s>", "tokenizer_class": "GPT2Tokenizer"}'
    plain = {
        "config_dot_json": CONFIG,
        "model_dot_safetensors": WEIGHTS,
        "tokenizer_config_dot_json": settings,
    }
    merges = "#version: 0.2\na b\nab c\n"
    words = '{"a": 0, "b": 1, "ab": 2, "c": 3, "abc": 4}'
    yield _input(vocab_dot_json=words, merges_dot_txt=merges, **plain)
    yield _input(vocab_dot_txt="[UNK]\na\n##b\n", **plain)
    yield _input(tokenizer_dot_model="YQ== 0\nYg== 1\nYWI= 2\n", **plain)
    pieces = b"".join(
        b"\x0a" + bytes([len(text) + 7]) + b"\x0a" + bytes([len(text)]) + text + b"\x15\0\0\x80\xbf"
        for text in (b"<unk>", b"a", b"b", b"ab")
    )
    yield _input(tokenizer_dot_model=(pieces + b"\x12\x02\x18\x02").decode("latin-1"), **plain)
    split = {
        "type": "Split",
        "pattern": {"Regex": r"\p{L}+|\s(?!\S)|[^a-z]{1,3}"},
        "behavior": "Isolated",
        "invert": False,
    }
    grown = {
        "type": "Sequence",
        "normalizers": [
            {"type": "Replace", "pattern": {"String": "a"}, "content": "bb"},
            {"type": "NFKC"},
        ],
    }
    after = {
        "type": "TemplateProcessing",
        "pair": [],
        "single": [
            {"SpecialToken": {"id": "<s>", "type_id": 0}},
            {"Sequence": {"id": "A", "type_id": 0}},
        ],
        "special_tokens": {"<s>": {"id": "<s>", "ids": [3], "tokens": ["<s>"]}},
    }
    more = {**BPE, "pre_tokenizer": split, "normalizer": grown, "post_processor": after}
    yield _input(tokenizer_dot_json=json.dumps(more), **plain)


def _torchao() -> Iterator[bytes]:
    """Each form of torchao's parts: a row's scale, groups, two integers in a byte, and none."""
    method: dict[str, object] = {"quant_method": "torchao"}
    rows = ("x._weight_qdata I8 4,64", "x._weight_scale F32 4,1")
    yield _quantised(method, *rows)
    yield _quantised(method, *rows, "x._weight_zero_point I8 4,1")
    yield _quantised(method, "x._weight_qdata I8 4,64", "x._weight_scale BF16 4,2")
    nibbles = ("x._weight_qdata U8 4,32", "x._weight_scale F32 2,4", "x._weight_zero_point F32 2,4")
    yield _quantised(method, *nibbles)
    yield _quantised(method, *(part.replace(" 4,32", " 2,4,32").replace(" 2,4", " 2,2,4", 1)
                               if "qdata" not in part else "x._weight_qdata U8 2,4,32"
                               for part in nibbles))  # fmt: skip
    yield _quantised(method, *rows, "x._weight_act_pre_scale F32 64")
    yield _quantised(method, "x._weight_qdata I8 4,64", "x._weight_scale F8_E4M3 4,1")


def _schemes() -> Iterator[bytes]:
    """One of each scheme of quantisation."""
    gptq = ("x.qweight I32 4,8", "x.qzeros I32 1,1", "x.scales F16 1,8", "x.g_idx I32 32 zero")
    yield _quantised({"quant_method": "gptq", "bits": 4, "group_size": 32}, *gptq)
    yield _quantised({"quant_method": "gptq", "bits": 8, "dynamic": {"+:x": {"bits": 4}}}, *gptq)
    yield _quantised(
        {"quant_method": "awq", "bits": 4, "group_size": 32, "version": "gemm"},
        "x.qweight I32 32,1",
        "x.qzeros I32 1,1",
        "x.scales F16 1,8",
    )
    nf4 = 'text:{"quant_type":"nf4","blocksize":64,"dtype":"float16","shape":[16,8]}'
    yield _quantised(
        {"quant_method": "bitsandbytes"},
        "x.weight U8 64,1",
        "x.weight.absmax F32 2",
        "x.weight.quant_map F32 16",
        f"x.weight.quant_state.bitsandbytes__nf4 U8 80 {nf4}",
    )
    yield _quantised(
        {"quant_method": "bitsandbytes", "load_in_8bit": True}, "x.weight I8 4,8", "x.SCB F32 4"
    )
    yield _quantised(
        {"quant_method": "fp8", "weight_block_size": [2, 4]},
        "x.weight F8_E4M3 4,8",
        "x.weight_scale_inv F32 2,2",
    )
    yield _quantised({"quant_method": "fbgemm_fp8"}, "x.weight F8_E4M3 4,8", "x.weight_scale F32 4")
    group = {
        "group_0": {
            "targets": ["Linear"],
            "weights": {
                "num_bits": 4,
                "type": "int",
                "symmetric": False,
                "strategy": "group",
                "group_size": 8,
            },
        }
    }
    method = {"quant_method": "compressed-tensors", "config_groups": group}
    yield _quantised(
        {**method, "format": "pack-quantized"},
        "x.weight_packed I32 4,2",
        "x.weight_scale F32 4,2",
        "x.weight_zero_point I32 1,2",
        "x.weight_shape I64 2 count",
    )
    yield _quantised(
        {**method, "format": "nvfp4-pack-quantized"},
        "x.weight_packed U8 4,16",
        "x.weight_scale F8_E4M3 4,2",
        "x.weight_global_scale F32 1",
    )
    yield _quantised(
        {**method, "format": "int-quantized"}, "x.weight I8 4,8", "x.weight_scale F32 4,1"
    )
    yield _quantised(
        {"quant_method": "modelopt", "quant_algo": "NVFP4"},
        "x.weight U8 4,16",
        "x.weight_scale F8_E4M3 4,2",
        "x.weight_scale_2 F32 ",
    )
    yield _quantised(
        {"quant_method": "mxfp4"},
        "e.gate_up_proj_blocks U8 2,4,1,16",
        "e.gate_up_proj_scales U8 2,4,1",
    )
    yield _quantised(
        {"bits": 4, "group_size": 32}, "x.weight U32 4,8", "x.scales F16 4,2", "x.biases F16 4,2"
    )
    yield _quantised(
        {"bits": 4, "group_size": 32, "mode": "mxfp4"}, "x.weight U32 4,8", "x.scales U8 4,2"
    )
    yield _quantised({"quant_method": "bitnet"}, "x.weight U8 4,8", "x.weight_scale BF16 1")
    yield _quantised(
        {"quant_method": "hqq"},
        "x.W_q U8 8,8",
        "x.scale F16 16,1",
        "x.zero F16 16,1",
        "x.shape I64 2 text:\x10\0\0\0\0\0\0\0\x08\0\0\0\0\0\0\0",
        "x.nbits U8  text:\x04",
        "x.axis U8  text:\x01",
        "x.group_size U8  text:\x08",
    )
    yield _quantised({"quant_method": "quanto"}, "x.weight._data I8 4,8", "x.weight._scale F32 4,1")


def _adapters() -> Iterator[bytes]:
    base = {"base__config_dot_json": CONFIG, "base__model_dot_safetensors": WEIGHTS}
    q, embed = (
        "base_model.model.model.layers.0.self_attn.q_proj",
        "base_model.model.model.embed_tokens",
    )
    lora = f"{q}.lora_A.weight F32 2,8\n{q}.lora_B.weight F32 8,2"
    peft = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "base_model_name_or_path": "a/b"}
    for more, tensors in (
        ({}, lora),
        (
            {"use_rslora": True, "alpha_pattern": {"q_proj": 3}},
            lora.replace(".weight", ".default.weight"),
        ),
        ({"use_dora": True}, f"{lora}\n{q}.lora_magnitude_vector F32 8"),
        (
            {"trainable_token_indices": {"embed_tokens": [1, 3]}},
            f"{embed}.token_adapter.trainable_tokens_delta F32 2,8",
        ),
        (
            {"target_modules": ["embed_tokens"], "modules_to_save": ["lm_head"]},
            f"{embed}.lora_embedding_A F32 2,6\n{embed}.lora_embedding_B F32 8,2\n"
            "base_model.model.lm_head.modules_to_save.weight F32 6,8",
        ),
        ({"init_lora_weights": "pissa"}, lora),
        ({"init_lora_weights": "olora"}, lora),
        (
            {"target_parameters": ["mlp.experts.gate_up_proj"]},
            lora.replace("self_attn.q_proj", "mlp.experts")
            .replace("2,8", "4,8")
            .replace("8,2", "8,4"),
        ),
    ):
        yield _input(
            adapter_config_dot_json=json.dumps(peft | more),
            adapter_model_dot_safetensors=tensors,
            **base,
        )
    mlx = {"fine_tune_type": "lora", "lora_parameters": {"rank": 2, "scale": 20.0, "alpha": 8}}
    layer = "model.layers.0.self_attn.q_proj"
    yield _input(
        adapter_config_dot_json=json.dumps(mlx),
        **base,
        adapters_dot_safetensors=f"{layer}.lora_a F32 8,2\n{layer}.lora_b F32 2,8",
    )
    dora = {"fine_tune_type": "dora", "alpha": 8, "model": "a/b"}
    yield _input(
        adapter_config_dot_json=json.dumps(dora),
        **base,
        adapters_dot_safetensors=(
            f"{layer}.lora_a F32 8,2\n{layer}.lora_b F32 2,8\n{layer}.m F32 8"
        ),
    )


def _other_adapters() -> Iterator[bytes]:
    """Of other kinds than LoRA."""
    base = {"base__config_dot_json": CONFIG, "base__model_dot_safetensors": WEIGHTS}
    module = "base_model.model.model.layers.0.self_attn.q_proj"
    for kind, parts in (
        ("ADALORA", ("lora_A F32 2,8", "lora_B F32 8,2", "lora_E F32 2,1")),
        ("LOHA", ("hada_w1_a F32 8,2", "hada_w1_b F32 2,8", "hada_w2_a F32 8,2",
                  "hada_w2_b F32 2,8")),
        ("LOKR", ("lokr_w1 F32 2,2", "lokr_w2_a F32 4,2", "lokr_w2_b F32 2,4")),
        ("IA3", ("ia3_l F32 8,1",)),
        ("VERA", ("vera_lambda_b F32 8", "vera_lambda_d F32 2", "vera_A F32 2,8",
                  "vera_B F32 8,2")),
    ):  # fmt: skip
        sizes = {"r": 2, "alpha": 4, "init_r": 2, "lora_alpha": 4}
        settings = {"peft_type": kind, **sizes, "target_modules": ["q_proj"]}
        yield _input(
            adapter_config_dot_json=json.dumps(settings),
            adapter_model_dot_safetensors="\n".join(f"{module}.{part}" for part in parts),
            **base,
        )


def _ggufs() -> Iterator[bytes]:
    """Of architectures whose tensors are renamed, reordered, split or joined."""
    for name, tensors in (
        (
            "llama",
            "blk.0.attn_q.weight 8 32,32\nblk.0.attn_k.weight 2 32,32\n"
            "blk.0.ffn_up_exps.weight 0 2,4,32\nrope_freqs.weight 0 4",
        ),
        ("phi3", "blk.0.attn_qkv.weight 0 96,32\nblk.0.ffn_up.weight 1 64,32"),
        ("gpt2", "blk.0.attn_qkv.weight 0 96,32\nposition_embd.weight 0 4,32"),
        ("gemma2", "blk.0.attn_norm.weight 0 32\nblk.0.post_ffw_norm.weight 0 32"),
        ("qwen3moe", "blk.0.ffn_gate_inp.weight 0 2,32\nblk.0.ffn_down_exps.weight 12 2,4,256"),
        ("falcon", "blk.0.attn_qkv.weight 0 48,32\nblk.0.attn_norm_2.weight 30 32"),
    ):
        keys = {
            "general.architecture": name,
            f"{name}.block_count": 1,
            f"{name}.embedding_length": 32,
            f"{name}.attention.head_count": 4,
            f"{name}.attention.head_count_kv": 2,
            f"{name}.feed_forward_length": 64,
            f"{name}.attention.layer_norm_rms_epsilon": 1e-5,
            f"{name}.attention.layer_norm_epsilon": 1e-5,
            f"{name}.context_length": 64,
            f"{name}.expert_count": 2,
            "tokenizer.ggml.model": "llama",
            "tokenizer.ggml.tokens": ["<unk>", "a", "b", "ab"],
            "tokenizer.ggml.scores": [0.0, -1.0, -1.0, -2.0],
            "tokenizer.ggml.token_type": [2, 1, 1, 1],
            "tokenizer.ggml.bos_token_id": 0,
        }
        if name in ("gpt2", "qwen3moe"):
            keys["tokenizer.ggml.model"] = "gpt2"
            keys["tokenizer.ggml.merges"] = ["a b"]
        lines = "\n".join(f"{key}={json.dumps(value)}" for key, value in keys.items())
        more = "token_embd.weight 8 4,32\noutput_norm.weight 0 32\noutput.weight 6 4,32"
        yield _input(a_dot_gguf=f"{lines}\n{more}\n{tensors}")


def _others() -> Iterator[bytes]:
    params = '{"dim": 8, "n_layers": 1, "n_heads": 2, "norm_eps": 1e-5, "vocab_size": -1}'
    names = (
        "tok_embeddings.weight F32 6,4",
        "norm.weight F32 8",
        "output.weight F32 3,8",
        "layers.0.attention.wq.weight F32 4,8",
        "layers.0.attention.wk.weight F32 4,8",
        "layers.0.attention.wv.weight F32 4,8",
        "layers.0.attention.wo.weight F32 8,4",
        "layers.0.feed_forward.w1.weight F32 8,8",
        "layers.0.feed_forward.w2.weight F32 8,8",
        "layers.0.feed_forward.w3.weight F32 8,8",
        "layers.0.ffn_norm.weight F32 8",
        "layers.0.attention_norm.weight F32 8",
    )
    part = "\n".join(names)
    whole = (
        part.replace("6,4", "6,8").replace("3,8", "6,8").replace("4,8", "8,8").replace("8,4", "8,8")
    )
    yield _input(params_dot_json=params, consolidated_dot_safetensors=whole)
    yield _input(
        **{
            "params_dot_json": params,
            "consolidated-00001-of-00002_dot_safetensors": names[0],
            "consolidated-00002-of-00002_dot_safetensors": "\n".join(names[1:]),
        }
    )
    yield _input(sub__config_dot_json=CONFIG, sub__model_dot_safetensors=WEIGHTS)
    yield _input(model_dot_onnx="a", model_dot_gguf_dot_part1of2="GGUF")
    layer = {"mediaType": "application/vnd.ollama.image.model", "digest": "sha256:" + "0" * 64}
    yield _input(
        manifests__registry__library__a__latest=json.dumps({"layers": [layer]}),
        **{"blobs__sha256-" + "0" * 64: "GGUF"},
    )


def hubs() -> Iterator[bytes]:
    """Of `hub`: the answers to the description, then to each range."""
    yield b"=== 200\n"
    yield b'=== 200\nratelimit: "api";r=0;t=50\nratelimit-policy: "a";q=9;w=9\n=== 206\n'
    yield b'=== 200\n=== 302\nlocation: https://93.184.215.15/x\n=== 206\netag: "two"\n=== 403\n'
    late = b"Mon, 30 Nov 2026 07:00:00 GMT"
    yield b"=== 200\n=== 503\nretry-after: 1\n=== 429\nretry-after: " + late + b"\n=== 206\n"
    yield b'=== 200\n=== 206\netag: "one"\n=== 206\netag: "two"\n'
    yield b"=== 200\n=== 206\ncontent-range: bytes 1-9/200\n"
    yield b"=== 200\n=== 206\ncontent-encoding: gzip\n"
    yield b"=== 200\n=== 206\nx-repo-commit: " + b"f" * 40 + b"\n"
    yield b"=== 200\n=== 200\n=== 416\n"
    yield b"=== 302\nlocation: http://169.254.169.254/\n"
    yield b"=== 302\nlocation: /api/models/org/other\n=== 200\n=== 206\ncontent-length:\n"
    yield b"=== 404\nx-error-code: RepoNotFound\nx-error-message: no\n"
    yield b"=== 401\nx-error-code: GatedRepo\n=== 200\n"
    yield b"=== 200 own\ncontent-type: text/html\n\n<html>sign in</html>"
    body = b'{"siblings": [{"rfilename": "model.safetensors", "size": 300}], "cardData": null}'
    yield b"=== 200 own\n\n" + body + b"\n=== 206 own\ncontent-range: bytes 0-31/300\n\nabc"
