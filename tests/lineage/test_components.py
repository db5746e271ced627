"""Parts of two models one by one, distance and sameness, and figures that are no evidence."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file, save_file

import huref
from huref.attacks import attack
from huref.cli import main
from huref.lineage.table import Pair
from huref.report.wording import tower_sentences
from tests.support.multimodal import join, make_tower
from tests.support.zoo import ZOO


def pair_of(a: Path, b: Path, **options: bool) -> Pair:
    return huref.compare([a, b], **options).pairs[0]  # type: ignore[arg-type]


@pytest.mark.slow
def test_a_borrowed_vision_encoder_is_said_first(tmp_path: Path) -> None:
    tower = make_tower(1)
    slightly = {name: t + 0.01 * torch.randn(t.shape) for name, t in tower.items()}
    giver = join(tmp_path / "giver", ZOO / "llama-b", tower, seed=2)
    taker = join(tmp_path / "taker", ZOO / "llama-a", slightly, seed=3, start="model.")
    table = huref.compare([giver, taker, ZOO / "llama-a-finetune"], components=True)
    parts = {(p.part, p.block): p for p in table.pairs[0].evidence.components or ()}
    assert parts["vision encoder", None].verdict == "related"
    assert (parts["vision encoder", None].figure or 0) > 0.95
    assert parts["projector", None].verdict == "unrelated"
    assert parts["embeddings", None].verdict == "unrelated"
    for block in range(5):
        for half in ("attention", "ffn"):
            part = parts[half, block]
            assert part.verdict == "unrelated"
            assert part.figure is not None
            assert part.background is not None
            assert part.figure < part.background
    assert table.pairs[0].evidence.verdict == "contains parts"
    assert table.pairs[0].why.startswith("the vision encoder of both is of one origin")
    assert tower_sentences(table) == [
        "taker has the vision encoder of giver under the language model of llama-a-finetune's "
        "family."
    ]
    # The language model's own parts, beside a fine-tune.
    own = {(p.part, p.block): p for p in table.pairs[2].evidence.components or ()}
    assert {p.verdict for p in own.values()} == {"related"}
    assert table.pairs[2].evidence.verdict == "descends"


@pytest.mark.slow
def test_the_same_tower_in_unrelated_models_on_the_command_line(tmp_path: Path) -> None:
    tower = make_tower(1)
    one = join(tmp_path / "one", ZOO / "llama-a", tower, seed=2)
    two = join(tmp_path / "two", ZOO / "llama-b", tower, seed=3)
    arguments = ["compare", str(one), str(two), "--components"]
    text = CliRunner().invoke(main, arguments)
    assert text.exit_code == 0, text.output
    first = text.stdout.splitlines()[0]
    assert first.startswith("The vision encoder of one and two is of one origin; their language")
    assert "vision encoder" in text.stdout.partition("part by part")[2]
    data = json.loads(CliRunner().invoke(main, [*arguments, "--json"]).stdout)
    parts = data["pairs"][0]["components"]
    assert parts[0]["part"] == "vision encoder"
    assert parts[0]["verdict"] == "same weights"


def test_without_components_none_are_listed() -> None:
    pair = pair_of(ZOO / "llama-a", ZOO / "llama-b")
    assert pair.evidence.components is None
    assert pair.evidence.moved is None
    assert pair.evidence.same is None


def test_distance_grows_with_training() -> None:
    """By the ranges of docs/measured/mixtures.md."""
    light, long = (
        pair_of(ZOO / "llama-a", ZOO / name).evidence.moved
        for name in ("llama-a-finetune", "llama-a-continued")
    )
    assert light is not None
    assert long is not None
    assert 0 < light.low < light.share < light.high < long.low < long.high < 0.2
    assert "fine-tuning" in light.like
    assert "continued pretraining" not in light.like
    assert "continued pretraining" in long.like


def copy_of(folder: Path, change: Callable[[torch.Tensor], torch.Tensor]) -> Path:
    """llama-a with every tensor changed, in two files."""
    folder.mkdir()
    source = ZOO / "llama-a"
    for file in source.glob("*.json"):
        (folder / file.name).write_bytes(file.read_bytes())
    state = {n: change(t).contiguous() for n, t in load_file(source / "model.safetensors").items()}
    names = sorted(state)
    parts = [names[::2], names[1::2]]
    for number, part in enumerate(parts):
        save_file(
            {n: state[n] for n in part}, folder / f"model-0000{number + 1}-of-00002.safetensors"
        )
    index = {
        "metadata": {},
        "weight_map": {
            n: f"model-0000{number + 1}-of-00002.safetensors"
            for number, part in enumerate(parts)
            for n in part
        },
    }
    (folder / "model.safetensors.index.json").write_text(json.dumps(index), "utf-8")
    return folder


def on_grid(tensor: torch.Tensor) -> torch.Tensor:
    """Each row on 255 levels, as eight-bit quantisation leaves it; float32 so that steps stay."""
    if tensor.ndim < 2:
        return tensor.float()
    step = tensor.float().abs().amax(dim=1, keepdim=True) / 127
    return (tensor.float() / step).round() * step


@pytest.mark.parametrize(
    ("change", "same"),
    [
        (lambda tensor: tensor.float(), "weights"),
        (lambda tensor: tensor.bfloat16(), "quantised"),
        (on_grid, "quantised"),
        (lambda tensor: tensor.float() * (1 + 0.003 * torch.randn(tensor.shape)), None),
    ],
)
def test_one_model_in_other_files_and_numbers(
    tmp_path: Path, change: Callable[[torch.Tensor], torch.Tensor], same: str | None
) -> None:
    torch.manual_seed(0)
    pair = pair_of(ZOO / "llama-a", copy_of(tmp_path / "copy", change))
    assert pair.evidence.verdict == "descends"
    assert pair.evidence.same == same
    assert pair.evidence.moved is not None
    assert pair.evidence.moved.share < 0.01
    if same == "weights":
        assert pair.why.startswith("the same weights in the 3 of 5 blocks that were compared: ")
        assert pair.evidence.moved.share < 1e-6


def test_one_function_under_other_weights(tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    attack(str(ZOO / "llama-a"), ["rotation", "ffn-permutation", "ffn-scaling"], copy)
    pair = pair_of(ZOO / "llama-a", copy)
    assert pair.evidence.same == "function"
    assert pair.why.startswith("the same function under other weights")
    assert pair.evidence.moved is not None
    assert pair.evidence.moved.high < 0.001


def test_a_fine_tune_of_the_last_block_is_told_at_full_depth(tmp_path: Path) -> None:
    torch.manual_seed(0)
    copy = tmp_path / "copy"
    shutil.copytree(ZOO / "llama-a", copy)
    state = load_file(copy / "model.safetensors")
    for name in (n for n, t in state.items() if ".layers.4." in n and t.ndim == 2):
        state[name] = state[name].float() + 0.01 * torch.randn(state[name].shape)
    save_file(state, copy / "model.safetensors", {"format": "pt"})
    assert pair_of(ZOO / "llama-a", copy).evidence.same_blocks == (3, 5)
    pair = huref.compare([ZOO / "llama-a", copy], depth="full", cache=False).pairs[0]
    assert pair.evidence.verdict == "descends"
    assert pair.evidence.same is None
    assert pair.evidence.same_blocks is None
    files = copy_of(tmp_path / "files", lambda tensor: tensor)
    same = huref.compare([ZOO / "llama-a", files], depth="full", cache=False).pairs[0]
    assert same.evidence.same_blocks == (5, 5)
    assert same.why.startswith("the same weights: ")


def test_a_fine_tune_is_none_of_these() -> None:
    for name in ("llama-a-finetune", "llama-a-lora"):
        assert pair_of(ZOO / "llama-a", ZOO / name).evidence.same is None


def test_norm_vectors_shapes_and_tokenizer_are_no_evidence(
    make_llama: Callable[..., Path],
) -> None:
    """Two strangers of one config and tokenizer, whose norm vectors have a cosine above 0.99."""
    one, two = make_llama("one", seed=1), make_llama("two", seed=2)
    profile = 1 + 0.3 * torch.rand(64, generator=torch.Generator().manual_seed(5))
    vectors = []
    for seed, folder in enumerate((one, two)):
        state = load_file(folder / "model.safetensors")
        noise = torch.Generator().manual_seed(seed)
        for name in state:
            if "norm" in name:
                state[name] = profile + 0.05 * torch.randn(64, generator=noise)
        save_file(state, folder / "model.safetensors", {"format": "pt"})
        vectors.append(torch.cat([state[name] for name in sorted(state) if "norm" in name]))
    assert float(torch.cosine_similarity(vectors[0], vectors[1], dim=0)) > 0.99
    assert (one / "config.json").read_bytes() == (two / "config.json").read_bytes()
    table = huref.compare([one, two], components=True)
    pair = table.pairs[0]
    assert pair.evidence.verdict == "unrelated"
    assert {part.verdict for part in pair.evidence.components or ()} <= {"unrelated"}
    assert "norm" not in {part.part for part in pair.evidence.components or ()}
