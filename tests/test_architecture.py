"""Blocks against the real transformers modules, in float64."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import transformers
import yaml

from huref.architecture.block import Block
from huref.architecture.layout import find_layout, load_layouts, parse_layout
from huref.architecture.reader import ModelReader
from huref.errors import CheckpointError, UnsupportedModelError, WeightsError
from huref.invariants.terms import attention_terms, ffn_term
from huref.loader.checkpoint import open_checkpoint

MakeModel = Callable[..., Path]


def as_float64(block: Block) -> Block:
    attention = {
        k: v.double() if torch.is_tensor(v) else v for k, v in vars(block.attention).items()
    }
    ffn = {k: v.double() for k, v in vars(block.ffn).items()}
    return Block(block.index, type(block.attention)(**attention), type(block.ffn)(**ffn))


def module_terms(layer: torch.nn.Module, E: torch.Tensor, config: object) -> list[torch.Tensor]:
    """qk, vo and ffn as the module computes them on rows E, norms as linear maps, no positions.

    The module's own norm is used on E up to its row-wise scaling (which is undone), its own
    projections with biases zeroed, its own repeat_kv, and its MLP with the identity activation.
    """
    from transformers.models.llama.modeling_llama import repeat_kv

    def norm(module: torch.nn.Module, rows: torch.Tensor) -> torch.Tensor:
        scale = (rows.square().mean(-1, keepdim=True) + module.variance_epsilon).sqrt()
        return module(rows) * scale

    attention, mlp = layer.self_attn, layer.mlp
    for projection in (attention.q_proj, attention.k_proj, attention.v_proj):
        if projection.bias is not None:
            projection.bias.data.zero_()
    rows = norm(layer.input_layernorm, E)
    m, groups = len(E), attention.num_key_value_groups
    split = (1, m, -1, attention.head_dim)
    q = attention.q_proj(rows).view(split).transpose(1, 2)
    k = repeat_kv(attention.k_proj(rows).view(split).transpose(1, 2), groups)
    v = repeat_kv(attention.v_proj(rows).view(split).transpose(1, 2), groups)
    qk = (q @ k.transpose(2, 3)).sum(dim=1)[0]
    vo = attention.o_proj(v.transpose(1, 2).reshape(m, -1)) @ E.T
    mlp.act_fn = torch.nn.Identity()
    ffn = mlp(norm(layer.post_attention_layernorm, E)) @ E.T
    return [qk, vo, ffn]


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        ("Llama", {}),
        ("Llama", {"num_key_value_heads": 4, "head_dim": 24}),
        ("Llama", {"num_key_value_heads": 1}),
        ("Mistral", {"head_dim": 32}),
        ("Qwen2", {"num_attention_heads": 8, "tie_word_embeddings": True}),
        ("Qwen2", {"max_shard_size": "300KB"}),
    ],
)
def test_terms_equal_what_the_module_computes(
    make_llama: MakeModel, kind: str, changes: dict[str, object]
) -> None:
    folder = make_llama("model", kind, **changes)
    model = getattr(transformers, f"{kind}ForCausalLM").from_pretrained(folder).double()
    reader = ModelReader(open_checkpoint(str(folder)))
    E = torch.randn(40, 64, dtype=torch.float64)
    block = as_float64(reader.read_block(2))
    with torch.no_grad():
        expected = module_terms(model.model.layers[2], E, model.config)
    ours = [*attention_terms(block, E), ffn_term(block.ffn, E)]
    for mine, theirs in zip(ours, expected, strict=True):
        assert (mine - theirs).abs().max() < 1e-6 * theirs.abs().max()


def test_embedding_rows_are_the_ones_asked_for(make_llama: MakeModel) -> None:
    folder = make_llama("model")
    model = transformers.LlamaForCausalLM.from_pretrained(folder)
    rows = ModelReader(open_checkpoint(str(folder))).embeddings([7, 3, 2047, 3])
    assert torch.equal(rows, model.model.embed_tokens.weight.data[[7, 3, 2047, 3]])


def test_base_model_without_the_prefix_is_found(make_llama: MakeModel) -> None:
    folder = make_llama("model")
    inner = folder.parent / "inner"
    model = transformers.LlamaForCausalLM.from_pretrained(folder)
    model.model.save_pretrained(inner)
    a, b = (ModelReader(open_checkpoint(str(f))).read_block(1) for f in (folder, inner))
    assert torch.equal(a.attention.q, b.attention.q)


def test_shapes_that_contradict_the_config_are_refused(make_llama: MakeModel) -> None:
    folder = make_llama("model")
    text = (folder / "config.json").read_text()
    (folder / "config.json").write_text(
        text.replace('"num_key_value_heads": 2', '"num_key_value_heads": 4')
    )
    reader = ModelReader(open_checkpoint(str(folder)))
    with pytest.raises(CheckpointError, match=r"k_proj\.weight' has shape"):
        reader.read_block(1)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_are_no_numbers_are_refused(make_llama: MakeModel, value: float) -> None:
    folder = make_llama("model")
    model = transformers.LlamaForCausalLM.from_pretrained(folder)
    model.model.layers[1].mlp.up_proj.weight.data[3, 3] = value
    model.save_pretrained(folder)
    with pytest.raises(WeightsError, match=r"layers\.1\.mlp\.up_proj\.weight"):
        ModelReader(open_checkpoint(str(folder))).read_block(1)


def test_an_unknown_architecture_names_the_known_ones() -> None:
    with pytest.raises(UnsupportedModelError, match=r"'mamba' is not supported.*llama"):
        find_layout({"model_type": "mamba"}, "some/model")


def test_every_layout_is_strict() -> None:
    assert load_layouts()
    from importlib import resources

    folder = resources.files("huref.architecture") / "layouts"
    for file in folder.iterdir():
        data = yaml.safe_load(file.read_text("utf-8"))
        with pytest.raises(ValueError, match="out of place"):
            parse_layout("x", {**data, "surplus": 1})
        with pytest.raises(ValueError, match="out of place"):
            parse_layout("x", {k: v for k, v in data.items() if k != "tensors"})
