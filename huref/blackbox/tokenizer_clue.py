"""A clue to a served model's tokenizer: into how many tokens it cuts chosen texts.

Most endpoints count the tokens of a prompt (`usage.prompt_tokens`), whatever else they withhold.
The counts of texts of many kinds differ between tokenizers. A template or a first token adds the
same number to every count, so that counts are compared up to a constant. Models of one family share
a tokenizer, and an endpoint can count what it likes: a clue, which cuts the candidates, no proof.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from huref.blackbox.endpoint import Endpoint
from huref.blackbox.query import TokenQuery
from huref.errors import HurefError
from huref.loader.checkpoint import open_checkpoint

# Without blanks at the ends, which templates strip.
TEXTS = (
    "The quick brown fox jumps over the lazy dog, and nobody at the river seems to mind it.",
    "Donaudampfschifffahrtsgesellschaftskapitäne überqueren fröhlich die Rheinbrücke.",
    "Les élèves de l'école ont déjà mangé; c'est-à-dire qu'ils n'iront pas à la cantine.",
    "Быстрая коричневая лиса прыгает через ленивую собаку у широкой реки.",
    "敏捷的棕色狐狸跳过了懒狗。今日は天気がいいから散歩しましょう。",
    "def total(values):\n    return sum(v * 2 for v in values if v)\n\nprint(total([]))",
    "if (x != null) {\n\t\tfor (int i = 0; i < 10; ++i) {\n\t\t\tr[i] += x->value;\n\t\t}\n\t}",
    "3.14159265358979323846264338327950288419716939937510, 1000000007, 2026-11-29T23:59:59Z",
    '{"name": "huref", "versions": ["0.1.0", "0.2.0rc1"], "nested": {"a": [1, 2, {"b": null}]}}',
    "https://example.org/a/very-long_path/Index.HTML?query=%20value&amp;x=1#Fragment",
    "aGVsbG8gd29ybGQgdGhpcyBpcyBiYXNlNjQ= 0xDEADBEEF 6f1a2b3c4d5e6f70",
    "🙂🙃 — “quotes” … ½ × ≈ 5 µm; naïve café; HTTPServerErrorHandler getElementById snake_case",
)
LEAST = 6  # texts that were counted
# Share of the texts that must agree. Two vocabularies of the zoo agree in at most 4 of 12.
AGREE = 0.75


@dataclass(frozen=True)
class TokenizerMatch:
    """A candidate of which nothing but its tokenizer was compared.

    Attributes:
        model: the candidate.
        verdict: "other tokenizer" or "cannot tell".
        why: the figures that decide.
    """

    model: str
    verdict: str
    why: str

    def to_json(self) -> dict[str, object]:
        """One candidate as `huref probe match --json` prints it."""
        return {"model": self.model, "residual": None, "verdict": self.verdict, "why": self.why}


@dataclass(frozen=True)
class TokenizerClue:
    """How a candidate's tokenizer fits the counts of an endpoint.

    Attributes:
        agree: number of texts with the same count, up to one constant for all.
        of: number of texts.
    """

    agree: int
    of: int

    @property
    def fits(self) -> bool:
        """Whether so many agree as only one tokenizer, or a close relative of it, gives."""
        return self.agree >= AGREE * self.of

    @property
    def words(self) -> str:
        """What was found, as a clause."""
        cut = "as many tokens" if self.fits else "other numbers of tokens"
        return (
            f"its tokenizer cuts {self.agree if self.fits else self.of - self.agree} of {self.of} "
            f"texts into {cut} as the endpoint counts (a clue, no proof)"
        )

    def to_json(self) -> dict[str, int | bool]:
        """The clue in `huref probe match --json`."""
        return {"agree": self.agree, "of": self.of, "fits": self.fits}


def count_tokens(endpoint: Endpoint) -> list[int | None] | None:
    """The number of tokens that an endpoint counts for each text, in one request a text.

    None where it counts none; an entry is None where a request failed or its count was missing.
    """
    if not endpoint.capabilities.usage:
        return None
    queries = [TokenQuery(text, greedy=True) for text in TEXTS]
    answers = endpoint.ask_all(queries, "tokenizer", most_failures=0.5)
    counts = [None if answer is None else answer.prompt_tokens for answer in answers]
    return counts if sum(count is not None for count in counts) >= LEAST else None


def own_counts(model: str) -> tuple[int, ...] | None:
    """The number of tokens of each text by an open model's tokenizer; its weights are not read.

    None where the model has no tokenizer that can be run here.
    """
    try:
        encoder = open_checkpoint(model).encoder
    except HurefError:  # its head may still be read
        return None
    return None if encoder is None else tuple(len(encoder.encode(text)) for text in TEXTS)


def compare_counts(counts: Sequence[int | None], own: Sequence[int]) -> TokenizerClue:
    """Compare an endpoint's counts with those of an open model's tokenizer."""
    differences = Counter(
        count - mine for mine, count in zip(own, counts, strict=True) if count is not None
    )
    return TokenizerClue(differences.most_common(1)[0][1], differences.total())


def judge_by_tokenizer(model: str, clue: TokenizerClue | None) -> TokenizerMatch:
    """What is said of a candidate of which nothing else is compared."""
    if clue is None:
        return TokenizerMatch(model, "cannot tell", "its tokenizer cannot be run here")
    return TokenizerMatch(model, "cannot tell" if clue.fits else "other tokenizer", clue.words)
