"""Shares of merges from sampled weights: by block, by method, and tables that are no mixtures."""

import re
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from huref.api.open import open_record
from huref.invariants.record import Record
from huref.lineage.evidence import HalfShares, Mixing
from huref.lineage.mixing import find_mixings
from huref.report.canvas import Disc
from huref.report.share_curve import draw_shares, has_curve
from tests.support.merges import (
    Merge,
    dare,
    save_merge,
    save_sum,
    spherical,
    stack,
    task_arithmetic,
    ties,
    weighted,
)
from tests.support.zoo import ZOO

BASE, ONE, TWO, LONG, MORE_TOKENS, FEWER_BLOCKS = (
    ZOO / f"llama-a{name}"
    for name in ("", "-finetune", "-finetune-2", "-continued", "-extended", "-pruned")
)
pytestmark = pytest.mark.slow
BLOCK = re.compile(r"layers\.(\d+)\.")


def full(path: Path) -> Record:
    return open_record(str(path), depth="full", cache=True)


@pytest.fixture(scope="module")
def family() -> list[Record]:
    return [full(path) for path in (BASE, ONE, TWO, LONG)]


def merged(
    folder: Path, parents: Sequence[Path], merge: Merge, dtype: torch.dtype = torch.float16
) -> Record:
    return full(save_merge(folder / "merged", parents, BASE, merge, dtype))


def the_only(found: Sequence[Mixing], child: Record) -> Mixing:
    assert [mixing.child for mixing in found] == [child.model]
    return found[0]


def shares_of(mixing: Mixing, parents: Sequence[Path]) -> tuple[float, ...]:
    """Shares in the order of some parents, each within its interval's ends."""
    assert mixing.shares is not None
    assert mixing.low is not None
    assert mixing.high is not None
    assert set(mixing.parents) == {str(path) for path in parents}
    places = [mixing.parents.index(str(path)) for path in parents]
    assert all(mixing.low[i] <= mixing.shares[i] <= mixing.high[i] for i in places)
    return tuple(mixing.shares[i] for i in places)


def holds(mixing: Mixing, parents: Sequence[Path], truth: Sequence[float]) -> bool:
    assert mixing.low is not None
    assert mixing.high is not None
    places = [mixing.parents.index(str(path)) for path in parents]
    return all(
        mixing.low[i] <= share <= mixing.high[i] for i, share in zip(places, truth, strict=True)
    )


def curve(name: str) -> float:
    """The second parent's share: attention from 0.2 to 0.8 over depth, the network the reverse."""
    found = BLOCK.search(name)
    if found is None:
        return 0.5
    rising = 0.2 + 0.15 * int(found[1])
    return rising if "self_attn" in name else 1 - rising


def test_a_curve_over_depth_is_followed_in_every_half_block(
    family: list[Record], tmp_path: Path
) -> None:
    child = merged(tmp_path, [ONE, LONG], spherical(curve))
    mixing = the_only(find_mixings([*family, child]), child)
    assert mixing.method in ("slerp", "linear")
    at = mixing.parents.index(str(LONG))
    assert [block.block for block in mixing.blocks] == [0, 1, 2, 3, 4]
    for block in mixing.blocks:
        halves = {"self_attn": block.attention, "mlp": block.ffn}
        for word, half in halves.items():
            truth = curve(f"model.layers.{block.block}.{word}.")
            assert isinstance(half, HalfShares)
            assert half.shares[at] == pytest.approx(truth, abs=0.03)
            assert half.low[at] <= truth <= half.high[at]
        assert block.both is not None
        assert sum(block.both.shares) == pytest.approx(1)
        assert block.sources == (block.block, block.block)
    assert has_curve(mixing)
    drawn = draw_shares(mixing, ["one", "two"])
    tips = [mark.tip for mark in drawn.marks if isinstance(mark, Disc)]
    assert sum(tip.startswith("block 3, attention: ") for tip in tips) == 1
    assert len(tips) == 10


