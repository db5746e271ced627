"""The answers of a served model at one visit, and their file."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, get_args

from huref.blackbox.permutation import TokenVisit, Visit
from huref.bounded_json import loads
from huref.errors import SignatureError
from huref.files import replacing

Mode = Literal["logprobs", "scores", "tokens"]
MODES: tuple[Mode, ...] = get_args(Mode)

FORMATS = ("huref watch 1", "huref watch 2")
NOT_A_BASELINE = "it is not a baseline made by `huref probe watch`"
WATCHED = 20  # log-probabilities per answer that are compared


@dataclass(frozen=True)
class Baseline:
    """The answers of an endpoint at one visit.

    Attributes:
        source: name of the endpoint.
        answers: for each prompt and repeat, token -> log-probability; empty in mode tokens.
        mode: what was compared.
        prompts: the prompts, texts or border inputs; empty in files of an earlier huref.
        texts: for each prompt and repeat the generated token; empty in mode scores.
        temperature: of the sampling in mode tokens.
        top: number of log-probabilities in an answer.
        made: UTC date and time, ISO 8601.
        served: what the answers named as their model and its system, in words.
    """

    source: str
    answers: Visit
    mode: Mode = "logprobs"
    prompts: Sequence[str] = ()
    texts: TokenVisit = ()
    temperature: float = 0.0
    top: int = WATCHED
    made: str = ""
    served: Sequence[str] = ()

    def save(self, path: Path) -> None:
        """Write the file as JSON, atomically."""
        with replacing(path) as temporary:
            temporary.write_text(json.dumps({"format": FORMATS[-1], **asdict(self)}), "utf-8")


def load_baseline(path: Path) -> Baseline:
    """Read a baseline. Raises SignatureError when the file is not a baseline."""
    try:
        data = loads(path.read_text("utf-8"), constants=True)
        if data.pop("format") not in FORMATS:
            raise SignatureError(NOT_A_BASELINE, file=path)
        found = Baseline(**data)
        _require_form(found)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise SignatureError(NOT_A_BASELINE, file=path) from error
    return found


def _require_form(found: Baseline) -> None:
    """Raise ValueError unless the answers have the form that the mode promises."""
    visit: Sequence[Sequence[object]] = found.texts if found.mode == "tokens" else found.answers
    kind = str if found.mode == "tokens" else dict
    if found.mode not in MODES or not visit or not all(visit):
        raise ValueError("no answers")
    answers = [answer for answers in visit for answer in answers]
    if not all(isinstance(answer, kind) and (answer or kind is str) for answer in answers):
        raise ValueError("an answer has a wrong form")
    if found.prompts and len(found.prompts) != len(visit):
        raise ValueError("the prompts do not fit the answers")
