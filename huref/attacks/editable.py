"""A whole model in memory, its blocks as canonical matrices that can be changed and written back.

Unlike a canonical block nothing is folded: gains, biases and both ends of the model are kept
apart, because the model that is written must compute what the first one did.
"""

import json
import shutil
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from huref.architecture.assemble import as_linear
from huref.architecture.config_values import config_ints, look_up
from huref.architecture.heads import HeadCounts, join_heads, split_heads
from huref.architecture.layout import Layout
from huref.architecture.reader import ModelReader
from huref.architecture.resolve import resolve_block
from huref.errors import AttackError
from huref.loader.checkpoint import open_checkpoint


@dataclass(frozen=True)
class Ends:
    """What layouts leave out: the end of a model, its positions and its rotary dimensions.

    Attributes:
        norm: the last norm's gain, after the prefix.
        heads: the output matrix's full name.
        positions: learned positions, after the prefix, or "".
        rotary: config keys of the share of a head that RoPE turns; () for no RoPE.
    """

    norm: str
    head: str
    positions: str
    rotary: tuple[str, ...]


ENDS = {
    "llama": Ends("norm.weight", "lm_head.weight", "", ("partial_rotary_factor",)),
    "gemma": Ends("norm.weight", "lm_head.weight", "", ("partial_rotary_factor",)),
    "gpt2": Ends("ln_f.weight", "lm_head.weight", "wpe.weight", ()),
    "gpt_neox": Ends(
        "final_layer_norm.weight",
        "embed_out.weight",
        "",
        ("rope_parameters.partial_rotary_factor", "rotary_pct"),
    ),
}
ATTENTION = ("q", "k", "v", "o")
FFN = ("up", "gate", "down")
READERS = {"attention": ("q", "k", "v"), "ffn": ("up", "gate")}
WRITERS = ("o", "down")


@dataclass
class EditableBlock:
    """One block: matrices (in, out), biases (out), and the gains and biases of its two norms."""

    weights: dict[str, Tensor]
    biases: dict[str, Tensor]
    gains: dict[str, Tensor]
    norm_biases: dict[str, Tensor]
    kv_heads: int


@dataclass
class Editable:
    """A model. All tensors are float64 here and are written in the dtype that they came in."""

    model: str
    config: dict[str, Any]
    layout: Layout
    prefix: str
    ends: Ends
    dtype: torch.dtype
    heads: int
    blocks: list[EditableBlock]
    embedding: Tensor
    positions: Tensor | None
    gain: Tensor
    norm_bias: Tensor | None
    head: Tensor
    tied: bool
    tokenizer: dict[str, Any]
    folder: Path
    others: dict[str, Tensor] = field(default_factory=dict)
    routers: list[Tensor] = field(default_factory=list)

    @property
    def norms_inside_attention(self) -> bool:
        """Whether queries or keys are normed."""
        marks = ("q_norm", "k_norm", "q_layernorm", "k_layernorm", "query_layernorm")
        return any(mark in name for name in self.others for mark in marks)

    @property
    def rotary(self) -> int:
        """How many dimensions of a head RoPE turns."""
        head_dim = self.blocks[0].weights["q"].shape[1] // self.heads
        if not self.ends.rotary:
            return 0
        share = next((v for k in self.ends.rotary if (v := look_up(self.config, k))), 1.0)
        assert isinstance(share, (int, float))
        return int(head_dim * share)

    def untie(self) -> None:
        """Give the output matrix a tensor of its own."""
        self.tied = False

    def save(self, out: Path) -> None:
        """Write the folder under a temporary name, then rename it."""
        tensors = dict(self.others)
        for index, block in enumerate(self.blocks):
            stored = _store(self.layout, self.prefix, index, block, self.heads)
            if self.routers:
                stored = _as_experts(stored, self.routers[index])
            tensors |= stored
        name = self.prefix + self.layout.embedding.weight[0]
        tensors[name] = self.embedding
        offset = self.layout.norms.offset
        norm = self.prefix + self.ends.norm
        tensors[norm] = self.gain - offset
        if self.norm_bias is not None:
            tensors[_bias(norm)] = self.norm_bias
        if self.positions is not None:
            tensors[self.prefix + self.ends.positions] = self.positions
        if not self.tied:
            tensors[self.ends.head] = self.head
        config = self.config | {"tie_word_embeddings": self.tied, "vocab_size": len(self.embedding)}
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as temporary:
            folder = Path(temporary) / "model"
            folder.mkdir()
            for file in self.folder.glob("*"):
                if file.suffix in (".json", ".model", ".txt") and "index" not in file.name:
                    shutil.copy(file, folder)
            (folder / "config.json").write_text(json.dumps(config, indent=2), "utf-8")
            (folder / "tokenizer.json").write_text(json.dumps(self.tokenizer), "utf-8")
            kept = {n: t.to(self.dtype).contiguous() for n, t in tensors.items()}
            save_file(kept, folder / "model.safetensors", {"format": "pt"})
            folder.replace(out)


def _as_experts(stored: dict[str, Tensor], router: Tensor) -> dict[str, Tensor]:
    """A Llama block's tensors with its network copied into experts, under Mixtral's names."""
    roles = {"gate_proj": "w1", "up_proj": "w3", "down_proj": "w2"}
    tensors = {name: tensor for name, tensor in stored.items() if ".mlp." not in name}
    for name in set(stored) - set(tensors):
        start, _, rest = name.partition("mlp.")
        for expert in range(len(router)):
            role = roles[rest.removesuffix(".weight")]
            tensors[f"{start}block_sparse_moe.experts.{expert}.{role}.weight"] = stored[
                name
            ].clone()
        tensors[f"{start}block_sparse_moe.gate.weight"] = router
    return tensors


