"""The recipe `function`: what a model does not use weighs nothing, and what hides is named."""

import json
import math
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import Tensor

import huref
from huref.api.open import open_record
from huref.architecture.block import FeedForward
from huref.errors import WeightsError
from huref.invariants.anchors import choose_emitted
from huref.invariants.block_use import UnitUse
from huref.invariants.canonical_units import find_parallel, merge_equal_units
from huref.invariants.record import Record, load_record
from huref.lineage.similarity import compare_records
from huref.loader.checkpoint import open_checkpoint
from huref.loader.vocabulary import parse_tokenizer_json
from huref.loader.vocabulary.encoder import from_pieces, from_tokenizer_json
from tests.support.small_models import some_words, write_tokenizer
from tests.support.zoo import ZOO

Tensors = dict[str, Tensor]
Settings = dict[str, object]
UNITS, HEAD, PER_GROUP = 192, 32, 2  # of llama-a


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def layers(tensors: Tensors) -> list[str]:
    return sorted({name[: name.index(".", 13) + 1] for name in tensors if ".layers." in name})


def dead_heads(tensors: Tensors, config: Settings) -> None:
    """A group of loud heads that write nothing."""
    for start in layers(tensors):
        q, k, v, o = (f"{start}self_attn.{n}_proj.weight" for n in "qkvo")
        width = tensors[q].shape[1]
        for name, rows in ((q, PER_GROUP * HEAD), (k, HEAD), (v, HEAD)):
            loud = draw(rows, width) * 8 * tensors[name].std()
            tensors[name] = torch.cat([tensors[name], loud])
        tensors[o] = torch.cat([tensors[o], torch.zeros(width, PER_GROUP * HEAD)], dim=1)
    config |= {"num_attention_heads": 6, "num_key_value_heads": 3}


def cancelling_heads(tensors: Tensors, config: Settings) -> None:
    """The first group once more; noise in the output of the one is taken back by the other."""
    for start in layers(tensors):
        q, k, v, o = (f"{start}self_attn.{n}_proj.weight" for n in "qkvo")
        size = PER_GROUP * HEAD
        noise = draw(len(tensors[o]), size) * 10 * tensors[o].std()
        for name, rows in ((q, size), (k, HEAD), (v, HEAD)):
            tensors[name] = torch.cat([tensors[name], tensors[name][:rows]])
        first = torch.cat([tensors[o][:, :size] + noise, tensors[o][:, size:]], dim=1)
        tensors[o] = torch.cat([first, -noise], dim=1)
    config |= {"num_attention_heads": 6, "num_key_value_heads": 3}


def split_units(tensors: Tensors, config: Settings) -> None:
    """Each unit in three parts of one gate, whose noise cancels, in random order."""
    for start in layers(tensors):
        gate, up, down = (f"{start}mlp.{n}_proj.weight" for n in ("gate", "up", "down"))
        a = draw(*tensors[up].shape) * 5 * tensors[up].std()
        b = draw(*tensors[down].shape) * 5 * tensors[down].std()
        order = torch.randperm(3 * UNITS, generator=torch.Generator().manual_seed(1))
        tensors[gate] = tensors[gate].repeat(3, 1)[order]
        tensors[down] = torch.cat([tensors[down] - b, b, b], dim=1)[:, order]
        parts = [tensors[up], tensors[up] - a, a]
        tensors[up] = torch.cat(parts)[order]
    config["intermediate_size"] = 3 * UNITS


def unwritten_dimensions(tensors: Tensors, config: Settings) -> None:
    """Nine dimensions that all readers read loudly and nothing writes."""
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()
    width = tensors["lm_head.weight"].shape[1]
    scale = (width / (width + 9)) ** 0.5
    for name, weight in tensors.items():
        if weight.ndim == 1:
            tensors[name] = torch.cat([weight * scale, torch.ones(9)])
        elif name.endswith(("o_proj.weight", "down_proj.weight")):
            tensors[name] = torch.cat([weight, torch.zeros(9, weight.shape[1])])
        else:
            loud = 7 * weight.norm(dim=1, keepdim=True) * draw(len(weight), 9)
            read = name.endswith("_proj.weight")
            tensors[name] = torch.cat([weight, loud if read else 0 * loud], dim=1)
    config |= {"hidden_size": width + 9, "tie_word_embeddings": False}
    config["rms_norm_eps"] = 1e-6 * scale**2


