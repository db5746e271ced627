"""Multimodal models made of a language model of the zoo and a made vision tower."""

import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

WIDTH, HIDDEN, BLOCKS = 32, 64, 2


def make_tower(seed: int) -> dict[str, Tensor]:
    """A CLIP-like encoder and a projector, random."""
    generator = torch.Generator().manual_seed(seed)

    def matrix(*shape: int) -> Tensor:
        return 0.1 * torch.randn(*shape, generator=generator)

    tower = {"vision_model.embeddings.patch_embedding.weight": matrix(WIDTH, 3, 4, 4)}
    for i in range(BLOCKS):
        start = f"vision_model.encoder.layers.{i}."
        for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
            tower[f"{start}self_attn.{name}.weight"] = matrix(WIDTH, WIDTH)
        tower[f"{start}mlp.fc1.weight"] = matrix(HIDDEN, WIDTH)
        tower[f"{start}mlp.fc2.weight"] = matrix(WIDTH, HIDDEN)
        tower[f"{start}layer_norm1.weight"] = torch.ones(WIDTH)
    return tower


def join(
    folder: Path, language_model: Path, tower: dict[str, Tensor], seed: int, start: str = ""
) -> Path:
    """Save a language model and a tower as one checkpoint, with a projector from a seed."""
    folder.mkdir()
    for file in language_model.glob("*.json"):
        (folder / file.name).write_bytes(file.read_bytes())
    text = json.loads((language_model / "config.json").read_text("utf-8"))
    config = {"model_type": "llava", "text_config": text, "vision_config": {"hidden_size": WIDTH}}
    (folder / "config.json").write_text(json.dumps(config), "utf-8")
    state = load_file(language_model / "model.safetensors")
    tensors = {f"language_model.{name}": tensor for name, tensor in state.items()}
    tensors |= {f"{start}vision_tower.{name}": tensor for name, tensor in tower.items()}
    generator = torch.Generator().manual_seed(seed)
    projector = torch.randn(text["hidden_size"], WIDTH, generator=generator)
    tensors["multi_modal_projector.linear_1.weight"] = 0.1 * projector
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    return folder
