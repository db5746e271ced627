"""The published terms, against their formula written out on a model's own tensors."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import transformers
import yaml

import huref
from huref.assets import locate
from huref.errors import AnchorError, RecipeError
from huref.invariants.extract import extract_terms
from huref.invariants.terms import pearson
from huref.loader.checkpoint import open_checkpoint
from huref.recipe import Recipe

MakeModel = Callable[..., Path]
PAPER = Recipe("paper", "rank", 128, (-2, -1), "published-1", 0.0, "-", "-")


def test_terms_are_the_published_products(make_llama: MakeModel) -> None:
    folder = make_llama("model", num_key_value_heads=4)
    extract = extract_terms(open_checkpoint(str(folder)), PAPER)
    assert extract.layers == (2, 3)
    model = transformers.LlamaForCausalLM.from_pretrained(folder)
    x = model.model.embed_tokens.weight.data[-128:]
    for terms, layer in zip(extract.terms, model.model.layers[-2:], strict=True):
        a, mlp = layer.self_attn, layer.mlp
        q, k, v, o = (p.weight.data for p in (a.q_proj, a.k_proj, a.v_proj, a.o_proj))
        g, u, d = (p.weight.data for p in (mlp.gate_proj, mlp.up_proj, mlp.down_proj))
        expected = [
            x @ q.t() @ k @ x.t(),
            x @ v.t() @ o.t() @ x.t(),
            x @ ((g.t() * u.t()) @ d.t()) @ x.t(),
        ]
        for mine, published in zip(terms, expected, strict=True):
            assert pearson(mine, published) > 1 - 1e-9


@pytest.mark.parametrize("form", [json.dumps, lambda ids: "\n".join(map(str, ids))])
def test_a_list_of_ids_is_ranked_as_given(
    make_llama: MakeModel, tmp_path: Path, form: Callable[[list[int]], str]
) -> None:
    folder = make_llama("model")
    ids = list(range(300, 0, -1))
    (tmp_path / "ids").write_text(form(ids))
    recipe = replace(PAPER, anchors=f"rank:{tmp_path / 'ids'}")
    extract = extract_terms(open_checkpoint(str(folder)), recipe)
    assert extract.anchors.ids == tuple(range(128, 0, -1))
    assert extract.recipe.anchors.startswith("rank:")
    assert str(tmp_path) not in extract.recipe.anchors


def test_a_small_vocabulary_gets_a_recipe_of_its_own(make_llama: MakeModel) -> None:
    checkpoint = open_checkpoint(str(make_llama("model")))  # of 2048 tokens
    extract = extract_terms(checkpoint, replace(PAPER, m=4096))
    assert extract.recipe.name == "paper+2048-tokens"
    assert extract.recipe.m == len(extract.anchors) == extract.terms.shape[-1] == 2048
    assert extract.recipe.family == "paper"
    assert extract.recipe.digest != replace(PAPER, m=4096).digest


def test_published_terms_get_no_verdict(make_llama: MakeModel, tmp_path: Path) -> None:
    recipe = yaml.safe_load(locate("configs/recipes/paper.yaml").read_text())
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(recipe | {"name": "small", "m": 256}))
    models = [make_llama("a"), make_llama("b", seed=1)]
    (pair,) = huref.compare(models, recipe=str(tmp_path / "small.yaml")).pairs
    assert pair.similarity.ics is not None
    assert pair.evidence.verdict is None
    assert "no verdict" in pair.evidence.why


def test_too_few_tokens_or_a_list_of_something_else(make_llama: MakeModel, tmp_path: Path) -> None:
    checkpoint = open_checkpoint(str(make_llama("model")))
    (tmp_path / "few").write_text(" ".join(map(str, range(200))))
    with pytest.raises(AnchorError, match="need at least 256 ranked tokens, there are 200"):
        extract_terms(checkpoint, replace(PAPER, anchors=f"rank:{tmp_path / 'few'}", m=4096))
    (tmp_path / "ids").write_text("the and of")
    with pytest.raises(RecipeError, match="not a list of token ids"):
        extract_terms(checkpoint, replace(PAPER, anchors=f"rank:{tmp_path / 'ids'}"))
