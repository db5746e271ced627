"""Relations: where a model starts, given its parents. Training, if any, follows."""

from collections.abc import Callable
from pathlib import Path

import torch
import transformers
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

from zoo.order import Order, domain_texts
from zoo.vocabulary import TRAINERS, grow

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


def start_extended(order: Order) -> Start:
    """The parent with new tokens: half of them Latin, half of another script.

    A new row starts as the mean of the rows of the two tokens that it is merged from.
    """
    model, tokenizer = load(order.out / order.spec["parents"][0])
    texts, half = domain_texts(order, order.spec["domain"]), order.spec["new_tokens"] // 2
    tokenizer, latin = grow(tokenizer, texts, half, is_latin)
    tokenizer, other = grow(tokenizer, texts, half, is_other_script)
    first = model.config.vocab_size
    model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    for table in {model.get_input_embeddings().weight, model.get_output_embeddings().weight}:
        for row, parts in enumerate(latin + other, start=first):
            table.data[row] = table.data[list(parts)].mean(0)
    return model, tokenizer


def start_merge(order: Order) -> Start:
    """The plain average of the parents' weights."""
    parents = [load(order.out / parent) for parent in order.spec["parents"]]
    model, tokenizer = parents[0]
    states = [parent.state_dict() for parent, _ in parents]
    mean = {key: torch.stack([state[key] for state in states]).mean(0) for key in states[0]}
    model.load_state_dict(mean)
    return model, tokenizer


def start_pruned(order: Order) -> Start:
    """The parent without one of its blocks."""
    parent, tokenizer = load(order.out / order.spec["parents"][0])
    removed = order.spec["removed_block"]
    shape = parent.config.to_dict()
    shape["num_hidden_layers"] -= 1
    model = type(parent)(type(parent.config)(**shape, attn_implementation="eager"))
    state = {}
    for key, tensor in parent.state_dict().items():
        parts = key.split(".")
        if parts[:2] == ["model", "layers"]:
            index = int(parts[2])
            if index == removed:
                continue
            parts[2] = str(index - (index > removed))
        state[".".join(parts)] = tensor
    model.load_state_dict(state)
    return model, tokenizer


RELATIONS: dict[str, Callable[[Order], Start]] = {
    "base": start_base,
    "finetune": start_parent,
    "continued": start_parent,
    "lora": start_lora,
    "extended": start_extended,
    "merge": start_merge,
    "pruned": start_pruned,
}
