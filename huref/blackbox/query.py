"""One query to an OpenAI-compatible endpoint, for its completions or its chat API."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Api = Literal["completions", "chat"]


@dataclass(frozen=True)
class TokenQuery:
    """A request for one or more generated tokens after a prompt.

    Attributes:
        prompt: the text.
        top: number of most probable tokens to return; -1 for all (vLLM), None for none.
        ids: token ids whose log-probabilities to return (vLLM's logprob_token_ids).
        bias: token id -> logit bias, within -100..100.
        greedy: generate the most probable token instead of sampling one.
        repeat: distinguishes repeats of a query in the store; not sent.
        length: number of tokens to generate.
        temperature: of the sampling; None for 0 if greedy, else 1.
        seed: of the sampling; None to send none.
        echo: return the prompt's tokens with their log-probabilities (completions only).
        prompt_scores: request the prompt's log-probabilities by vLLM's prompt_logprobs.
    """

    prompt: str
    top: int | None = None
    ids: tuple[int, ...] = ()
    bias: Mapping[int, float] = field(default_factory=dict)
    greedy: bool = False
    repeat: str = ""
    length: int = 1
    temperature: float | None = None
    seed: int | None = None
    echo: bool = False
    prompt_scores: bool = False

    @property
    def wants_scores(self) -> bool:
        """Whether the answer should have log-probabilities of generated tokens."""
        return self.top is not None or bool(self.ids)

    def body(self, api: Api, model: str) -> dict[str, Any]:
        """The JSON body of the request."""
        default = 0 if self.greedy else 1
        body: dict[str, Any] = {
            "model": model,
            "max_tokens": self.length,
            "temperature": default if self.temperature is None else self.temperature,
        }
        if api == "chat":
            body["messages"] = [{"role": "user", "content": self.prompt}]
            if self.wants_scores:
                body |= {"logprobs": True, "top_logprobs": 1 if self.top is None else self.top}
        else:
            body["prompt"] = self.prompt
            if self.wants_scores:
                body["logprobs"] = 1 if self.top is None else self.top
        if self.ids:
            body["logprob_token_ids"] = list(self.ids)
        if self.wants_scores:
            body["return_tokens_as_token_ids"] = True
        if self.bias:
            body["logit_bias"] = {str(token): value for token, value in self.bias.items()}
        if self.seed is not None:
            body["seed"] = self.seed
        if self.echo:
            body["echo"] = True
        if self.prompt_scores:
            body["prompt_logprobs"] = 0  # the tokens of the prompt themselves and no others
        return body
