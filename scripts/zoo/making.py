"""Making one model: where its relation starts, the training that follows, the folder it ends in."""

import json
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerFast
from transformers.utils.logging import disable_progress_bar

from zoo.corpus import cut_windows, read_texts
from zoo.order import Order, domain_texts
from zoo.relations import RELATIONS
from zoo.training import mean_loss, order_batches, train
from zoo.vocabulary import save_tokenizer


def make(order: Order) -> dict[str, Any]:
    """Make one model, write its folder, and return its entry for the manifest.

    One thread only: the same weights whatever else the machine does, and no waiting for a core.
    """
    torch.set_num_threads(1)
    disable_progress_bar()
    started, spec = time.perf_counter(), order.spec
    model, tokenizer = RELATIONS[spec["relation"]](order)
    held_out = held_out_windows(order, tokenizer)
    before = measure(model, held_out)
    steps = spec.get("steps", 0)
    if steps:
        texts, end = domain_texts(order, spec["domain"]), tokenizer.eos_token_id
        windows = cut_windows(tokenizer.backend_tokenizer, texts, spec["context"], end)
        train(
            model,
            order_batches(windows, spec["batch"], spec["data_seed"]),
            label=order.name,
            **{key: spec[key] for key in ("steps", "learning_rate", "warmup", "weight_decay")},
        )
    model.half()
    folder = write_folder(order, model, tokenizer)
    after = measure(model.float(), held_out)
    base = order.base().spec
    return {
        "relation": spec["relation"],
        "parents": spec["parents"],
        "initialisation": f"{base['architecture']}/{base['seed']}",
        "architecture": order.config["architectures"][base["architecture"]]["class"],
        **{key: spec.get(key) for key in ("domain", "seed", "data_seed")},
        "steps": steps,
        "learning_rate": spec.get("learning_rate"),
        "tokens": steps * spec["batch"] * spec["context"],
        "parameters": sum(p.numel() for p in model.parameters() if p.requires_grad),
        "bytes": sum(path.stat().st_size for path in folder.iterdir()),
        "seconds": round(time.perf_counter() - started),
        "held_out_loss": {
            name: {"before": before[name], "after": after[name]} for name in held_out
        },
        "recipe": order.recipe(),
    }


def measure(model: torch.nn.Module, held_out: Mapping[str, torch.Tensor]) -> dict[str, float]:
    """Held-out loss in nats per token, by domain."""
    return {name: round(mean_loss(model, windows), 4) for name, windows in held_out.items()}


def write_folder(order: Order, model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast) -> Path:
    """Write weights, config and tokenizer as they are published; whole or not at all."""
    partial, folder = order.out / f".{order.name}", order.out / order.name
    if partial.exists():
        shutil.rmtree(partial)
    if isinstance(model, PeftModel):
        model.save_pretrained(partial, save_embedding_layers=False)
        (partial / "README.md").unlink()  # a form to fill in, not knowledge
        path = partial / "adapter_config.json"
        adapter = json.loads(path.read_text(encoding="utf-8"))
        adapter["target_modules"] = sorted(adapter["target_modules"])  # peft keeps a set
        path.write_text(json.dumps(adapter, indent=2) + "\n", encoding="utf-8")
    else:
        model.save_pretrained(partial, max_shard_size=order.spec["shard_size"])
        (partial / "generation_config.json").unlink(missing_ok=True)
        save_tokenizer(tokenizer, partial)
    if folder.exists():
        shutil.rmtree(folder)
    return partial.rename(folder)


def held_out_windows(order: Order, tokenizer: PreTrainedTokenizerFast) -> dict[str, torch.Tensor]:
    """For each domain that losses are measured on, int64 (windows, context) no model has seen."""
    held_out = order.config["held_out"]
    windows = {}
    for name in held_out["domains"]:
        kind = order.config["domains"][name]["kind"]
        texts = read_texts(kind, tuple(held_out["buckets"]), held_out["megabytes"])
        context, end = order.config["defaults"]["context"], tokenizer.eos_token_id
        cut = cut_windows(tokenizer.backend_tokenizer, texts, context, end)
        windows[name] = next(order_batches(cut, min(held_out["windows"], len(cut)), seed=0))
    return windows
