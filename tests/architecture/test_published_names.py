"""Checkpoints whose published tensor names differ from those that transformers saves.

The language model inside a multimodal wrapper is published under the wrapper's names, and
transformers renames, joins and splits its tensors when it loads them. Here a tiny model is saved by
transformers and converted to the published form by the inverse of that. Both forms must be read
alike; `test_architecture` tests the saved form.
"""

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from huref.architecture.reader import ModelReader
from huref.loader.checkpoint import open_checkpoint
from tests.architecture.test_architecture import build
from tests.support.architecture_cases import CASES

Tensors = Mapping[str, Tensor]


def _renamed(name: str, renames: Mapping[str, str]) -> str:
    for pattern, replacement in renames.items():
        name = re.sub(pattern, replacement, name)
    return name


def publish_minimax_m3(tensors: Tensors) -> dict[str, Tensor]:
    """Separate experts with w1 (gate), w3 (up) and w2 (down)."""
    published = {}
    for name, tensor in tensors.items():
        new = re.sub(r"[.]mlp[.](experts|gate|shared_experts)[.]", r".block_sparse_moe.\1.", name)
        new = "language_model." + new
        if "experts.gate_up_proj" in new and tensor.dim() == 3:
            for e, expert in enumerate(tensor):
                for role, part in zip(("w1", "w3"), expert.chunk(2), strict=True):
                    published[new.replace("gate_up_proj", f"{e}.{role}.weight")] = part.clone()
        elif "experts.down_proj" in new and tensor.dim() == 3:
            for e, expert in enumerate(tensor):
                published[new.replace("down_proj", f"{e}.w2.weight")] = expert.clone()
        elif "gate_up_proj" in new:
            for role, part in zip(("gate_proj", "up_proj"), tensor.chunk(2), strict=True):
                published[new.replace("gate_up_proj", role)] = part.clone()
        else:
            published[new] = tensor
    return published


INKLING = {
    r"^model[.]": "model.llm.",
    r"llm[.]embed_tokens[.]embed_norm": "llm.embed_norm",
    r"llm[.]embed_tokens": "llm.embed",
    r"self_attn[.]q_proj": "attn.wq_du",
    r"self_attn[.]k_proj": "attn.wk_dv",
    r"self_attn[.]v_proj": "attn.wv_dv",
    r"self_attn[.]r_proj": "attn.wr_du",
    r"self_attn[.]o_proj": "attn.wo_ud",
    r"self_attn[.]": "attn.",
    r"sconv[.]conv1d": "sconv",
    r"[.]input_layernorm": ".attn_norm",
    r"[.]post_attention_layernorm": ".mlp_norm",
    r"mlp[.]experts[.]gate_up_proj": "mlp.experts.w13_weight",
    r"mlp[.]experts[.]down_proj": "mlp.experts.w2_weight",
    r"mlp[.]shared_experts[.]down_proj": "mlp.shared_experts.shared_w2_weight",
}


def _interleaved(gate: Tensor, up: Tensor) -> Tensor:
    """Gate and up (experts, hidden, d) as (experts, 2 hidden, d), rows alternating, gate first."""
    return torch.stack([gate, up], dim=2).flatten(1, 2)


def publish_inkling(tensors: Tensors) -> dict[str, Tensor]:
    """The wrapper's names, with gate and up interleaved."""
    published = {}
    for name, tensor in tensors.items():
        if "shared_experts.gate_proj" in name:
            up = tensors[name.replace("gate_proj", "up_proj")]
            new = name.replace("gate_proj", "shared_w13_weight")
            published[_renamed(new, INKLING)] = _interleaved(tensor, up)
        elif "mlp.experts.gate_up_proj" in name:
            published[_renamed(name, INKLING)] = _interleaved(*tensor.chunk(2, dim=1))
        elif "shared_experts.up_proj" not in name:
            published[_renamed(name, INKLING)] = tensor
    return published


@pytest.mark.parametrize(
    ("model_type", "publish", "layout"),
    [
        ("minimax_m3_vl_text", publish_minimax_m3, "minimax_m3"),
        ("inkling_text", publish_inkling, "inkling_published"),
    ],
)
def test_the_published_form_is_read_like_the_saved_one(
    model_type: str, publish: Callable[[Tensors], dict[str, Tensor]], layout: str, tmp_path: Path
) -> None:
    case = CASES[model_type]
    build(case).save_pretrained(tmp_path)
    saved = ModelReader(open_checkpoint(str(tmp_path)))
    rows, block = saved.embeddings(range(3, 9)), saved.read_block(case.index)
    expected = (block.attention.scores(rows), block.attention.write(rows), block.ffn.write(rows))
    file = tmp_path / "model.safetensors"
    save_file(publish(load_file(file)), file)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({"text_config": config}))
    reader = ModelReader(open_checkpoint(str(tmp_path)))
    assert reader.layout.name == layout != saved.layout.name
    assert torch.equal(reader.embeddings(range(3, 9)), rows)
    other = reader.read_block(case.index)
    terms = (other.attention.scores(rows), other.attention.write(rows), other.ffn.write(rows))
    for term, reference in zip(terms, expected, strict=True):
        tolerance = 1e-4 * float(reference.abs().max())
        assert torch.allclose(term, reference, rtol=1e-4, atol=tolerance)
