"""The text that blocks are run on: passages that ship with huref, as token ids of one model."""

import re

import torch
from torch import Tensor

from huref.assets import passages
from huref.loader.checkpoint import Checkpoint

LENGTH = 64  # tokens of each passage
PHRASE = re.compile(rb"[A-Za-z\x80-\xff]\s+[A-Za-z\x80-\xff]")
MOST_PHRASES = 0.2  # of a passage's tokens; tokenizers that split a text into words emit none


def text_ids(checkpoint: Checkpoint) -> tuple[Tensor, bool]:
    """Token ids (passages, LENGTH) int64, and whether they are the passages' own.

    Where the tokenizer cannot be run, or encodes phrases of the passages to one token, ids are
    drawn from the vocabulary's normal tokens with a fixed seed. A passage of fewer tokens goes on
    from its beginning. Every sequence starts with config.json's bos_token_id, if it has one: heads
    may attend to that token alone.
    """
    encoder = checkpoint.encoder
    if encoder is not None:
        rows = [encoder.encode(passage) for passage in passages()]
        phrases = {token.id for token in checkpoint.vocabulary if PHRASE.search(token.text)}
        if all(
            len(set(row)) > LENGTH // 4
            and sum(number in phrases for number in row) < MOST_PHRASES * len(row)
            for row in rows
        ):
            return torch.tensor([(row * (LENGTH // len(row) + 1))[:LENGTH] for row in rows]), True
    normal = [token.id for token in checkpoint.vocabulary if token.kind == "normal"]
    draw = torch.Generator().manual_seed(0)
    places = torch.randint(len(normal), (len(passages()), LENGTH), generator=draw)
    return torch.tensor(normal)[places], False