@pytest.mark.parametrize(
    ("parents", "truth"), [([ONE, TWO], [0.7, 0.3]), ([ONE, LONG, TWO], [0.5, 0.3, 0.2])]
)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_linear_merges(
    family: list[Record],
    tmp_path: Path,
    parents: list[Path],
    truth: list[float],
    dtype: torch.dtype,
) -> None:
    child = merged(tmp_path, parents, weighted(truth), dtype)
    mixing = the_only(find_mixings([*family, child]), child)
    assert shares_of(mixing, parents) == pytest.approx(truth, abs=0.03)
    assert holds(mixing, parents, truth)
    assert mixing.base is None


@pytest.mark.parametrize(
    ("other", "blocks"),
    [
        (MORE_TOKENS, [(i, i) for i in range(5)]),
        (FEWER_BLOCKS, [(0, 0), (1, 1), (2, 2), (4, 3)]),
        (FEWER_BLOCKS, [(4, 3), (0, 0), (1, 1), (2, 2), (0, 0), (4, 3)]),
    ],
    ids=["more tokens", "fewer blocks", "blocks in another order"],
)
def test_parents_of_another_vocabulary_or_depth(
    family: list[Record], tmp_path: Path, other: Path, blocks: list[tuple[int, int]]
) -> None:
    child = full(save_sum(tmp_path / "merged", [LONG, other], [0.65, 0.35], blocks))
    mixing = the_only(find_mixings([*family, full(other), child]), child)
    assert mixing.method == "linear"
    assert shares_of(mixing, [LONG, other]) == pytest.approx([0.65, 0.35], abs=0.03)
    at = [mixing.parents.index(str(path)) for path in (LONG, other)]
    for block, sources in zip(mixing.blocks, blocks, strict=True):
        assert block.sources is not None
        assert tuple(block.sources[i] for i in at) == sources


def test_task_arithmetic_beyond_the_parents(family: list[Record], tmp_path: Path) -> None:
    child = merged(tmp_path, [ONE, LONG], task_arithmetic([0.9, 0.6]))
    older = {(str(BASE), str(path)) for path in (ONE, TWO, LONG)}
    mixing = the_only(find_mixings([*family, child], older), child)
    assert mixing.method == "task arithmetic"
    assert mixing.base == str(BASE)
    assert "sum to 1.50" in mixing.why
    assert shares_of(mixing, [ONE, LONG]) == pytest.approx([0.6, 0.4], abs=0.03)


def added_in(dtype: torch.dtype, weights: list[float]) -> Merge:
    """Task arithmetic whose every step rounds to a type, as merge tools compute it."""

    def merge(name: str, parts: list[torch.Tensor], base: torch.Tensor) -> torch.Tensor:
        changes = torch.stack([part.to(dtype) - base.to(dtype) for part in parts])
        changes *= torch.tensor(weights, dtype=dtype).reshape(-1, *[1] * base.ndim)
        return base.to(dtype) + changes.sum(dim=0)

    return merge


@pytest.mark.parametrize("weights", [[0.5, 0.3], [0.37, 0.41]])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_task_arithmetic_is_told_from_a_mean_with_its_base_by_rounding(
    family: list[Record], tmp_path: Path, dtype: torch.dtype, weights: list[float]
) -> None:
    child = merged(tmp_path, [ONE, LONG], added_in(dtype, weights), dtype)
    mixing = the_only(find_mixings([*family, child]), child)
    assert mixing.method == "task arithmetic"
    assert mixing.base == str(BASE)
    truth = [weight / sum(weights) for weight in weights]
    assert shares_of(mixing, [ONE, LONG]) == pytest.approx(truth, abs=0.05)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_a_mean_with_the_base_stays_one(
    family: list[Record], tmp_path: Path, dtype: torch.dtype
) -> None:
    parents = [BASE, ONE, LONG]
    child = merged(tmp_path, parents, weighted([0.2, 0.5, 0.3]), dtype)
    mixing = the_only(find_mixings([*family, child]), child)
    assert mixing.method == "linear"
    assert mixing.base is None
    assert shares_of(mixing, parents) == pytest.approx([0.2, 0.5, 0.3], abs=0.03)


