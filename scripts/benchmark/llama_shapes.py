"""Writes folders with the shapes of large Llamas in float16.

The files have their full size. The embedding and some blocks hold random numbers; the rest are
holes of a sparse file.
"""

import base64
import itertools
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

FILLED_BLOCKS = 4  # blocks that hold random numbers, from the first
VOCABULARY = 32000
# Meta's names of a block's tensors -> those in safetensors, and their shapes by the names of sizes.
BLOCK = {
    "attention.wq.weight": ("self_attn.q_proj.weight", ("width", "width")),
    "attention.wk.weight": ("self_attn.k_proj.weight", ("narrow", "width")),
    "attention.wv.weight": ("self_attn.v_proj.weight", ("narrow", "width")),
    "attention.wo.weight": ("self_attn.o_proj.weight", ("width", "width")),
    "feed_forward.w1.weight": ("mlp.gate_proj.weight", ("hidden", "width")),
    "feed_forward.w2.weight": ("mlp.down_proj.weight", ("width", "hidden")),
    "feed_forward.w3.weight": ("mlp.up_proj.weight", ("hidden", "width")),
    "attention_norm.weight": ("input_layernorm.weight", ("width",)),
    "ffn_norm.weight": ("post_attention_layernorm.weight", ("width",)),
}
PUBLISHED = [name for name, _ in BLOCK.values()]
OUTER = {
    "tok_embeddings.weight": ("model.embed_tokens.weight", ("vocabulary", "width")),
    "norm.weight": ("model.norm.weight", ("width",)),
    "output.weight": ("lm_head.weight", ("vocabulary", "width")),
}


@dataclass(frozen=True)
class LlamaShape:
    """Sizes of a Llama: of the stream, of its networks, and of its keys and values together."""

    width: int
    hidden: int
    blocks: int
    heads: int
    kv_heads: int
    vocabulary: int = VOCABULARY

    @property
    def narrow(self) -> int:
        """Size of all keys of a token."""
        return self.width // self.heads * self.kv_heads

    def sizes(self, names: Sequence[str]) -> tuple[int, ...]:
        """The shape of a tensor whose axes have the sizes of these names."""
        return tuple(getattr(self, name) for name in names)


LLAMA_2_7B = LlamaShape(4096, 11008, 32, 32, 32)
LLAMA_2_70B = LlamaShape(8192, 28672, 80, 64, 8)


def write_meta(folder: Path, shape: LlamaShape = LLAMA_2_7B) -> list[Path]:
    """Write consolidated.00.pth by torch, without data, and params.json; return its path."""
    import torch
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode():
        first, *last = OUTER
        names = {first: OUTER[first][1]}
        for block, (name, (_, axes)) in itertools.product(range(shape.blocks), BLOCK.items()):
            names[f"layers.{block}.{name}"] = axes
        names |= {name: OUTER[name][1] for name in last}
        tensors = {
            name: torch.empty(shape.sizes(axes), dtype=torch.float16)
            for name, axes in names.items()
        }
    with torch.serialization.skip_data(materialize_fake_tensors=True):
        torch.save(tensors, folder / "consolidated.00.pth")
    params: dict[str, float] = {
        "dim": shape.width,
        "multiple_of": 256,
        "n_heads": shape.heads,
        "n_layers": shape.blocks,
    }
    params |= {"norm_eps": 1e-5, "vocab_size": -1}
    (folder / "params.json").write_text(json.dumps(params))
    return [folder / "consolidated.00.pth"]


def write_safetensors(folder: Path, shape: LlamaShape = LLAMA_2_7B) -> list[Path]:
    """Write two shards, with three quarters of the blocks in the first; return their paths."""
    shards: list[dict[str, tuple[int, ...]]] = [{}, {}]
    for block, (name, axes) in itertools.product(range(shape.blocks), BLOCK.values()):
        second = block >= shape.blocks * 3 // 4
        shards[second][f"model.layers.{block}.{name}"] = shape.sizes(axes)
    for name, axes in OUTER.values():
        shards[name != "model.embed_tokens.weight"][name] = shape.sizes(axes)
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
        "model_type": "llama", "hidden_size": shape.width, "intermediate_size": shape.hidden,
        "num_hidden_layers": shape.blocks, "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads, "vocab_size": shape.vocabulary,
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    return paths


def int_product(shape: tuple[int, ...]) -> int:
    """Number of elements of a shape of one or two axes."""
    return shape[0] * (shape[1] if len(shape) > 1 else 1)


def fill(paths: list[Path], blocks: Sequence[int] = range(FILLED_BLOCKS), seed: int = 0) -> None:
    """Write random numbers into the embeddings and into some blocks, by their indices."""
    import torch

    from huref.loader.ranges import LocalFile, Meter
    from huref.loader.stored_tensors import read_index

    torch.manual_seed(seed)
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
