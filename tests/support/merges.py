"""Merges of checkpoints as the papers define them, tensor by tensor, written for tests alone."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

Merge = Callable[[str, list[Tensor], Tensor], Tensor]  # name, parents' tensors, the base's


def save_merge(
    folder: Path, parents: Sequence[Path], base: Path, merge: Merge, dtype: torch.dtype
) -> Path:
    """Merge every tensor of some checkpoints of one shape, and save the result beside a config."""
    folder.mkdir()
    for file in parents[0].glob("*.json"):
        (folder / file.name).write_bytes(file.read_bytes())
    states = [load_file(path / "model.safetensors") for path in parents]
    origin = load_file(base / "model.safetensors")
    merged = {
        name: merge(name, [state[name].float() for state in states], tensor.float())
        for name, tensor in origin.items()
    }
    save_file(
        {name: tensor.to(dtype).contiguous() for name, tensor in merged.items()},
        folder / "model.safetensors",
        {"format": "pt"},
    )
    return folder


def save_sum(
    folder: Path,
    parents: Sequence[Path],
    weights: Sequence[float],
    blocks: Sequence[Sequence[int]],
) -> Path:
    """A weighted sum of checkpoints that differ in tokens or blocks, in float16.

    Args:
        folder: where to write.
        parents: the last has the most tokens; its config and tokenizer are taken.
        weights: of the parents.
        blocks: for each block of the child the parents' blocks that it is the sum of.
    """
    folder.mkdir()
    for file in parents[-1].glob("*.json"):
        (folder / file.name).write_bytes(file.read_bytes())
    config = json.loads((folder / "config.json").read_text("utf-8"))
    config["num_hidden_layers"] = len(blocks)
    (folder / "config.json").write_text(json.dumps(config), "utf-8")
    states = [load_file(path / "model.safetensors") for path in parents]

    def summed(names: Sequence[str]) -> Tensor:
        parts = [state[name].float() for state, name in zip(states, names, strict=True)]
        last = parts[-1]
        # A parent without a token takes its row from the one that has it, as merge tools do.
        whole = [torch.cat([x, last[len(x) :]]) if len(x) < len(last) else x for x in parts]
        return sum(w * x for w, x in zip(weights, whole, strict=True)).half()  # type: ignore[union-attr]

    merged = {n: summed([n] * len(states)) for n in states[-1] if ".layers." not in n}
    inner = [n.split(".layers.0.")[1] for n in states[-1] if ".layers.0." in n]
    for index, sources in enumerate(blocks):
        for name in inner:
            places = [f"model.layers.{source}.{name}" for source in sources]
            merged[f"model.layers.{index}.{name}"] = summed(places)
    save_file(merged, folder / "model.safetensors", {"format": "pt"})
    return folder


def weighted(weights: Sequence[float]) -> Merge:
    """The sum of the parents, each with its weight."""
    return lambda name, parts, base: torch.stack(
        [w * part for w, part in zip(weights, parts, strict=True)]
    ).sum(dim=0)


def task_arithmetic(weights: Sequence[float]) -> Merge:
    """The base and the weighted sum of the parents' changes (Ilharco et al., 2023)."""
    return lambda name, parts, base: (
        base + sum(w * (part - base) for w, part in zip(weights, parts, strict=True))
    )


def spherical(share_of_second: Callable[[str], float]) -> Merge:
    """Spherical interpolation of two parents, tensor by tensor (Shoemake, 1985)."""

    def merge(name: str, parts: list[Tensor], base: Tensor) -> Tensor:
        a, b = parts
        t = share_of_second(name)
        angle = torch.arccos((a.flatten() @ b.flatten() / (a.norm() * b.norm())).clamp(-1, 1))
        if angle < 1e-4:
            return (1 - t) * a + t * b
        return (torch.sin((1 - t) * angle) * a + torch.sin(t * angle) * b) / torch.sin(angle)

    return merge


def ties(weights: Sequence[float], density: float) -> Merge:
    """Trim to the largest changes, elect signs, average what agrees (Yadav et al., 2023)."""

    def merge(name: str, parts: list[Tensor], base: Tensor) -> Tensor:
        changes = []
        for part in parts:
            change = part - base
            keep = max(1, int(density * change.numel()))
            least = change.abs().flatten().topk(keep).values[-1]
            changes.append(torch.where(change.abs() >= least, change, 0.0))
        return base + _elected(torch.stack(changes), weights, mean=True)

    return merge


def dare(weights: Sequence[float], density: float, elect: bool, seed: int = 0) -> Merge:
    """Drop changes at random and scale up the others (Yu et al., 2024), then sum them."""
    generator = torch.Generator().manual_seed(seed)

    def merge(name: str, parts: list[Tensor], base: Tensor) -> Tensor:
        changes = torch.stack([part - base for part in parts])
        kept = torch.rand(changes.shape, generator=generator) < density
        changes = changes * kept / density
        if elect:
            return base + _elected(changes, weights, mean=False)
        shaped = torch.tensor(weights).reshape(-1, *[1] * base.dim())
        return base + (shaped * changes).sum(dim=0)

    return merge


def _elected(changes: Tensor, weights: Sequence[float], mean: bool) -> Tensor:
    """The changes whose sign is that of their weighted sum: their weighted sum, or mean."""
    shaped = torch.tensor(weights).reshape(-1, *[1] * (changes.dim() - 1))
    sign = (shaped * changes).sum(dim=0).sign()
    agreeing = (changes.sign() == sign) & (changes != 0)
    total = (shaped * changes * agreeing).sum(dim=0)
    return total / (shaped * agreeing).sum(dim=0).clamp(min=1e-9) if mean else total


def stack(folder: Path, picks: Sequence[tuple[Path, int]], first: Path) -> Path:
    """A checkpoint of a Llama whose block i is a block of another one, unchanged."""
    folder.mkdir()
    for file in first.glob("*.json"):
        (folder / file.name).write_bytes(file.read_bytes())
    config = json.loads((first / "config.json").read_text("utf-8"))
    config["num_hidden_layers"] = len(picks)
    config.pop("layer_types", None)
    (folder / "config.json").write_text(json.dumps(config), "utf-8")
    state = {
        name: tensor
        for name, tensor in load_file(first / "model.safetensors").items()
        if ".layers." not in name
    }
    for place, (path, index) in enumerate(picks):
        start = f"model.layers.{index}."
        for name, tensor in load_file(path / "model.safetensors").items():
            if name.startswith(start):
                state[f"model.layers.{place}.{name.removeprefix(start)}"] = tensor
    save_file(state, folder / "model.safetensors", {"format": "pt"})
    return folder
