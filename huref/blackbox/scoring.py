"""Match by scores: served log-probabilities of tokens beside those of open models, computed here.

Where a prompt's own log-probabilities can be had, fixed texts are scored. Otherwise the endpoint's
own greedy continuations are scored, which takes no more than one log-probability a token.
"""

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from huref.blackbox.answers import TokenScore, VanishedError
from huref.blackbox.endpoint import Endpoint
from huref.blackbox.prompts import TEXTS
from huref.blackbox.query import TokenQuery
from huref.errors import EndpointError, HurefError

Vector = NDArray[np.float64]

LENGTH = 48  # tokens of a continuation
OPENING = 40  # characters of a text that are continued
FLOOR = 1e-3  # nat; differences of float arithmetic
LEAST_TOKENS = 40
ALIKE = 0.9  # share of the tokens' texts that must be the same
SHARED = 0.3  # correlation with the error of a quantisation made here that shows one like it
EXACT = 0.5  # part of that error that remains where the quantisation is the same
STRANGE = 0.3  # difference, in standard deviations of the scores, beyond which models are unrelated
GROUP = 32  # weights that share a scale


@dataclass(frozen=True)
class ScoredText:
    """A text with the log-probabilities that an endpoint gave.

    Attributes:
        prompt: the text that was sent.
        chat: whether it was sent as a chat.
        scores: name and log-probability of every token, of the prompt or of its continuation.
        continuation: the text that was generated, or None where the prompt itself was scored.
    """

    prompt: str
    chat: bool
    scores: tuple[TokenScore, ...]
    continuation: str | None = None


@dataclass(frozen=True)
class ScoreMatch:
    """How well served scores fit one open model.

    Attributes:
        model: the candidate.
        verdict: "same model", "same model, about 8 bits", "same model, about 4 bits",
            "cannot tell" or "other model".
        why: the figures that decide.
        difference: mean of served minus own log-probabilities, nat a token.
        standard_error: of that mean, over the tokens.
        spread: root mean square of the differences, nat.
    """

    model: str
    verdict: str
    why: str
    difference: float | None = None
    standard_error: float | None = None
    spread: float | None = None

    def to_json(self) -> dict[str, object]:
        """One candidate as `huref probe match --json` prints it."""
        return {"model": self.model, "residual": None, "verdict": self.verdict, "why": self.why}


def collect_scores(endpoint: Endpoint) -> list[ScoredText]:
    """Scores of fixed texts, or of the endpoint's own continuations of them.

    Raises:
        EndpointError: the endpoint gives no log-probabilities, or those of other tokens.
        VanishedError: it gave them when its capabilities were detected.
    """
    found = endpoint.capabilities
    chat = found.api == "chat"
    if found.misplaced:
        raise EndpointError(
            "cannot tell: its log-probabilities are not those of the tokens that it generates",
            model=endpoint.name,
        )
    if found.prompt_scores:
        echo = found.prompt_scores == "echo"
        queries = [
            TokenQuery(text, 1, greedy=True, echo=echo, prompt_scores=not echo) for text in TEXTS
        ]
    elif found.top:
        queries = [TokenQuery(text[:OPENING], 1, greedy=True, length=LENGTH) for text in TEXTS]
    else:
        raise EndpointError(
            f"the endpoint gives {found.summary}, which is too little to compare scores",
            model=endpoint.name,
        )
    scored = []
    for query, answer in zip(queries, endpoint.ask_all(queries, "scores"), strict=True):
        assert answer is not None
        scores = answer.prompt if found.prompt_scores else answer.generated
        if not scores:
            raise VanishedError(
                "an answer with status 200 has no log-probabilities, which the endpoint gave when "
                "its capabilities were detected",
                model=endpoint.name,
            )
        text = None if found.prompt_scores else answer.text
        scored.append(ScoredText(query.prompt, chat, scores, text))
    return scored


