"""Makes one model: starts from its parents, trains it, and writes its folder."""

import json
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from tokenizers import Tokenizer
from transformers import PreTrainedModel, PreTrainedTokenizerFast
from transformers.utils.logging import disable_progress_bar

from huref.loader.checkpoint import open_checkpoint
from scripts.zoo.copies import COPIES
from scripts.zoo.corpus import cut_windows, read_texts
from scripts.zoo.objectives import OBJECTIVES
from scripts.zoo.plan import Plan
from scripts.zoo.relations import RELATIONS, load
from scripts.zoo.surgery import tables_of
from scripts.zoo.training import mean_loss, order_batches, train
from scripts.zoo.vocabulary import save_tokenizer


def make(plan: Plan) -> dict[str, Any]:
    """Make one model, write its folder, and return its entry for the manifest.

    It uses one thread, so that the weights do not depend on the number of cores.
    """
    torch.set_num_threads(1)
    disable_progress_bar()
    started, spec = time.perf_counter(), plan.spec
    made = write_copy(plan) if spec["relation"] in COPIES else write_trained(plan)
    folder, base = plan.out / plan.name, plan.base().spec
    draws = plan.config.get("same_draws", {}).get(base["architecture"], base["architecture"])
    optional: dict[str, Any] = {
        key: spec[key] for key in ("teacher", "role", "shares", "method", "kinds") if key in spec
    }
    return {
        "relation": spec["relation"],
        "parents": spec["parents"],
        "initialisation": f"{draws}/{base['seed']}",
        "architecture": made.architecture,
        **{key: spec.get(key) for key in ("domain", "seed", "data_seed")},
        **optional,
        "steps": made.steps,
        "learning_rate": spec.get("learning_rate"),
        "tokens": made.steps * spec["batch"] * spec["context"],
        "parameters": made.parameters,
        "bytes": sum(path.stat().st_size for path in folder.iterdir()),
        "seconds": round(time.perf_counter() - started),
        "held_out_loss": {
            name: {"before": before, "after": made.after[name]}
            for name, before in made.before.items()
        },
        "recipe": plan.recipe(),
    }


@dataclass(frozen=True)
class Made:
    """What the manifest records of a model besides its config.

    Attributes:
        before, after: held-out loss by domain in nats per token, before and after training.
    """

    architecture: str
    steps: int
    parameters: int
    before: dict[str, float]
    after: dict[str, float]


def write_trained(plan: Plan) -> Made:
    """Make the starting model of the relation, train it, and write the folder."""
    spec = plan.spec
    model, tokenizer = RELATIONS[spec["relation"]](plan)
    held_out = held_out_windows(plan, tokenizer)
    before = measure(model, held_out)
    steps = [spec.get("frozen_steps", 0), spec.get("steps", 0)]
    if any(steps):
        windows = training_windows(plan, tokenizer)
        batches = order_batches(windows, spec["batch"], spec["data_seed"])
        settings: dict[str, Any] = {
            key: spec[key] for key in ("warmup", "weight_decay", "optimiser") if key in spec
        }
        settings |= {"label": plan.name}
        if steps[0]:  # only the embeddings are trained
            model.requires_grad_(False)
            for table in tables_of(model):
                table.requires_grad_(True)
            rate = spec["frozen_learning_rate"]
            train(model, batches, steps=steps[0], learning_rate=rate, **settings)
            model.requires_grad_(True)
        if steps[1]:
            settings |= {"loss_of": OBJECTIVES[spec.get("objective", "next-token")](plan, model)}
            rate = spec["learning_rate"]
            train(model, batches, steps=steps[1], learning_rate=rate, **settings)
    if spec.get("merged"):
        model = model.merge_and_unload().requires_grad_(True)
    inner = model.get_base_model() if isinstance(model, PeftModel) else model
    model.half()
    write_folder(plan, model, tokenizer)
    parameters = sum(p.numel() for p in model.parameters() if p.requires_grad)
    after = measure(model.float(), held_out)
    return Made(type(inner).__name__, sum(steps), parameters, before, after)


