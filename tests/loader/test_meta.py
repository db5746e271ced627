"""Meta's consolidated files, read as the Hugging Face checkpoint that they correspond to."""

import base64
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from huref.errors import AccessError, CheckpointError
from huref.loader.checkpoint import open_checkpoint
from huref.loader.tensors import rotary_halves
from tests.support.containers import interleave, write_meta
from tests.support.hub_server import LoopbackHub
from tests.support.small_models import some_words

MakeModel = Callable[..., Path]


def write_tiktoken(folder: Path, words: list[str]) -> None:
    lines = [
        base64.b64encode(word.replace("Ġ", " ").encode()) + b" %d" % i
        for i, word in enumerate(words)
    ]
    (folder / "tokenizer.model").write_bytes(b"\n".join(lines) + b"\n")


@pytest.mark.parametrize(
    ("parts", "kv_heads", "embedding_axis"),
    [(1, 4, 1), (2, 4, 1), (2, 2, 0), (4, 2, 0)],
    ids=["Llama 1", "two parts", "Llama 3", "more parts than key-value heads"],
)
def test_parts_are_concatenated(
    make_llama: MakeModel, tmp_path: Path, parts: int, kv_heads: int, embedding_axis: int
) -> None:
    folder = make_llama("model", num_key_value_heads=kv_heads)
    write_meta(folder, tmp_path / "meta", parts, embedding_axis)
    write_tiktoken(tmp_path / "meta", some_words(2048))
    published, meta = open_checkpoint(str(folder)), open_checkpoint(str(tmp_path / "meta"))
    assert set(meta.names) == set(published.names)
    read = meta.read(meta.names)
    for name, tensor in published.read(published.names).items():
        assert torch.equal(read[name], tensor), name
        assert meta.entry(name).shape == tuple(tensor.shape)
        if tensor.dim() == 2:
            rows = [len(tensor) - 1, 0, 5]
            assert torch.equal(meta.read_rows(name, rows), tensor[rows]), name
    for key in ("hidden_size", "num_attention_heads", "num_key_value_heads", "intermediate_size"):
        assert meta.config[key] == published.config[key]
    assert [t.text for t in meta.vocabulary] == [t.text for t in published.vocabulary]


def test_reordered_rows_fit_the_rotary_embedding_of_transformers() -> None:
    """Meta rotates adjacent rows, transformers halves; after reordering the logits agree."""
    from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

    heads, size, width = 3, 8, 5
    torch.manual_seed(0)
    wq, wk = torch.randn(2, heads * size, width)
    angles = torch.arange(1.0, 1 + size // 2) / 3
    x = torch.randn(1, width)

    def meta(weight: torch.Tensor, position: int) -> torch.Tensor:
        pairs = torch.view_as_complex((x @ weight.T).view(heads, size // 2, 2))
        return torch.view_as_real(pairs * torch.polar(torch.ones(4), position * angles)).flatten(1)

    def published(weight: torch.Tensor, position: int) -> torch.Tensor:
        vectors = (x @ weight[rotary_halves(heads * size, heads)].T).view(1, heads, 1, size)
        turn = (position * angles).repeat(2)[None, None]
        turned: torch.Tensor = apply_rotary_pos_emb(vectors, vectors, turn.cos(), turn.sin())[0]
        return turned.view(heads, size)

    expected = (meta(wq, 7) * meta(wk, 2)).sum(dim=1)
    found = (published(wq, 7) * published(wk, 2)).sum(dim=1)
    torch.testing.assert_close(found, expected)


def test_rotary_halves_invert_the_interleaving_of_llama_cpp() -> None:
    weight = torch.randn(24, 5)
    assert torch.equal(interleave(weight, 3)[rotary_halves(24, 3)], weight)


def test_a_gated_release_is_read_over_the_hub(
    make_llama: MakeModel, tmp_path: Path, hub: LoopbackHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Gated, with consolidated.00.pth, params.json and tokenizer.model like the real Llama 2."""
    folder = make_llama("model", num_key_value_heads=4)
    write_meta(folder, tmp_path / "Llama-2-7b")
    write_tiktoken(tmp_path / "Llama-2-7b", some_words(2048))
    hub.add("meta-llama/Llama-2-7b", tmp_path / "Llama-2-7b", gated=True)
    with pytest.raises(
        AccessError,
        match=r"meta-llama/Llama-2-7b: .*the repository is gated; ask for access at http",
    ):
        _ = open_checkpoint("meta-llama/Llama-2-7b").names
    monkeypatch.setenv("HF_TOKEN", "hf_test")
    checkpoint = open_checkpoint("meta-llama/Llama-2-7b")
    name = "model.layers.1.self_attn.k_proj.weight"
    assert torch.equal(
        checkpoint.read([name])[name], open_checkpoint(str(folder)).read([name])[name]
    )
    assert checkpoint.bytes_read == hub.bytes_sent
    assert len(checkpoint.vocabulary) == 2048


def test_inconsistent_parts_are_refused(make_llama: MakeModel, tmp_path: Path) -> None:
    folder = tmp_path / "meta"
    write_meta(make_llama("model"), folder, parts=2)
    params = json.loads((folder / "params.json").read_text())
    name = "model.layers.0.self_attn.q_proj.weight"
    (folder / "params.json").write_text(json.dumps(params | {"n_heads": 7}))
    with pytest.raises(CheckpointError, match=r"consolidated\.00\.pth.*7 heads"):
        open_checkpoint(str(folder)).read([name])
    (folder / "params.json").write_text(json.dumps(params | {"n_heads": -1}))
    with pytest.raises(CheckpointError, match=r"params\.json: it has n_heads"):
        _ = open_checkpoint(str(folder)).config
    torch.save({"norm.weight": torch.ones(3)}, folder / "consolidated.01.pth")
    (folder / "params.json").write_text(json.dumps(params))
    with pytest.raises(CheckpointError, match=r"consolidated\.01\.pth"):
        open_checkpoint(str(folder)).read([name])
    (folder / "consolidated.00.pth").unlink()
    with pytest.raises(CheckpointError, match=r"only numbers \[1\]"):
        _ = open_checkpoint(str(folder)).names