def silent_blocks(tensors: Tensors, config: Settings) -> None:
    """Three random blocks in front that write next to nothing."""
    old = dict(tensors)
    size = float(old["model.embed_tokens.weight"].square().mean().sqrt())
    for name in old:
        if ".layers." in name:
            head, number, rest = name.split(".", 3)[0], name.split(".")[2], name.split(".", 3)[3]
            tensors[f"{head}.layers.{int(number) + 3}.{rest}"] = old[name]
    for index in range(3):
        for name, weight in old.items():
            if name.startswith("model.layers.0."):
                new = torch.ones_like(weight)
                if weight.ndim == 2:
                    new = draw(*weight.shape, seed=index) / math.sqrt(weight.shape[1])
                    if name.endswith(("o_proj.weight", "down_proj.weight")):
                        new = new * 3e-3 * size
                tensors[name.replace("layers.0.", f"layers.{index}.")] = new
    config["num_hidden_layers"] = 8


DISGUISES: dict[str, Callable[[Tensors, Settings], None]] = {
    "head without effect": dead_heads,
    "cancelling heads": cancelling_heads,
    "equal gates": split_units,
    "unwritten dimension": unwritten_dimensions,
    "silent block": silent_blocks,
}


def disguise(folder: Path, *edits: Callable[[Tensors, Settings], None]) -> Path:
    """A copy of llama-a with some edits, in float32."""
    source = ZOO / "llama-a"
    tensors = {n: t.float() for n, t in load_file(source / "model.safetensors").items()}
    config = json.loads((source / "config.json").read_text())
    for edit in edits:
        edit(tensors, config)
    folder.mkdir()
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(source / name, folder / name)
    (folder / "config.json").write_text(json.dumps(config))
    whole = {name: tensor.contiguous() for name, tensor in tensors.items()}
    save_file(whole, folder / "model.safetensors")
    return folder


@pytest.fixture(scope="module")
def base() -> Record:
    return open_record(str(ZOO / "llama-a"))


def similarity(a: Record, b: Record) -> float:
    ics = compare_records(a, b).ics
    assert ics is not None
    return ics


@pytest.mark.parametrize("kind", DISGUISES)
def test_what_is_not_used_weighs_nothing(kind: str, base: Record, tmp_path: Path) -> None:
    copy = open_record(str(disguise(tmp_path / "copy", DISGUISES[kind])))
    assert similarity(base, copy) > 0.995
    assert compare_records(base, copy).latent_cosine > 0.95  # type: ignore[operator]
    assert copy.function is not None
    found = {sign.kind for sign in copy.function.signs}
    assert found == (set() if kind == "cancelling heads" else {kind})


@pytest.mark.slow
def test_all_disguises_at_once_are_seen_through(base: Record, tmp_path: Path) -> None:
    edits = (dead_heads, split_units, silent_blocks, unwritten_dimensions)
    folder = disguise(tmp_path / "copy", *edits)
    table = huref.compare([ZOO / "llama-a", folder], cache=False)
    pair = table.pairs[0]
    assert pair.evidence.verdict == "descends"
    assert pair.similarity.ics is not None
    assert pair.similarity.ics > 0.99
    signs = table.to_json()["signs"]
    assert signs[str(ZOO / "llama-a")] == []
    assert any("next to nothing" in words for words in signs[str(folder)])
    # A sign makes compare read the blocks that are left.
    record = table.records[1]
    assert record.function is not None
    assert len(record.function.energy) == 8


@pytest.mark.slow
@pytest.mark.parametrize("name", ["llama-a-continued", "llama-a-twin", "llama-b", "qwen-c"])
def test_relatives_and_strangers_are_as_near_as_by_weights(name: str, base: Record) -> None:
    other = open_record(str(ZOO / name))
    static = [open_record(str(ZOO / model)) for model in ("llama-a", name)]
    assert abs(similarity(base, other) - similarity(*static)) < 0.03
    assert other.function is not None
    assert other.function.forward == "exact"
    assert other.function.signs == ()