def training_windows(plan: Plan, tokenizer: PreTrainedTokenizerFast) -> torch.Tensor:
    """Token ids of the training text, int64 (windows, context)."""
    domain = plan.config["domains"][plan.spec["domain"]]
    source = (domain["kind"], tuple(domain["buckets"]), domain["megabytes"])
    state, end = tokenizer.backend_tokenizer.to_str(), tokenizer.eos_token_id
    return _cut(state, source, plan.spec["context"], end)


@cache
def _cut(
    tokenizer: str, source: tuple[str, tuple[int, int], float], context: int, end: int
) -> torch.Tensor:
    # Most models share text and tokenizer, and tokenising takes seconds.
    return cut_windows(Tokenizer.from_str(tokenizer), read_texts(*source), context, end)


def write_copy(plan: Plan) -> Made:
    """Write an attacked or quantised copy and measure its loss."""
    partial, folder = partial_and_final(plan)
    COPIES[plan.spec["relation"]](plan, partial)
    model, tokenizer = load(plan.out / plan.spec["parents"][0])
    before = measure(model, held_out_windows(plan, tokenizer))
    if plan.spec["relation"] == "attacked":
        model, tokenizer = load(partial)
    else:
        path = partial if (partial / "config.json").exists() else partial / "model.gguf"
        checkpoint = open_checkpoint(str(path))
        tensors = checkpoint.read(checkpoint.names)
        missing = model.load_state_dict(tensors, strict=False).missing_keys
        if missing and (missing != ["lm_head.weight"] or not model.config.tie_word_embeddings):
            raise ValueError(f"{plan.name}: {missing} are missing after quantisation")
    after = measure(model, held_out_windows(plan, tokenizer))
    partial.rename(folder)
    parameters = sum(p.numel() for p in model.parameters())
    return Made(type(model).__name__, 0, parameters, before, after)


def measure(model: torch.nn.Module, held_out: Mapping[str, torch.Tensor]) -> dict[str, float]:
    """Held-out loss in nats per token, by domain."""
    return {name: round(mean_loss(model, windows), 4) for name, windows in held_out.items()}


def partial_and_final(plan: Plan) -> tuple[Path, Path]:
    """Paths of the unfinished and of the finished folder; both are removed if they exist."""
    paths = plan.out / f".{plan.name}", plan.out / plan.name
    for path in paths:
        if path.exists():
            shutil.rmtree(path)
    return paths


def write_folder(plan: Plan, model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast) -> None:
    """Write weights, config and tokenizer in published form; the folder appears when complete."""
    partial, folder = partial_and_final(plan)
    if isinstance(model, PeftModel):
        model.save_pretrained(partial, save_embedding_layers=False)
        (partial / "README.md").unlink()  # an empty template
        path = partial / "adapter_config.json"
        adapter = json.loads(path.read_text(encoding="utf-8"))
        adapter["target_modules"] = sorted(adapter["target_modules"])  # peft keeps a set
        path.write_text(json.dumps(adapter, indent=2) + "\n", encoding="utf-8")
    else:
        model.save_pretrained(partial, max_shard_size=plan.spec["shard_size"])
        (partial / "generation_config.json").unlink(missing_ok=True)
        save_tokenizer(tokenizer, partial)
    partial.rename(folder)


def held_out_windows(plan: Plan, tokenizer: PreTrainedTokenizerFast) -> dict[str, torch.Tensor]:
    """By domain, token ids of text that no model was trained on, int64 (windows, context)."""
    held_out = plan.config["held_out"]
    windows = {}
    for name in held_out["domains"]:
        kind = plan.config["domains"][name]["kind"]
        texts = read_texts(kind, tuple(held_out["buckets"]), held_out["megabytes"])
        context, end = plan.config["defaults"]["context"], tokenizer.eos_token_id
        cut = cut_windows(tokenizer.backend_tokenizer, texts, context, end)
        windows[name] = next(order_batches(cut, min(held_out["windows"], len(cut)), seed=0))
    return windows