def _bias(name: str) -> str:
    return name.removesuffix("weight") + "bias"


def open_editable(model: str) -> Editable:
    """Read a whole model from a folder.

    Raises:
        AttackError: its family has no entry in `ENDS`, or it is not a folder of safetensors.
    """
    folder = Path(model).expanduser()
    if not (folder / "config.json").is_file() or not (folder / "tokenizer.json").is_file():
        raise AttackError(f"{model}: an attack needs a folder with config.json and tokenizer.json")
    reader = ModelReader(open_checkpoint(str(folder)))
    checkpoint, layout, prefix = reader.checkpoint, reader.layout, reader.prefix
    if layout.name not in ENDS:
        raise AttackError(
            f"{model}: attacks are for {', '.join(ENDS)} layouts, this model has '{layout.name}'"
        )
    ends = ENDS[layout.name]
    raw = checkpoint.read(checkpoint.names)
    dtype = raw[prefix + layout.embedding.weight[0]].dtype
    tensors = {name: tensor.double() for name, tensor in raw.items()}
    embedding = tensors.pop(prefix + layout.embedding.weight[0])
    norm = prefix + ends.norm
    head = tensors.pop(ends.head, None)
    heads = config_ints(reader.config, layout.attention.heads, model)[0]
    return Editable(
        model=model,
        config=dict(reader.config),
        layout=layout,
        prefix=prefix,
        ends=ends,
        dtype=dtype,
        heads=heads,
        blocks=[_load(reader, i, tensors) for i in range(reader.block_count)],
        embedding=embedding,
        positions=tensors.pop(prefix + ends.positions, None) if ends.positions else None,
        gain=tensors.pop(norm) + layout.norms.offset,
        norm_bias=tensors.pop(_bias(norm), None),
        head=embedding.clone() if head is None else head,
        tied=head is None,
        tokenizer=json.loads((folder / "tokenizer.json").read_text("utf-8")),
        folder=folder,
        others=tensors,
    )


def _load(reader: ModelReader, index: int, tensors: dict[str, Tensor]) -> EditableBlock:
    """Take a block's tensors out of a mapping of all."""
    layout = reader.layout
    block = resolve_block(layout, reader.prefix, index, frozenset(tensors), reader.block_count)
    if block.ffn is None or not block.ffn.down or (block.experts and block.experts.down):
        raise AttackError(f"{reader.checkpoint.model}: block {index} is not dense")
    weights: dict[str, Tensor] = {}
    biases: dict[str, Tensor] = {}

    def take(role: str, names: tuple[str, ...], stored: str) -> None:
        if names:
            weights[role] = as_linear(tensors.pop(names[0]), stored)
            if (bias := tensors.pop(_bias(names[0]), None)) is not None:
                biases[role] = bias

    for role in (*ATTENTION, "qkv"):
        take(role, getattr(block.attention, role), block.attention.stored)
    for role in FFN:
        take(role, getattr(block.ffn, role), block.ffn.stored)
    counts = HeadCounts(layout.attention, reader.config, index, reader.checkpoint.model)
    if "qkv" in weights:
        fused = weights.pop("qkv")
        kv_heads = counts.kv_heads("qkv", fused.shape, len(fused), counts.heads, 2)
        parts = split_heads(layout.attention, fused, counts.heads, kv_heads)
        weights |= dict(zip("qkv", parts, strict=True))
        if (bias := biases.pop("qkv", None)) is not None:
            rows = split_heads(layout.attention, bias[None], counts.heads, kv_heads)
            biases |= dict(zip("qkv", (row[0] for row in rows), strict=True))
    else:
        width, head_dim = len(weights["q"]), weights["q"].shape[1] // counts.heads
        kv_heads = counts.kv_heads("k", weights["k"].shape, width, 0, 1, head_dim)
    names = {half: getattr(block.norms, half)[0] for half in ("attention", "ffn")}
    gains = {half: tensors.pop(name) + layout.norms.offset for half, name in names.items()}
    norm_biases = {h: tensors.pop(_bias(n)) for h, n in names.items() if _bias(n) in tensors}
    return EditableBlock(weights, biases, gains, norm_biases, kv_heads)


def _store(
    layout: Layout, prefix: str, index: int, block: EditableBlock, heads: int
) -> dict[str, Tensor]:
    """A block's tensors under the names that its layout reads first."""
    start = prefix + layout.block.format(i=index)
    weights, biases = dict(block.weights), dict(block.biases)
    attention, ffn = layout.attention, layout.ffn
    assert ffn is not None
    if not attention.q:
        parts = [weights.pop(role) for role in "qkv"]
        weights["qkv"] = join_heads(attention, *parts, heads=heads, kv_heads=block.kv_heads)
        if "q" in biases:
            rows = [biases.pop(role)[None] for role in "qkv"]
            joined = join_heads(attention, *rows, heads=heads, kv_heads=block.kv_heads)
            biases["qkv"] = joined[0]
    stored: dict[str, Tensor] = {}
    for role, weight in weights.items():
        part = ffn if role in FFN else attention
        name = start + getattr(part, role)[0]
        stored[name] = as_linear(weight, part.stored)
        if role in biases:
            stored[_bias(name)] = biases[role]
    for half, gain in block.gains.items():
        name = start + getattr(layout.norms, half)[0]
        stored[name] = gain - layout.norms.offset
        if half in block.norm_biases:
            stored[_bias(name)] = block.norm_biases[half]
    return stored