class OpenScorer:
    """An open model with its tokenizer, which transformers runs on this machine in float32.

    Raises:
        HurefError: transformers is not installed, or cannot load the model or its tokenizer.
    """

    def __init__(self, model: str):
        try:
            from transformers import AutoModelForCausalLM, AutoTokenizer
            from transformers.utils.logging import disable_progress_bar
        except ImportError as error:
            raise HurefError(
                "running a model needs transformers",
                advice="install it with: pip install 'huref[probe]'",
            ) from error
        if not sys.stderr.isatty():
            disable_progress_bar()
        name, _, revision = model.partition("@")
        options = {"revision": revision or "main", "trust_remote_code": False}
        try:
            self._tokenizer = AutoTokenizer.from_pretrained(name, **options)
            self._model = AutoModelForCausalLM.from_pretrained(
                name, dtype="float32", **options
            ).eval()
        except (OSError, ValueError) as error:
            raise HurefError(f"transformers cannot load it ({error})", model=model) from error

    def align(self, text: ScoredText) -> tuple[list[int], int] | None:
        """The token ids of a scored text, and the position of its first scored token.

        None if the tokenizer cuts the text differently.
        """
        names = [name for name, _ in text.scores]
        for special in (True, False):
            ids = self._encode(text, special)
            if ids is None:
                continue
            if text.continuation is None:
                start = 0
            else:
                start = len(ids)
                ids = ids + self._continue(text, names)
            if len(ids) - start == len(names) and self._alike(ids[start:], names):
                return ids, start
        return None

    def _encode(self, text: ScoredText, special: bool) -> list[int] | None:
        if not text.chat:
            return list(self._tokenizer(text.prompt, add_special_tokens=special)["input_ids"])
        if not getattr(self._tokenizer, "chat_template", None):
            return None
        chat = [{"role": "user", "content": text.prompt}]
        written = self._tokenizer.apply_chat_template(
            chat, add_generation_prompt=True, tokenize=False
        )
        return list(self._tokenizer(written, add_special_tokens=False)["input_ids"])

    def _continue(self, text: ScoredText, names: Sequence[str | int]) -> list[int]:
        if all(isinstance(name, int) for name in names):
            return [int(name) for name in names]
        found = self._tokenizer(text.continuation or "", add_special_tokens=False)["input_ids"]
        return list(found)

    def _alike(self, ids: Sequence[int], names: Sequence[str | int]) -> bool:
        same = 0
        for token, name in zip(ids, names, strict=True):
            if isinstance(name, int):
                same += token == name
                continue
            if name.startswith("bytes:"):
                name = bytes.fromhex(name.removeprefix("bytes:")).decode("utf-8", "replace")
            same += name.strip() == str(self._tokenizer.decode([token])).strip()
        return same >= ALIKE * len(ids)

    def score(self, aligned: Sequence[tuple[list[int], int]]) -> list[Vector]:
        """Log-probabilities of the scored tokens; NaN for a first token.

        Raises:
            HurefError: a log-probability is not finite.
        """
        import torch

        rows = []
        for ids, start in aligned:
            with torch.inference_mode():
                logits = self._model(torch.tensor([ids])).logits[0].double()
            values = torch.log_softmax(logits[:-1], dim=1)
            scores = values[torch.arange(len(ids) - 1), torch.tensor(ids[1:])].numpy()
            if not np.isfinite(scores).all():
                raise HurefError("its logits are not finite; the weights are broken")
            rows.append(np.concatenate([[np.nan], scores])[start:])
        return rows

    @contextmanager
    def quantised(self, bits: int) -> Iterator[None]:
        """Round the weights of linear layers but the head: 16 for bfloat16, 8 or 4 in groups."""
        import torch

        head = self._model.get_output_embeddings()
        layers: list[Any] = [
            module
            for module in self._model.modules()
            if isinstance(module, torch.nn.Linear) and module is not head
        ]
        before = [layer.weight.data for layer in layers]
        for layer in layers:
            layer.weight.data = _round(layer.weight.data, bits)
        try:
            yield
        finally:
            for layer, weight in zip(layers, before, strict=True):
                layer.weight.data = weight