def test_records_keep_what_blocks_do(base: Record, tmp_path: Path) -> None:
    base.save(tmp_path / "record.safetensors")
    again = load_record(tmp_path / "record.safetensors")
    assert base.function is not None
    assert again.function is not None
    assert again.function.signs == base.function.signs
    for name, tensor in base.function.tensors().items():
        assert torch.equal(again.function.tensors()[name], tensor), name
    assert base.units is not None
    shares = base.function.unit_shares
    assert len(shares) == len(base.units.features)
    # The units of each network together write all that it writes.
    assert torch.allclose(shares.view(2, UNITS).sum(dim=1), torch.ones(2), atol=1e-4)


def test_equal_gates_become_one_unit() -> None:
    network = FeedForward(draw(40, 12), draw(40, 12, seed=1), draw(12, 40, seed=2))
    assert network.gate is not None
    assert find_parallel(network.gate) == []
    gate = torch.cat([network.gate, network.gate[:, :5]], dim=1)
    noise = draw(5, 40, seed=3)
    up = torch.cat([network.up, network.up[:, :5]], dim=1)
    down = torch.cat([network.down, noise])
    down[:5] -= noise
    use = UnitUse(torch.ones(17), torch.full((17,), 1 / 17))
    merged = merge_equal_units(FeedForward(up, gate, down), use)
    assert merged.equal.removed == 5
    assert merged.use.shares is not None
    x = draw(30, 40, seed=4)
    assert torch.allclose(merged.network.write(x), network.write(x), atol=1e-3)
    assert abs(float(merged.use.shares.sum()) - 1) < 1e-5


@pytest.mark.parametrize("how", ["scale", "correction"])
def test_silent_experts_weigh_nothing(how: str, tmp_path: Path) -> None:
    """Each network of a Llama as the shared expert of a mixture, beside experts of noise.

    Routed experts are multiplied by nearly nothing, or the only one that is ever chosen is empty.
    """
    source = ZOO / "llama-a"
    config = json.loads((source / "config.json").read_text())
    copied = (
        "vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "head_dim",
        "num_key_value_heads", "rms_norm_eps", "tie_word_embeddings", "max_position_embeddings",
        "bos_token_id", "eos_token_id",
    )  # fmt: skip
    rope = {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 1.0}
    mixture = transformers.Glm4MoeForCausalLM(
        transformers.Glm4MoeConfig(
            **{key: config[key] for key in copied}, moe_intermediate_size=UNITS, n_shared_experts=1,
            first_k_dense_replace=0, n_routed_experts=4, num_experts_per_tok=1, n_group=1,
            topk_group=1, routed_scaling_factor=1e-8 if how == "scale" else 1.0,
            rope_parameters=rope,
        )
    ).eval()  # fmt: skip
    tensors = {n: t.float() for n, t in load_file(source / "model.safetensors").items()}
    shared = {n.replace("mlp.", "mlp.shared_experts."): t for n, t in tensors.items()}
    absent, unknown = mixture.load_state_dict(shared, strict=False)
    assert not unknown
    assert all("mlp.gate." in name or ".experts." in name or "lm_head" in name for name in absent)
    mixture.tie_weights()
    for name, tensor in mixture.state_dict().items() if how == "correction" else ():
        if name.endswith("mlp.gate.weight"):
            tensor.zero_()
        elif name.endswith("e_score_correction_bias"):
            tensor[2] = 5.0
        elif name.endswith("experts.down_proj"):
            tensor[2] = 0.0
    ids = torch.arange(40)[None]
    llama = transformers.LlamaForCausalLM.from_pretrained(source, dtype=torch.float32)
    torch.testing.assert_close(mixture(ids).logits, llama(ids).logits, rtol=1e-4, atol=1e-4)
    mixture.save_pretrained(tmp_path / "mixture")
    shutil.copy(source / "tokenizer.json", tmp_path / "mixture")
    pair = huref.compare([str(source), str(tmp_path / "mixture")], cache=False).pairs[0]
    assert pair.similarity.ics == pytest.approx(1, abs=1e-5)
    assert pair.evidence.same == "function"


