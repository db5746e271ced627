"""Relations: how a model's starting weights follow from its parents, before any training."""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

from huref.attacks import attack
from scripts.zoo.merges import METHODS
from scripts.zoo.plan import Plan, domain_texts
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
    """Load a model of the zoo in float32, and its tokenizer."""
    model = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager", local_files_only=True
    )
    return model, PreTrainedTokenizerFast.from_pretrained(folder, local_files_only=True)


def start_base(plan: Plan) -> Start:
    """Random weights of the seed, and a newly trained tokenizer."""
    architecture = plan.config["architectures"][plan.spec["architecture"]]
    recipe = plan.config["tokenizers"][architecture["tokenizer"]]
    texts = domain_texts(plan, recipe["domain"])
    tokenizer = TRAINERS[recipe["kind"]](texts, recipe["vocabulary"])
    model_class = getattr(transformers, architecture["class"])
    config = model_class.config_class(
        **architecture["config"],
        vocab_size=len(tokenizer),
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        attn_implementation="eager",
    )
    torch.manual_seed(plan.spec["seed"])
    return model_class(config), tokenizer


def start_parent(plan: Plan) -> Start:
    """The parent, unchanged."""
    return load(plan.out / plan.spec["parents"][0])


def start_lora(plan: Plan) -> Start:
    """The parent, frozen, with a low-rank adapter on every linear map of its blocks."""
    model, tokenizer = start_parent(plan)
    torch.manual_seed(plan.spec["seed"])
    adapter = LoraConfig(
        r=plan.spec["rank"], lora_alpha=plan.spec["alpha"], target_modules="all-linear"
    )
    adapted = get_peft_model(model, adapter)
    adapted.peft_config["default"].base_model_name_or_path = f"../{plan.spec['parents'][0]}"
    return adapted, tokenizer


def is_latin(text: str) -> bool:
    """Whether a token is ASCII and has a letter."""
    return text.isascii() and any(map(str.isalpha, text))


def is_other_script(text: str) -> bool:
    """Whether a token has characters beyond ASCII and no ASCII letter."""
    return not text.isascii() and not any(map(is_latin, text))


SCRIPTS: dict[str, Callable[[str], bool]] = {"latin": is_latin, "other": is_other_script}


def start_extended(plan: Plan) -> Start:
    """The parent with new tokens, equally many of each script in the config ("latin", "other").

    The embedding of a new token is the mean of those of the two tokens that it is merged from.
    """
    model, tokenizer = start_parent(plan)
    texts = domain_texts(plan, plan.spec["domain"])
    scripts = plan.spec.get("scripts", list(SCRIPTS))
    origins: list[tuple[int, int]] = []
    for script in scripts:
        count = plan.spec["new_tokens"] // len(scripts)
        tokenizer, more = grow(tokenizer, texts, count, SCRIPTS[script])
        origins += more
    first = model.config.vocab_size
    model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    for table in tables_of(model):
        for row, parts in enumerate(origins, start=first):
            table.data[row] = table.data[list(parts)].mean(0)
    return model, tokenizer


def start_revocabulary(plan: Plan) -> Start:
    """The parent's blocks with random embeddings for a newly trained tokenizer."""
    model, _ = start_parent(plan)
    recipe = plan.config["tokenizers"][plan.spec["tokenizer"]]
    texts = domain_texts(plan, recipe["domain"])
    tokenizer = TRAINERS[recipe["kind"]](texts, recipe["vocabulary"])
    ends = (tokenizer.bos_token_id, tokenizer.eos_token_id)
    return replace_vocabulary(model, len(tokenizer), ends, plan.spec["seed"]), tokenizer


def start_merge(plan: Plan) -> Start:
    """The parents' weights merged: averaged, or by a method and shares."""
    parents = [load(plan.out / parent) for parent in plan.spec["parents"]]
    model, tokenizer = parents[0]
    states = [parent.state_dict() for parent, _ in parents]
    if "method" in plan.spec:
        base = load(plan.out / plan.base().name)[0].state_dict()
        merged = METHODS[plan.spec["method"]](states, plan.spec["shares"], base)
    else:
        merged = {key: torch.stack([state[key] for state in states]).mean(0) for key in states[0]}
    model.load_state_dict(merged)
    return model, tokenizer


def start_pruned(plan: Plan) -> Start:
    """The parent without some of its blocks."""
    model, tokenizer = start_parent(plan)
    spec, count = plan.spec, model.config.num_hidden_layers
    removed = spec.get("removed_blocks") or [spec["removed_block"]]
    return stack_blocks([model], [(0, i) for i in range(count) if i not in removed]), tokenizer


def start_narrowed(plan: Plan) -> Start:
    """The parent with some of its units, heads or residual dimensions."""
    model, tokenizer = start_parent(plan)
    return NARROWED[plan.spec["narrowed"]](model, plan.spec["kept"]), tokenizer


def start_stacked(plan: Plan) -> Start:
    """Blocks of one or several parents stacked, some of them twice."""
    parents = [load(plan.out / parent) for parent in plan.spec["parents"]]
    return stack_blocks([model for model, _ in parents], plan.spec["blocks"]), parents[0][1]


def start_upcycled(plan: Plan) -> Start:
    """The parent with its feed-forward networks copied into experts, and a random router."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "upcycled"
        parent = plan.out / plan.spec["parents"][0]
        attack(parent, ["upcycling"], folder, plan.spec["seed"])
        return load(folder)


NARROWED: dict[str, Callable[[PreTrainedModel, Any], PreTrainedModel]] = {
    "units": keep_units,
    "width": keep_width,
    "groups": keep_groups,
}

RELATIONS: dict[str, Callable[[Plan], Start]] = {
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
