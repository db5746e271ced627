"""Which rows of the embeddings a fingerprint reads, and whether their strings fit them."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from huref.errors import WeightsError
from huref.invariants.anchors import Anchors
from huref.invariants.forward import WIDEST
from huref.invariants.signs import spelling_fit
from huref.invariants.token_rows import TokenRows
from huref.loader.vocabulary.spelling import Token


def choose_rows(tokens: TokenRows, anchors: Anchors, text: Tensor) -> list[int]:
    """Ids of tokens whose rows tell the directions of the stream: anchors, text, and more.

    Where the width is small, twice as many as the stream has dimensions, so that they span it.
    All are read at once. Rows that are neither anchors nor in the text are left out where they are
    not finite.

    Args:
        tokens: the model's rows.
        anchors: its anchors.
        text: ids of its text, (texts, length).
    """
    ids = [anchors.ids[i] for i in anchors.filled]
    ids = list(dict.fromkeys([*ids, *torch.unique(text).tolist()]))
    reader = tokens.reader
    vocabulary, width = reader.checkpoint.vocabulary, reader.embedding_width
    if len(ids) >= 2 * width or width > WIDEST:
        return ids
    size = min(2 * width, len(vocabulary))
    start = (len(vocabulary) - size) // 2  # adjacent rows are read in one request
    more = [token.id for token in vocabulary[start : start + size]]
    everything = list(dict.fromkeys([*ids, *more]))
    try:
        tokens.embeddings(everything)
    except WeightsError:
        tokens.embeddings(ids)
        return list(dict.fromkeys([*ids, *tokens.readable(more)]))
    return everything


def fit_of_strings(
    by_id: Mapping[int, Token], ids: Sequence[int], rows: Tensor, anchors: Anchors
) -> float | None:
    """How well the strings of the rows that were read fit them; see `spelling_fit`.

    The lower of the figures of all rows and of the anchors alone, whose strings are known to
    whoever reads huref and could be renumbered without the others.

    Args:
        by_id: the vocabulary.
        ids: of the rows.
        rows: (n, d).
        anchors: the model's anchors.
    """
    own = {anchors.ids[i] for i in anchors.filled}
    known = [place for place, number in enumerate(ids) if number in by_id]
    fits = [
        spelling_fit([by_id[ids[place]] for place in places], rows[places])
        for places in (known, [place for place in known if ids[place] in own])
    ]
    return min((fit for fit in fits if fit is not None), default=None)
