"""A whole model in memory, whose blocks can be changed and written back.

Matrices are (in, out) as in a canonical block, but nothing is folded: gains, biases, embedding and
output matrix are kept separately, because the copy must compute what the original computes.
"""

import json
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from huref.architecture.config_values import look_up
from huref.architecture.layout import Layout
from huref.architecture.running import Running, running
from huref.attacks.blocks import EditableBlock, bias_of, store_block
from huref.files import writing

LOUD, LESS_LOUD = 20.0, 2.0  # noise of the first loud kind, and of each further one


@dataclass(frozen=True)
class Ends:
    """What layouts leave out: a model's last norm, output matrix, positions and rotary dimensions.

    Attributes:
        norm: the last norm's gain, after the prefix.
        head: the output matrix's full name.
        positions: learned positions, after the prefix, or "".
        rotary: config keys of the fraction of a head that RoPE rotates; () for no RoPE.
    """

    norm: str
    head: str
    positions: str
    rotary: tuple[str, ...]


ENDS = {
    "llama": Ends("norm.weight", "lm_head.weight", "", ("partial_rotary_factor",)),
    "gemma": Ends("norm.weight", "lm_head.weight", "", ("partial_rotary_factor",)),
    "gemma2": Ends("norm.weight", "lm_head.weight", "", ("partial_rotary_factor",)),
    "olmo2": Ends("norm.weight", "lm_head.weight", "", ("partial_rotary_factor",)),
    "gpt2": Ends("ln_f.weight", "lm_head.weight", "wpe.weight", ()),
    "gpt_neox": Ends(
        "final_layer_norm.weight",
        "embed_out.weight",
        "",
        ("rope_parameters.partial_rotary_factor", "rotary_pct"),
    ),
}


@dataclass
class Editable:
    """A model in float64, written back in its original dtype.

    Attributes:
        model: the model as the user called it.
        config: config.json of the copy.
        layout, prefix, ends: how the tensors are named.
        dtype: of the stored embedding.
        heads: number of query heads.
        embedding, head: (vocabulary, d); `tied` where the output matrix is the embedding.
        positions: learned positions, (positions, d).
        gain, norm_bias: of the last norm.
        tokenizer: content of tokenizer.json.
        files: content of the small files to copy.
        others: tensors outside the blocks that attacks leave unchanged.
        rewrites: functions that turn the tensors into another architecture's on saving.
        left_out: keys that config.json of the copy lacks.
        loud: how many kinds with loud noise have been applied.
    """

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
    files: dict[str, bytes]
    others: dict[str, Tensor] = field(default_factory=dict)
    rewrites: list[Callable[[dict[str, Tensor]], dict[str, Tensor]]] = field(default_factory=list)
    left_out: tuple[str, ...] = ()
    loud: int = 0

    @property
    def norms_inside_attention(self) -> bool:
        """Whether queries or keys are normalised."""
        return any("norm" in name for name in self.blocks[0].others)

    @property
    def gains_on_output(self) -> bool:
        """Whether a norm follows the output of attention or of the feed-forward network."""
        return any(place.endswith("_out") for place in self.blocks[0].gains)

    @property
    def running(self) -> Running:
        """What a forward pass needs: the activation, and whether halves run side by side."""
        return running(
            self.layout, self.config, self.embedding.shape[1], self.positions is not None
        )

    @property
    def rotary(self) -> int:
        """How many dimensions of a head RoPE rotates."""
        head_dim = self.blocks[0].weights["q"].shape[1] // self.heads
        if not self.ends.rotary:
            return 0
        fraction = next((v for k in self.ends.rotary if (v := look_up(self.config, k))), 1.0)
        assert isinstance(fraction, (int, float))
        return int(head_dim * fraction)

    @property
    def row_size(self) -> float:
        """Root mean square of the entries of a typical embedding row, the lower quartile over rows.

        A mean or median would follow the many large rows that another kind may have added.
        """
        return float(self.embedding.square().mean(1).sqrt().quantile(0.25))

    def raise_noise(self) -> float:
        """How loud noise that nothing hears may be, in units of the weights' spread.

        It is heard where rounding keeps it from cancelling. What one kind writes another reads, so
        that the rounding of several is multiplied; each after the first is therefore quieter.
        """
        self.loud += 1
        return LOUD if self.loud == 1 else LESS_LOUD

    def untie(self) -> None:
        """Give the output matrix a tensor of its own."""
        self.tied = False

    def save(self, out: Path) -> None:
        """Write the folder under a temporary name, then rename it."""
        tensors = dict(self.others)
        for index, block in enumerate(self.blocks):
            tensors |= store_block(self.layout, self.prefix, index, block, self.heads)
        for rewrite in self.rewrites:
            tensors = rewrite(tensors)
        name = self.prefix + self.layout.embedding.weight[0]
        tensors[name] = self.embedding
        offset = self.layout.norms.offset
        norm = self.prefix + self.ends.norm
        tensors[norm] = self.gain - offset
        if self.norm_bias is not None:
            tensors[bias_of(norm)] = self.norm_bias
        if self.positions is not None:
            tensors[self.prefix + self.ends.positions] = self.positions
        if not self.tied:
            tensors[self.ends.head] = self.head
        config = self.config | {"tie_word_embeddings": self.tied, "vocab_size": len(self.embedding)}
        config = {key: value for key, value in config.items() if key not in self.left_out}
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as temporary:
            folder = Path(temporary) / "model"
            folder.mkdir()
            for name, content in self.files.items():
                (folder / name).write_bytes(content)
            (folder / "config.json").write_text(json.dumps(config, indent=2), "utf-8")
            (folder / "tokenizer.json").write_text(json.dumps(self.tokenizer), "utf-8")
            kept = {n: t.to(self.dtype).contiguous() for n, t in tensors.items()}
            with writing(out):
                save_file(kept, folder / "model.safetensors", {"format": "pt"})
            folder.replace(out)