def test_overflow_falls_back_to_the_weights(tmp_path: Path) -> None:
    def overflow(tensors: Tensors, config: Settings) -> None:
        tensors["model.layers.0.mlp.down_proj.weight"] *= 1e38

    record = open_record(str(disguise(tmp_path / "copy", overflow)))
    assert record.function is not None
    assert record.function.forward == "none"
    assert record.terms is not None
    assert torch.isfinite(record.terms).all()


@pytest.mark.parametrize("positions", [1, 2, 33])
def test_models_of_short_contexts_are_run_on_short_texts(positions: int, tmp_path: Path) -> None:
    sizes = {"n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": positions}
    model = transformers.GPT2LMHeadModel(transformers.GPT2Config(vocab_size=600, **sizes))
    model.save_pretrained(tmp_path / "short")
    write_tokenizer(tmp_path / "short", some_words(600))
    if positions == 1:
        with pytest.raises(WeightsError, match=r"wpe\.weight': embeddings of 1 positions"):
            open_record(str(tmp_path / "short"), cache=False)
    else:
        record = open_record(str(tmp_path / "short"), cache=False)
        assert record.terms is not None
        assert record.terms.isfinite().all()


def test_only_strings_that_the_tokenizer_emits_are_anchors() -> None:
    data = json.loads((ZOO / "llama-a" / "tokenizer.json").read_text())
    plain = json.dumps(data).encode()
    size = max(data["model"]["vocab"].values()) + 1
    decoys = [a + b for a in "abcdefghij" for b in "QXZ"]
    data["model"]["vocab"] |= {word: size + i for i, word in enumerate(decoys)}
    edited = json.dumps(data).encode()
    anchors = []
    for text in (plain, edited):
        encoder = from_tokenizer_json(text)
        assert encoder is not None
        found, share = choose_emitted(parse_tokenizer_json(text), 512, "latin", encoder.emits)
        anchors.append(found)
    assert anchors[0] == anchors[1]
    assert share > 0.02


def test_added_tokens_that_contradict_the_vocabulary_are_left_out() -> None:
    data = json.loads((ZOO / "llama-a" / "tokenizer.json").read_text())
    before = parse_tokenizer_json(json.dumps(data).encode())
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized", "special"), False)
    have = {entry["id"] for entry in data["added_tokens"]}
    data["added_tokens"] += [
        {"id": number, "content": f"<never {number}>"} | flags
        for number in data["model"]["vocab"].values()
        if number not in have
    ]
    edited = json.dumps(data).encode()
    assert parse_tokenizer_json(edited) == before
    encoder, plain = from_tokenizer_json(edited), from_tokenizer_json(json.dumps(data).encode())
    assert encoder is not None
    assert plain is not None
    assert encoder.encode("def nearest(points):") == plain.encode("def nearest(points):")


def test_vocabularies_without_a_tokenizer_json_are_run_by_their_scores() -> None:
    pieces = ["<unk>", "▁", "a", "b", "c", "ab", "abc", "▁ab", "bc", "ac"]
    scores = [0.0, -9.0, -9.0, -9.0, -9.0, -1.0, -2.0, -3.0, -4.0, -5.0]
    encoder = from_pieces(pieces, scores, kind="bpe")
    assert encoder is not None
    tokens = open_checkpoint(str(ZOO / "llama-a")).vocabulary
    by_piece = {
        piece: replace(tokens[10], id=number, text=piece.encode())
        for number, piece in enumerate(pieces)
    }
    emitted = [piece for piece, token in by_piece.items() if encoder.emits(token)]
    assert {"ab", "abc", "▁ab", "bc"} <= set(emitted)
    assert "ac" in emitted  # a and c merge directly
    unused = from_pieces([*pieces, "bac"], [*scores, -6.0], kind="bpe")
    assert unused is not None
    # No two pieces that merge make "bac" once a and c have.
    assert unused.emits(replace(tokens[10], id=10, text=b"bac"))
    unmerged = from_pieces([*pieces, "cXb"], [*scores, -6.0], kind="bpe")
    assert unmerged is not None
    assert not unmerged.emits(replace(tokens[10], id=10, text=b"cXb"))
