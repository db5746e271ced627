"""Which of some open models is behind an endpoint: tokenizers first, then heads or scores."""

from collections.abc import Mapping, Sequence

from huref.blackbox.endpoint import Endpoint
from huref.blackbox.heads import read_head
from huref.blackbox.match import HeadMatch, match_outputs, match_signature, require_candidates
from huref.blackbox.scoring import ScoreMatch, collect_scores, match_scores
from huref.blackbox.signature import Signature, collect_outputs
from huref.blackbox.size import precision_of
from huref.blackbox.sources import Source
from huref.blackbox.tokenizer_clue import (
    TokenizerClue,
    TokenizerMatch,
    compare_counts,
    count_tokens,
    judge_by_tokenizer,
    own_counts,
)

Match = HeadMatch | ScoreMatch | TokenizerMatch
Clues = Mapping[str, TokenizerClue | None]


def match_candidates(
    source: Source | Signature, models: Sequence[str], outputs: int
) -> tuple[list[Match], Clues]:
    """Compare a source with open models.

    Where an endpoint counts the tokens of a prompt and the models' tokenizers differ, models of
    another tokenizer than its own are not compared further, unless all are. Where its logits cannot
    be measured, scores of texts are compared; where it gives none, nothing but the tokenizers is.

    Args:
        source: a signature, an endpoint or a model on this machine.
        models: names of the candidates.
        outputs: number of prompts whose outputs are compared with heads.

    Returns:
        A match a model, in the given order, and the clue of each model whose tokenizer was run.

    Raises:
        HurefError: a candidate cannot be read, or the endpoint gives too little.
    """
    clues = _compare_tokenizers(source, models) if isinstance(source, Endpoint) else {}
    kept = [model for model in models if (clue := clues.get(model)) is None or clue.fits]
    kept = kept or list(models)
    matches = _by_tokenizer(clues, [model for model in models if model not in kept])
    if not isinstance(source, Endpoint) or not (
        source.capabilities.prefers_scores or source.capabilities.access == "none"
    ):
        matches += _by_heads(source, kept, outputs)
    elif source.capabilities.gives_scores or not any(clues.values()):
        scored = collect_scores(source)  # which refuses where there are none
        matches += [match_scores(scored, model) for model in kept]
    else:
        matches += _by_tokenizer(clues, kept)
    return sorted(matches, key=lambda match: models.index(match.model)), clues


def _compare_tokenizers(endpoint: Endpoint, models: Sequence[str]) -> Clues:
    """The clues, if they can cut the candidates or nothing else can be had: they take requests."""
    own = {model: own_counts(model) for model in models}
    differ = len({counts for counts in own.values() if counts is not None}) > 1
    enough = endpoint.capabilities.access != "none" or endpoint.capabilities.gives_scores
    counts = count_tokens(endpoint) if differ or not enough else None
    if counts is None:
        return {}
    return {m: None if mine is None else compare_counts(counts, mine) for m, mine in own.items()}


def _by_tokenizer(clues: Clues, models: Sequence[str]) -> list[Match]:
    return [judge_by_tokenizer(model, clues.get(model)) for model in models]


def _by_heads(source: Source | Signature, models: Sequence[str], outputs: int) -> list[Match]:
    heads = [read_head(model) for model in models]
    if isinstance(source, Signature):
        return [match_signature(source, head) for head in heads]
    values, ids = collect_outputs(source, outputs, require_candidates(heads))
    noise = precision_of(source, values).noise
    return [match_outputs(values, ids, noise, head) for head in heads]
