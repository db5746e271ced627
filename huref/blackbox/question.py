"""One question to an OpenAI-compatible endpoint, in the words of either of its two APIs."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Dialect = Literal["completions", "chat"]


@dataclass(frozen=True)
class Question:
    """What is asked of one prompt.

    Attributes:
        prompt: the text.
        top: ask for so many most probable tokens; -1 means all (vLLM), None asks for none.
        ids: ask for these tokens' log-probabilities (vLLM's logprob_token_ids).
        bias: token id -> what is added to its logit, within -100..100.
        greedy: generate the most probable token instead of sampling one.
        repeat: tells apart answers to the same question; not sent.
    """

    prompt: str
    top: int | None = None
    ids: tuple[int, ...] = ()
    bias: Mapping[int, float] = field(default_factory=dict)
    greedy: bool = False
    repeat: str = ""

    def body(self, dialect: Dialect, model: str) -> dict[str, Any]:
        """The request's JSON."""
        body: dict[str, Any] = {
            "model": model,
            "max_tokens": 1,
            "temperature": 0 if self.greedy else 1,
        }
        wants = self.top is not None or bool(self.ids)
        if dialect == "chat":
            body["messages"] = [{"role": "user", "content": self.prompt}]
            if wants:
                body |= {"logprobs": True, "top_logprobs": 1 if self.top is None else self.top}
        else:
            body["prompt"] = self.prompt
            if wants:
                body["logprobs"] = 1 if self.top is None else self.top
        if self.ids:
            body["logprob_token_ids"] = list(self.ids)
        if wants:
            body["return_tokens_as_token_ids"] = True
        if self.bias:
            body["logit_bias"] = {str(token): value for token, value in self.bias.items()}
        return body
