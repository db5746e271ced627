"""Prints the table of attacks: what each leaves of the logits and of the terms.

    python scripts/measure_attacks.py

Random Llama-, Gemma-, GPT-2- and NeoX-like models, attacked one way at a time and all ways at
once. Logit difference: the largest, over the logits' spread. ICS: by our recipe and by the
published one (its last two layers and rarest tokens, at a smaller m).
"""

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor

from huref.attacks import KINDS, attack
from huref.attacks.editable import open_editable
from huref.attacks.kinds import applies
from huref.invariants.extract import extract_terms
from huref.invariants.terms import pearson
from huref.loader.checkpoint import open_checkpoint
from huref.recipe import Recipe

VOCABULARY = 1200
FAMILIES = ("Llama", "Gemma", "GPT2", "GPTNeoX")
OURS = Recipe("ours", "latin", 128, (1, 2), "whitened-1", 0.1, "-", "-")
PAPER = Recipe("paper", "rank", 128, (-2, -1), "published-1", 0.0, "-", "-")


def _write_tokenizer(folder: Path) -> None:
    """A tokenizer.json of short distinct words."""
    letters = "abcdefghijklmnopqrstuvwxyz"
    words = [a + b + c for a in letters for b in "aeiou" for c in letters][:VOCABULARY]
    model = {"type": "BPE", "vocab": {word: i for i, word in enumerate(words)}, "merges": []}
    data = {"version": "1.0", "added_tokens": [], "model": model}
    (folder / "tokenizer.json").write_text(json.dumps(data), "utf-8")


def make_model(
    folder: Path, family: str, groups: int = 2, per_group: int = 2, half_dim: int = 4, seed: int = 0
) -> Path:
    """A random model of one of `FAMILIES`, as transformers saves it."""
    heads, head_dim = groups * per_group, 2 * half_dim
    width = heads * head_dim
    sizes: dict[str, Any] = {
        "vocab_size": VOCABULARY, "hidden_size": width, "intermediate_size": 3 * width,
        "num_hidden_layers": 4, "num_attention_heads": heads, "max_position_embeddings": 32,
        "bos_token_id": 1, "eos_token_id": 2,
    }  # fmt: skip
    if family in ("Llama", "Gemma"):
        sizes |= {"num_key_value_heads": groups, "head_dim": head_dim}
    if family == "GPT2":
        sizes |= {"n_embd": width, "n_layer": 4, "n_head": heads, "n_positions": 32}
    if family == "GPTNeoX":
        sizes |= {
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 1e4,
                "partial_rotary_factor": 0.5,
            }
        }
    config = getattr(transformers, f"{family}Config")(**sizes)
    name = "GPT2LMHeadModel" if family == "GPT2" else f"{family}ForCausalLM"
    torch.manual_seed(seed)
    model = getattr(transformers, name)(config)
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        if parameter.dim() == 1:  # gains and biases, which are all ones and zeros at first
            noise = torch.rand(parameter.shape, generator=generator) - 0.5
            parameter.data.add_(0.5 * noise)
        else:
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.data.copy_(noise / parameter.shape[-1] ** 0.5)
    model.save_pretrained(folder)
    _write_tokenizer(folder)
    return folder


def _logits(folder: Path, ids: Tensor) -> Tensor:
    model = transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float64, experts_implementation="eager"
    )
    with torch.no_grad():
        out: Tensor = model.eval()(ids).logits
    return out


def _vocabulary(folder: Path) -> dict[str, int]:
    data = json.loads((folder / "tokenizer.json").read_text("utf-8"))
    vocabulary: dict[str, int] = data["model"]["vocab"]
    return vocabulary


def logit_difference(before: Path, after: Path) -> float:
    """The largest difference between the logits of the same strings, over their spread."""
    old, new = _vocabulary(before), _vocabulary(after)
    pieces = sorted(old, key=old.__getitem__)
    ids = torch.randint(0, len(pieces), (2, 12), generator=torch.Generator().manual_seed(0))
    order = torch.tensor([new[piece] for piece in pieces])
    one, two = _logits(before, ids), _logits(after, order[ids])[:, :, order]
    return float((one - two).abs().max() / one.std())


def ics(before: Path, after: Path, recipe: Recipe = OURS) -> float:
    """Mean Pearson correlation of the terms of two folders."""
    one, two = (extract_terms(open_checkpoint(str(f)), recipe).terms for f in (before, after))
    return float(pearson(one, two).mean())


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.parse_args()
    transformers.utils.logging.disable_progress_bar()
    print(f"{'model':8} {'attack':24} {'logits':>9} {'ICS ours':>9} {'ICS paper':>9}")
    with tempfile.TemporaryDirectory() as temporary:
        for family in FAMILIES:
            original = make_model(Path(temporary) / family, family)
            for kind in [*KINDS, "all"]:
                if kind != "all" and (reason := applies(kind, open_editable(str(original)))):
                    print(f"{family:8} {kind:24} does not apply: {reason}")
                    continue
                copy = Path(temporary) / f"{family}-{kind}"
                attack(original, [kind], copy)
                ours, paper = (ics(original, copy, recipe) for recipe in (OURS, PAPER))
                difference = logit_difference(original, copy)
                line = f"{family:8} {kind:24} {difference:9.1e} {ours:9.4f} {paper:9.4f}"
                print(line, flush=True)


if __name__ == "__main__":
    main()
