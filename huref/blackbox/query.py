"""One query to an OpenAI-compatible endpoint, for its completions or its chat API."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Api = Literal["completions", "chat"]


@dataclass(frozen=True)
class TokenQuery:
    """A request for one generated token after a prompt.

    Attributes:
        prompt: the text.
        top: number of most probable tokens to return; -1 for all (vLLM), None for none.
        ids: token ids whose log-probabilities to return (vLLM's logprob_token_ids).
        bias: token id -> logit bias, within -100..100.
        greedy: generate the most probable token instead of sampling one.
        repeat: distinguishes repeats of a query in the store; not sent.
    """

    prompt: str
    top: int | None = None
    ids: tuple[int, ...] = ()
    bias: Mapping[int, float] = field(default_factory=dict)
    greedy: bool = False
    repeat: str = ""

    def body(self, api: Api, model: str) -> dict[str, Any]:
        """The JSON body of the request."""
        body: dict[str, Any] = {
            "model": model,
            "max_tokens": 1,
            "temperature": 0 if self.greedy else 1,
        }
        wants = self.top is not None or bool(self.ids)
        if api == "chat":
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
