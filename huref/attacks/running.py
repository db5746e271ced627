"""Runs a model under attack by transformers, for kinds that need what it computes."""

import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Generator, Tensor

from huref.attacks.editable import Editable
from huref.errors import AttackError


def load_network(model: Editable, kind: str, dtype: torch.dtype = torch.float32) -> Any:
    """The model as a transformers module, without gradients.

    Args:
        model: as it is now.
        kind: for the message.
        dtype: of the module's weights.

    Raises:
        AttackError: transformers is not installed.
    """
    try:
        from transformers import AutoModelForCausalLM
        from transformers.utils import logging
    except ImportError as error:
        raise AttackError(
            f"{kind} needs to run the model", advice="pip install 'huref[probe]'"
        ) from error
    if not sys.stderr.isatty():
        logging.disable_progress_bar()
    with tempfile.TemporaryDirectory() as temporary:
        model.save(Path(temporary) / "model")
        network = AutoModelForCausalLM.from_pretrained(Path(temporary) / "model", dtype=dtype)
    return network.eval().requires_grad_(False)


def first_token(model: Editable) -> int:
    """The id with which every text must begin."""
    number = model.config.get("bos_token_id")
    return number if isinstance(number, int) else 0


def write_texts(network: Any, first: int, texts: int, tokens: int, generator: Generator) -> Tensor:
    """Texts that a model writes: ids drawn from its own predictions, (texts, tokens).

    Args:
        network: of `load_network`.
        first: the id with which each begins.
        texts: their number.
        tokens: of each text; no more than the model has positions for.
        generator: of the draws.
    """
    new = min(tokens, int(network.config.max_position_embeddings)) - 1
    ids = torch.full((texts, 1), first)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(torch.randint(2**31, (1,), generator=generator)))
        written: Tensor = network.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            do_sample=True,
            top_k=0,
            min_new_tokens=new,  # so that no text ends early
            max_new_tokens=new,
            pad_token_id=first,
        )
    return written
