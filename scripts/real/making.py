"""How the children of configs/real-children.yaml are made from their parents' folders."""

import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import torch
from peft import LoraConfig, get_peft_model
from torch.nn.functional import kl_div, log_softmax, logsigmoid
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from huref.attacks import attack
from scripts.zoo.copies import FORMATS
from scripts.zoo.corpus import cut_windows, read_texts
from scripts.zoo.merges import METHODS
from scripts.zoo.objectives import BETA, corrupt, log_probability, logits_of
from scripts.zoo.relations import load
from scripts.zoo.surgery import (
    keep_units,
    keep_width,
    replace_vocabulary,
    stack_blocks,
    tables_of,
)
from scripts.zoo.training import Loss, order_batches, token_loss, train
from scripts.zoo.vocabulary import TRAINERS

TEXT = ("docstrings", (65, 100), 0.3)  # kind, buckets and megabytes of the training text
NEW_VOCABULARY = 8192
Spec = Mapping[str, Any]


def make(spec: Spec, parents: list[Path], folder: Path) -> None:
    """Write a child's folder. One thread, so that it does not depend on the number of cores."""
    torch.set_num_threads(1)
    torch.manual_seed(spec["seed"])
    for key, write in WRITERS.items():
        if key in spec:
            write(spec, parents, folder)
            return
    raise SystemExit(f"{folder.name}: the list does not say how it is made")


def _save(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    model.half().save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _batches(spec: Spec, tokenizer: PreTrainedTokenizerFast) -> Iterable[torch.Tensor]:
    end = tokenizer.eos_token_id or 0
    windows = cut_windows(tokenizer.backend_tokenizer, read_texts(*TEXT), spec["context"], end)
    return order_batches(windows, spec["batch"], spec["seed"])


def _train(
    spec: Spec,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    loss_of: Loss = token_loss,
) -> None:
    if spec["steps"]:
        train(
            model,
            iter(_batches(spec, tokenizer)),
            steps=spec["steps"],
            learning_rate=spec["learning_rate"],
            warmup=0.1,
            weight_decay=0.0,
            label=str(spec["relation"]),
            loss_of=loss_of,
        )


def write_trained(spec: Spec, parents: list[Path], folder: Path) -> None:
    """Train all weights, or adapters that are then merged."""
    model, tokenizer = load(parents[0])
    if spec["train"] == "lora":
        settings = LoraConfig(
            r=spec["rank"], lora_alpha=2 * spec["rank"], target_modules="all-linear"
        )
        adapted = get_peft_model(model, settings)
        _train(spec, adapted, tokenizer)
        model = adapted.merge_and_unload()
    elif spec["train"] == "preference":
        _train(spec, model, tokenizer, _preference(parents[0], spec["seed"]))
    else:
        _train(spec, model, tokenizer)
    _save(model, tokenizer, folder)


def _preference(reference: Path, seed: int) -> Loss:
    """Real texts preferred to corrupted ones (DPO, Rafailov et al., 2023, equation 7)."""
    frozen = load(reference)[0].eval().requires_grad_(False)
    generator = torch.Generator().manual_seed(seed)

    def loss(model: torch.nn.Module, tokens: torch.Tensor) -> torch.Tensor:
        both = torch.cat([tokens, corrupt(tokens, generator)])
        gained = log_probability(model, both) - log_probability(frozen, both)
        chosen, rejected = gained.chunk(2)
        return -logsigmoid(BETA * (chosen - rejected)).mean()

    return loss


def write_pruned(spec: Spec, parents: list[Path], folder: Path) -> None:
    """Remove blocks, hidden units or residual dimensions; then train, if there are steps."""
    model, tokenizer = load(parents[0])
    if spec["prune"] == "blocks":
        kept = [i for i in range(model.config.num_hidden_layers) if i not in spec["removed"]]
        model = stack_blocks([model], [(0, i) for i in kept])
    else:
        model = {"units": keep_units, "width": keep_width}[spec["prune"]](model, spec["kept"])
    _train(spec, model, tokenizer)
    _save(model, tokenizer, folder)


def write_quantised(spec: Spec, parents: list[Path], folder: Path) -> None:
    """The parent in four bits."""
    FORMATS[spec["quantise"]](parents[0], folder)


def write_merge(spec: Spec, parents: list[Path], folder: Path) -> None:
    """The parents merged; TIES takes the first parent's own parent as the base."""
    loaded = [load(parent) for parent in parents[:2]]
    states = [model.state_dict() for model, _ in loaded]
    base = load(parents[-1])[0].state_dict()
    model, tokenizer = loaded[0]
    model.load_state_dict(METHODS[spec["merge"]](states, spec["shares"], base))
    _save(model, tokenizer, folder)


def write_vocabulary(spec: Spec, parents: list[Path], folder: Path) -> None:
    """More tokens, each a mean of two old ones, or a new vocabulary with random embeddings."""
    model, tokenizer = load(parents[0])
    if spec["vocabulary"] == "new":
        tokenizer = TRAINERS["byte-level"](read_texts(*TEXT), NEW_VOCABULARY)
        end = tokenizer.eos_token_id
        model = replace_vocabulary(model, len(tokenizer), (end, end), spec["seed"])
    else:
        count, old = int(spec["vocabulary"]), model.config.vocab_size
        pieces = [f"<extra_{number}>" for number in range(count)]
        tokenizer.add_tokens(pieces)
        model.resize_token_embeddings(old + count, mean_resizing=False)
        for table in tables_of(model):
            for row in range(old, old + count):
                table.data[row] = table.data[[row % 5000 + 300, row % 4000 + 900]].mean(0)
    _train(spec, model, tokenizer)
    _save(model, tokenizer, folder)


def write_distilled(spec: Spec, parents: list[Path], folder: Path) -> None:
    """A random model of few blocks that learns the parent's next-token distribution."""
    teacher, tokenizer = load(parents[0])
    teacher.eval().requires_grad_(False)
    config = type(teacher.config)(**teacher.config.to_dict())
    config.num_hidden_layers = spec["distil"]
    student: PreTrainedModel = type(teacher)(config)

    def loss(model: torch.nn.Module, tokens: torch.Tensor) -> torch.Tensor:
        one, other = (
            log_softmax(logits_of(network, tokens).flatten(0, 1), 1) for network in (model, teacher)
        )
        return kl_div(one, other, log_target=True, reduction="batchmean")

    _train(spec, student, tokenizer, loss)
    _save(student, tokenizer, folder)


def write_cast(spec: Spec, parents: list[Path], folder: Path) -> None:
    """The same weights stored in another dtype."""
    model, tokenizer = load(parents[0])
    model.to(getattr(torch, spec["cast"])).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def write_attacked(spec: Spec, parents: list[Path], folder: Path) -> None:
    """Function-preserving changes, one after the other; of two parents the second gives parts."""
    other = parents[1] if len(spec["from"]) > 1 else None
    attack(parents[0], spec["attack"], folder, spec["seed"], other)


def write_random(parent: Path, folder: Path, seed: int) -> None:
    """A random initialisation of the parent's configuration, with its tokenizer."""
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(seed)
    config = AutoConfig.from_pretrained(parent, local_files_only=True)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(parent, local_files_only=True)
    _save(model, tokenizer, folder)


WRITERS: dict[str, Callable[[Spec, list[Path], Path], None]] = {
    "train": write_trained,
    "prune": write_pruned,
    "quantise": write_quantised,
    "merge": write_merge,
    "vocabulary": write_vocabulary,
    "distil": write_distilled,
    "cast": write_cast,
    "attack": write_attacked,
}