def test_a_parent_that_hardly_left_the_base_is_told_from_it(
    family: list[Record], tmp_path: Path
) -> None:
    """What it changed is a few times what rounding to 16 bits leaves of the merge."""
    light = save_merge(tmp_path / "light", [ONE], BASE, task_arithmetic([0.05]), torch.float32)
    child = merged(tmp_path, [LONG, light], task_arithmetic([0.8, 0.6]))
    others = [record for record in family if record.model != str(ONE)]
    mixing = the_only(find_mixings([*others, full(light), child]), child)
    assert mixing.base == str(BASE)
    assert shares_of(mixing, [LONG, light]) == pytest.approx([4 / 7, 3 / 7], abs=0.05)


def test_of_explanations_in_a_circle_the_one_with_small_weights_is_kept(
    family: list[Record], tmp_path: Path
) -> None:
    """Solved for a parent, the same equation has weights beyond one; no direction is known."""
    child = merged(tmp_path, [ONE, LONG], task_arithmetic([0.9, 0.6]))
    mixing = the_only(find_mixings([*family, full(ZOO / "llama-a-lora"), child]), child)
    assert mixing.base == str(BASE)
    assert shares_of(mixing, [ONE, LONG]) == pytest.approx([0.6, 0.4], abs=0.03)


@pytest.mark.parametrize("merge", [task_arithmetic([0.9, 0.6]), ties([0.6, 0.4], density=0.5)])
def test_a_relative_of_a_missing_base_is_not_called_the_base(
    family: list[Record], tmp_path: Path, merge: Merge
) -> None:
    child = merged(tmp_path, [ONE, LONG], merge)
    without = [record for record in family if record.model != str(BASE)]
    for mixing in find_mixings([*without, full(ZOO / "llama-a-lora"), child]):
        assert mixing.child == child.model
        assert mixing.base is None
        assert "for a base that is missing" in mixing.why


@pytest.mark.parametrize(
    ("method", "merge", "truth"),
    [
        ("ties", ties([0.7, 0.3], density=0.4), [0.7, 0.3]),
        ("dare linear", dare([0.6, 0.4], density=0.5, elect=False), [0.6, 0.4]),
        ("dare ties", dare([0.7, 0.5], density=0.6, elect=True), [0.7 / 1.2, 0.5 / 1.2]),
    ],
)
def test_merges_that_select_changes(
    family: list[Record], tmp_path: Path, method: str, merge: Merge, truth: list[float]
) -> None:
    child = merged(tmp_path, [ONE, LONG], merge)
    mixing = the_only(find_mixings([*family, child]), child)
    assert mixing.method == method
    assert mixing.base == str(BASE)
    assert shares_of(mixing, [ONE, LONG]) == pytest.approx(truth, abs=0.02)
    assert holds(mixing, [ONE, LONG], truth)
    for block in mixing.blocks:
        assert block.attention is not None
        at = mixing.parents.index(str(ONE))
        assert block.attention.shares[at] == pytest.approx(truth[0], abs=0.05)


def test_trimming_that_leaves_no_overlap_gives_no_shares(
    family: list[Record], tmp_path: Path
) -> None:
    def disjoint(name: str, parts: list[torch.Tensor], base: torch.Tensor) -> torch.Tensor:
        odd = torch.arange(base.numel()).reshape(base.shape) % 2 == 1
        return torch.where(odd, parts[0], parts[1])

    child = merged(tmp_path, [ONE, LONG], disjoint)
    mixing = the_only(find_mixings([*family, child]), child)
    assert set(mixing.parents) == {str(ONE), str(LONG)}
    assert mixing.shares is None
    assert "the weights cannot be told" in mixing.why
    assert all(block.attention is None and block.ffn is None for block in mixing.blocks)
    assert mixing.to_json()["blocks"][0]["shares"] is None


