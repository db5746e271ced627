"""Writes a repository with the shapes of Llama-2-7B in float16, to be served by a loopback Hub.

The files have their full size. The embedding and the first blocks hold random numbers; the rest
are holes of a sparse file.
"""

import base64
import itertools
import json
import os
from collections.abc import Sequence
from pathlib import Path

WIDTH, HIDDEN, BLOCKS, HEADS, VOCABULARY = 4096, 11008, 32, 32, 32000
FILLED_BLOCKS = 4  # blocks that hold random numbers, from the first
META = {
    "attention.wq.weight": (WIDTH, WIDTH),
    "attention.wk.weight": (WIDTH, WIDTH),
    "attention.wv.weight": (WIDTH, WIDTH),
    "attention.wo.weight": (WIDTH, WIDTH),
    "feed_forward.w1.weight": (HIDDEN, WIDTH),
    "feed_forward.w2.weight": (WIDTH, HIDDEN),
    "feed_forward.w3.weight": (HIDDEN, WIDTH),
    "attention_norm.weight": (WIDTH,),
    "ffn_norm.weight": (WIDTH,),
}
PUBLISHED = {
    "attention.wq.weight": "self_attn.q_proj.weight",
    "attention.wk.weight": "self_attn.k_proj.weight",
    "attention.wv.weight": "self_attn.v_proj.weight",
    "attention.wo.weight": "self_attn.o_proj.weight",
    "feed_forward.w1.weight": "mlp.gate_proj.weight",
    "feed_forward.w2.weight": "mlp.down_proj.weight",
    "feed_forward.w3.weight": "mlp.up_proj.weight",
    "attention_norm.weight": "input_layernorm.weight",
    "ffn_norm.weight": "post_attention_layernorm.weight",
}
OUTER = {
    "tok_embeddings.weight": ("model.embed_tokens.weight", (VOCABULARY, WIDTH)),
    "norm.weight": ("model.norm.weight", (WIDTH,)),
    "output.weight": ("lm_head.weight", (VOCABULARY, WIDTH)),
}


def write_meta(folder: Path) -> list[Path]:
    """Write consolidated.00.pth by torch, without data, and params.json; return its path."""
    import torch
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode():
        tensors = {"tok_embeddings.weight": torch.empty(VOCABULARY, WIDTH, dtype=torch.float16)}
        for block, (name, shape) in itertools.product(range(BLOCKS), META.items()):
            tensors[f"layers.{block}.{name}"] = torch.empty(shape, dtype=torch.float16)
        tensors |= {
            name: torch.empty(shape, dtype=torch.float16)
            for name, (_, shape) in OUTER.items()
            if name not in tensors
        }
    with torch.serialization.skip_data(materialize_fake_tensors=True):
        torch.save(tensors, folder / "consolidated.00.pth")
    params: dict[str, float] = {
        "dim": WIDTH,
        "multiple_of": 256,
        "n_heads": HEADS,
        "n_layers": BLOCKS,
    }
    params |= {"norm_eps": 1e-5, "vocab_size": -1}
    (folder / "params.json").write_text(json.dumps(params))
    return [folder / "consolidated.00.pth"]


def write_safetensors(folder: Path) -> list[Path]:
    """Write two shards as transformers does, with 24 blocks in the first; return their paths."""
    shards: list[dict[str, tuple[int, ...]]] = [{}, {}]
    for block, (name, shape) in itertools.product(range(BLOCKS), META.items()):
        shards[block >= 24][f"model.layers.{block}.{PUBLISHED[name]}"] = shape
    for name, shape in OUTER.values():
        shards[name != "model.embed_tokens.weight"][name] = shape
    weight_map, paths = {}, []
    for number, tensors in enumerate(shards, 1):
        path = folder / f"model-{number:05d}-of-00002.safetensors"
        header, end = {}, 0
        for name in sorted(tensors):
            begin, end = end, end + 2 * int_product(tensors[name])
            header[name] = {
                "dtype": "F16", "shape": list(tensors[name]), "data_offsets": [begin, end],
            }  # fmt: skip
            weight_map[name] = path.name
        text = json.dumps(header).encode()
        path.write_bytes(len(text).to_bytes(8, "little") + text)
        os.truncate(path, 8 + len(text) + end)
        paths.append(path)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    config = {
        "model_type": "llama", "hidden_size": WIDTH, "intermediate_size": HIDDEN,
        "num_hidden_layers": BLOCKS, "num_attention_heads": HEADS, "vocab_size": VOCABULARY,
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    return paths


def int_product(shape: tuple[int, ...]) -> int:
    """Number of elements of a shape of one or two axes."""
    return shape[0] * (shape[1] if len(shape) > 1 else 1)


def fill(paths: list[Path], blocks: Sequence[int] = range(FILLED_BLOCKS)) -> None:
    """Write random numbers into the embeddings and into some blocks, by their indices."""
    import torch

    from huref.loader.ranges import LocalFile, Meter
    from huref.loader.stored_tensors import read_index

    torch.manual_seed(0)
    for path in paths:
        entries = read_index(LocalFile(path, path.name, Meter()))
        with path.open("r+b") as file:
            for name, entry in entries.items():
                words = name.removeprefix("model.").split(".")
                is_block = words[0] == "layers" and int(words[1]) in blocks
                if is_block or "embed" in name:
                    scale = 1.0 if "norm" in name else 0.02
                    values = (torch.randn(entry.shape) * scale).half()
                    file.seek(entry.start)
                    file.write(values.numpy().tobytes())


def write_tokenizer(folder: Path) -> None:
    """Write a tiktoken file of 32,000 invented words."""
    syllables = [c + v for c in "bcdfghklmnprstvz" for v in "aeiou"]
    words = (
        " " * (i % 2) + "".join(w) for i, w in enumerate(itertools.product(syllables, repeat=3))
    )
    lines = [
        base64.b64encode(word.encode()) + b" %d\n" % number
        for number, word in enumerate(itertools.islice(words, VOCABULARY))
    ]
    (folder / "tokenizer.model").write_bytes(b"".join(lines))