def _round(weight: Any, bits: int) -> Any:
    import torch

    if bits == 16:
        return weight.to(torch.bfloat16).to(weight.dtype)
    largest = 2 ** (bits - 1) - 1
    width = GROUP if weight.shape[-1] % GROUP == 0 else weight.shape[-1]
    groups = weight.reshape(-1, width)
    scale = groups.abs().amax(dim=1, keepdim=True).clamp_min(1e-12) / largest
    return ((groups / scale).round() * scale).reshape(weight.shape)


def match_scores(scored: Sequence[ScoredText], model: str) -> ScoreMatch:
    """Compare served scores with one open model's own, at several precisions."""
    try:
        scorer = OpenScorer(model)
    except HurefError as error:
        return ScoreMatch(model, "cannot tell", error.what)
    # A continuation may be cut differently than it was generated; the other texts suffice then.
    places = [(text, scorer.align(text)) for text in scored]
    pairs = [(text, place) for text, place in places if place is not None]
    if 2 * len(pairs) < len(scored) or not pairs:
        why = "its tokenizer cuts the scored texts into other tokens"
        if any(text.chat and text.continuation is not None for text in scored):
            why = "its chat template or its tokenizer does not give the scored tokens"
        return ScoreMatch(model, "cannot tell", why)
    aligned = [place for _, place in pairs]
    served = np.concatenate(
        [[np.nan if v is None else v for _, v in text.scores] for text, _ in pairs]
    )
    own = {0: np.concatenate(scorer.score(aligned))}
    for bits in (16, 8, 4):
        with scorer.quantised(bits):
            own[bits] = np.concatenate(scorer.score(aligned))
    known = np.isfinite(served) & np.isfinite(own[0])
    return judge(model, served[known], {bits: values[known] for bits, values in own.items()})


def judge(model: str, served: Vector, own: dict[int, Vector]) -> ScoreMatch:
    """The verdict from served scores (n,) and own ones at each precision; 0 stands for float32."""
    if len(served) < LEAST_TOKENS:
        why = f"{len(served)} tokens were scored, {LEAST_TOKENS} are needed"
        return ScoreMatch(model, "cannot tell", why)
    gap = served - own[0]
    spread = _rms(gap)
    mean, error = float(gap.mean()), float(gap.std(ddof=1) / np.sqrt(len(gap)))
    errors = {bits: own[bits] - own[0] for bits in (16, 8, 4)}
    sizes = {bits: _rms(values) for bits, values in errors.items()}
    rest = {bits: _rms(served - own[bits]) for bits in (8, 4)}
    alike = {bits: _correlation(gap, errors[bits]) for bits in (8, 4)}
    why = (
        f"{len(gap)} tokens differ by {spread:.2g} nat (root mean square), on average by "
        f"{mean:.2g} ± {error:.2g}; rounding this model to 16, 8 and 4 bits changes them by "
        f"{sizes[16]:.2g}, {sizes[8]:.2g} and {sizes[4]:.2g}"
    )

    def answer(verdict: str, note: str = "") -> ScoreMatch:
        words = f"{why}; {note}" if note else why
        return ScoreMatch(model, verdict, words, mean, error, spread)

    if spread <= max(2 * sizes[16], FLOOR):
        return answer("same model")
    for bits in (8, 4):
        exact = rest[bits] <= EXACT * sizes[bits]
        similar = alike[bits] >= SHARED and spread <= 2.5 * sizes[bits]
        if exact or similar:
            return answer(
                f"same model, about {bits} bits",
                f"the differences correlate by {alike[bits]:.2f} with those of {bits} bits",
            )
    if spread <= 3 * sizes[4]:
        note = "another kind of quantisation and a light fine-tune are of this size"
        return answer("cannot tell", note)
    scale = float(own[0].std())
    if spread >= STRANGE * scale:
        return answer("other model", f"scores of unrelated tokens spread by {scale:.2g}")
    return answer("cannot tell", "a fine-tune and a similar model are of this size")


def _rms(values: Vector) -> float:
    return float(np.sqrt(np.square(values).mean()))


def _correlation(first: Vector, second: Vector) -> float:
    if not first.std() or not second.std():
        return 0.0
    return float(np.corrcoef(first, second)[0, 1])