def test_without_the_base_a_selection_of_changes_has_no_shares(
    family: list[Record], tmp_path: Path
) -> None:
    child = merged(tmp_path, [ONE, LONG], dare([0.6, 0.4], density=0.4, elect=True))
    assert all(m.child != child.model or m.base is None for m in find_mixings([*family[1:], child]))


def test_blocks_put_together(family: list[Record], tmp_path: Path) -> None:
    picks = [(ONE, 0), (ONE, 1), (ONE, 2), (ONE, 3), (LONG, 2), (LONG, 3), (LONG, 4)]
    child = full(stack(tmp_path / "stacked", picks, ONE))
    mixing = the_only(find_mixings([*family, child]), child)
    assert mixing.method == "passthrough"
    at = mixing.parents.index(str(LONG))
    assert [block.both and round(block.both.shares[at]) for block in mixing.blocks] == [0] * 4 + [
        1
    ] * 3
    assert [mixing.blocks[i].sources[at] for i in (4, 5, 6)] == [2, 3, 4]
    assert shares_of(mixing, [ONE, LONG]) == pytest.approx([4 / 7, 3 / 7], abs=0.01)


def test_a_merge_of_a_merge_is_told_by_all_that_went_into_it(
    family: list[Record], tmp_path: Path
) -> None:
    first = save_merge(tmp_path / "first", [ONE, TWO], BASE, weighted([0.6, 0.4]), torch.float16)
    second = merged(tmp_path, [first, LONG], weighted([0.5, 0.5]))
    found = {mixing.child: mixing for mixing in find_mixings([*family, full(first), second])}
    assert set(found) == {str(first), second.model}
    truth = [0.3, 0.2, 0.5]
    assert shares_of(found[second.model], [ONE, TWO, LONG]) == pytest.approx(truth, abs=0.03)


def test_copies_count_once_and_few_models_have_no_parents(
    family: list[Record], tmp_path: Path
) -> None:
    child = merged(tmp_path, [ONE, TWO], weighted([0.5, 0.5]))
    mixing = the_only(find_mixings([*family, *family, child]), child)
    assert shares_of(mixing, [ONE, TWO]) == pytest.approx([0.5, 0.5], abs=0.03)
    assert find_mixings([]) == ()
    assert find_mixings(family[:1]) == ()
    assert find_mixings([family[0]] * 4) == ()


def test_models_that_are_no_merges(family: list[Record]) -> None:
    others = ("llama-a-lora", "llama-a-extended", "llama-a-pruned", "llama-a-twin")
    assert find_mixings([*family, *(full(ZOO / name) for name in others)]) == ()


def test_a_passthrough_with_blocks_of_a_far_model_explains_no_other(tmp_path: Path) -> None:
    """Seen from the far model, it seems to be a change that was dropped in these blocks."""

    def changed(seed: int, size: float) -> Path:
        draw = torch.Generator().manual_seed(seed)

        def add_noise(_: str, __: list[torch.Tensor], weight: torch.Tensor) -> torch.Tensor:
            noise = torch.randn(weight.shape, generator=draw)
            return weight + size * weight.std() * noise if weight.ndim == 2 else weight

        folder = tmp_path / f"noise {seed}"
        return save_merge(folder, [BASE], BASE, add_noise, torch.float16)

    near, light, lighter, far = (changed(i, s) for i, s in enumerate((0.01, 0.004, 0.002, 0.3)))

    def own_blocks(name: str, tensors: list[torch.Tensor], _: torch.Tensor) -> torch.Tensor:
        block = BLOCK.search(name)
        return tensors[block is not None and int(block[1]) > 1]

    child = merged(tmp_path, [near, far], own_blocks)
    others = [full(path) for path in (BASE, light, lighter, near, far)]
    mixing = the_only(find_mixings([*others, child]), child)
    assert mixing.method == "passthrough"
    assert set(mixing.parents) == {str(near), str(far)}
