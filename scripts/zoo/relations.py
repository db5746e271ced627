"""Relations: where a model starts, given its parents. Training, if any, follows."""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

from huref.attacks import attack
from scripts.zoo.merging import METHODS
from scripts.zoo.order import Order, domain_texts
from scripts.zoo.surgery import (
    keep_groups,
    keep_units,
    keep_width,
    replace_vocabulary,
    stack_blocks,
    tables_of,
)
from scripts.zoo.vocabulary import TRAINERS, grow

Start = tuple[PreTrainedModel, PreTrainedTokenizerFast]


def load(folder: Path) -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    """A model of the zoo in float32, ready to be trained, and its tokenizer."""
    model = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager", local_files_only=True
    )
    return model, PreTrainedTokenizerFast.from_pretrained(folder, local_files_only=True)


def start_base(order: Order) -> Start:
    """Fresh weights drawn from the seed, and a tokenizer trained on its own sample."""
    architecture = order.config["architectures"][order.spec["architecture"]]
    recipe = order.config["tokenizers"][architecture["tokenizer"]]
    texts = domain_texts(order, recipe["domain"])
    tokenizer = TRAINERS[recipe["kind"]](texts, recipe["vocabulary"])
    model_class = getattr(transformers, architecture["class"])
    config = model_class.config_class(
        **architecture["config"],
        vocab_size=len(tokenizer),
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        attn_implementation="eager",
    )
    torch.manual_seed(order.spec["seed"])
    return model_class(config), tokenizer


def start_parent(order: Order) -> Start:
    """The parent as it is."""
    return load(order.out / order.spec["parents"][0])


def start_lora(order: Order) -> Start:
    """The parent, frozen, with a low-rank adapter on every linear map of its blocks."""
    model, tokenizer = start_parent(order)
    torch.manual_seed(order.spec["seed"])
    adapter = LoraConfig(
        r=order.spec["rank"], lora_alpha=order.spec["alpha"], target_modules="all-linear"
    )
    adapted = get_peft_model(model, adapter)
    adapted.peft_config["default"].base_model_name_or_path = f"../{order.spec['parents'][0]}"
    return adapted, tokenizer


def is_latin(text: str) -> bool:
    """Whether a token is of ASCII with a letter in it."""
    return text.isascii() and any(map(str.isalpha, text))


def is_other_script(text: str) -> bool:
    """Whether a token is not Latin: bytes beyond ASCII, and no ASCII letter."""
    return not text.isascii() and not any(map(is_latin, text))


SCRIPTS: dict[str, Callable[[str], bool]] = {"latin": is_latin, "other": is_other_script}


def start_extended(order: Order) -> Start:
    """The parent with new tokens, as many of each of the scripts asked for: Latin, another.

    A new row starts as the mean of the rows of the two tokens that it is merged from.
    """
    model, tokenizer = start_parent(order)
    texts = domain_texts(order, order.spec["domain"])
    scripts = order.spec.get("scripts", list(SCRIPTS))
    origins: list[tuple[int, int]] = []
    for script in scripts:
        count = order.spec["new_tokens"] // len(scripts)
        tokenizer, more = grow(tokenizer, texts, count, SCRIPTS[script])
        origins += more
    first = model.config.vocab_size
    model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    for table in tables_of(model):
        for row, parts in enumerate(origins, start=first):
            table.data[row] = table.data[list(parts)].mean(0)
    return model, tokenizer


def start_revocabulary(order: Order) -> Start:
    """The parent's body under random embeddings for a tokenizer of its own."""
    model, _ = start_parent(order)
    recipe = order.config["tokenizers"][order.spec["tokenizer"]]
    texts = domain_texts(order, recipe["domain"])
    tokenizer = TRAINERS[recipe["kind"]](texts, recipe["vocabulary"])
    ends = (tokenizer.bos_token_id, tokenizer.eos_token_id)
    return replace_vocabulary(model, len(tokenizer), ends, order.spec["seed"]), tokenizer


def start_merge(order: Order) -> Start:
    """The parents' weights mixed: their plain average, or by a method and shares."""
    parents = [load(order.out / parent) for parent in order.spec["parents"]]
    model, tokenizer = parents[0]
    states = [parent.state_dict() for parent, _ in parents]
    if "method" in order.spec:
        base = load(order.out / order.base().name)[0].state_dict()
        merged = METHODS[order.spec["method"]](states, order.spec["shares"], base)
    else:
        merged = {key: torch.stack([state[key] for state in states]).mean(0) for key in states[0]}
    model.load_state_dict(merged)
    return model, tokenizer


def start_pruned(order: Order) -> Start:
    """The parent without some of its blocks."""
    model, tokenizer = start_parent(order)
    spec, count = order.spec, model.config.num_hidden_layers
    removed = spec.get("removed_blocks") or [spec["removed_block"]]
    return stack_blocks([model], [(0, i) for i in range(count) if i not in removed]), tokenizer


def start_narrowed(order: Order) -> Start:
    """The parent with a part of its hidden units, heads or residual dimensions."""
    model, tokenizer = start_parent(order)
    return NARROWED[order.spec["narrowed"]](model, order.spec["kept"]), tokenizer


def start_stacked(order: Order) -> Start:
    """Blocks of one parent or more on top of each other, some of them twice."""
    parents = [load(order.out / parent) for parent in order.spec["parents"]]
    return stack_blocks([model for model, _ in parents], order.spec["blocks"]), parents[0][1]


def start_upcycled(order: Order) -> Start:
    """The parent's feed-forward networks copied into experts under a random router."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "upcycled"
        parent = order.out / order.spec["parents"][0]
        attack(parent, ["upcycling"], folder, order.spec["seed"])
        return load(folder)


NARROWED: dict[str, Callable[[PreTrainedModel, Any], PreTrainedModel]] = {
    "units": keep_units,
    "width": keep_width,
    "groups": keep_groups,
}

RELATIONS: dict[str, Callable[[Order], Start]] = {
    "base": start_base,
    "distilled": start_base,
    "finetune": start_parent,
    "continued": start_parent,
    "preferred": start_parent,
    "lora": start_lora,
    "extended": start_extended,
    "revocabulary": start_revocabulary,
    "merge": start_merge,
    "pruned": start_pruned,
    "narrowed": start_narrowed,
    "stacked": start_stacked,
    "upcycled": start_upcycled,
}
