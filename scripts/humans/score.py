"""Scores answers to the test: accuracy, d' and false "same", with 95 % intervals.

    python -m scripts.humans score answers-*.json

A file of answers is a JSON object: format "huref-humans-1"; seed; pictures, the name of their
source; matching, a list of the chosen places 0 to 17; pairs, a list of "same" and "different"; in
the order of the questions, with null where nothing was answered. Files of one source are added up.
"""

import json
import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import NormalDist
from typing import Any

from scripts import make_parser
from scripts.humans.drawing import source_of
from scripts.humans.trials import CHOICES, QUESTIONS, Trial, make_trial

FORMAT = "huref-humans-1"
Counts = dict[float, list[bool]]


@dataclass
class Answers:
    """Outcomes by cosine: whether a base was found, and whether a pair was called the same."""

    found: Counts = field(default_factory=lambda: defaultdict(list))
    same: Counts = field(default_factory=lambda: defaultdict(list))


def interval(hits: int, count: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a proportion (1927); (0, 1) for no trials."""
    if count == 0:
        return 0.0, 1.0
    z = NormalDist().inv_cdf(0.975)
    share, weight = hits / count, z * z / count
    middle = (share + weight / 2) / (1 + weight)
    half = z * math.sqrt(share * (1 - share) / count + weight / (4 * count)) / (1 + weight)
    return max(0.0, middle - half), min(1.0, middle + half)


def sensitivity(hits: int, related: int, false: int, strangers: int) -> tuple[float, float]:
    """D' of "same" on related pairs against strangers, and its standard error.

    Half a count is added to each outcome (Hautus 1995), so that it is finite. The error is that of
    Gourevitch and Galanter (1967).
    """
    normal, squares, value = NormalDist(), 0.0, 0.0
    for sign, count, of in ((1.0, hits, related), (-1.0, false, strangers)):
        share = (count + 0.5) / (of + 1.0)
        place = normal.inv_cdf(share)
        value += sign * place
        squares += share * (1 - share) / ((of + 1.0) * normal.pdf(place) ** 2)
    return value, math.sqrt(squares)


def read_answers(path: Path) -> dict[str, Any]:
    """The object in a file of answers.

    Raises:
        SystemExit: it is no such file; the message names the file and what is wrong.
    """
    try:
        found = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise SystemExit(
            f"{path}: cannot be read as JSON ({error}); save the answers again"
        ) from None
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        raise SystemExit(f"{path}: no answers of the format {FORMAT}; use the page's own file")
    seed = found.get("seed")
    if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
        raise SystemExit(f"{path}: the seed is no whole number from 0; use the page's own file")
    if not isinstance(found.get("pictures"), str):
        raise SystemExit(f"{path}: 'pictures' is no name; use the page's own file")
    for task, allowed in (("matching", range(CHOICES)), ("pairs", ("same", "different"))):
        given = found.get(task)
        if not isinstance(given, list) or len(given) != QUESTIONS:
            raise SystemExit(f"{path}: '{task}' is no list of {QUESTIONS}; use the page's own file")
        for number, one in enumerate(given, 1):
            if isinstance(one, bool | float) or (one is not None and one not in allowed):
                raise SystemExit(f"{path}: answer {number} of '{task}' is none of the choices")
    return found


def add_up(answers: Answers, given: dict[str, Any], trial: Trial) -> None:
    """Add the outcomes of one file to the others; unanswered questions are left out."""
    for choice, question in zip(given["matching"], trial.matching, strict=True):
        if choice is not None:
            answers.found[question.cosine].append(choice == question.answer)
    for said, pair in zip(given["pairs"], trial.pairs, strict=True):
        if said is not None:
            answers.same[pair.cosine].append(said == "same")


def _share(outcomes: Sequence[bool]) -> str:
    low, high = interval(sum(outcomes), len(outcomes))
    if not outcomes:
        return "no answers"
    share = f"{sum(outcomes)} of {len(outcomes)}, {sum(outcomes) / len(outcomes):.1%}"
    return f"{share} ({low:.1%} to {high:.1%})"


def report(answers: Answers) -> Iterable[str]:
    """The lines of a report; intervals are of 95 %."""
    yield "| cos z | base found among 18 | called the same | d' |"
    yield "| ---: | ---: | ---: | ---: |"
    false = answers.same.get(0.0, [])
    for cosine in sorted({*answers.found, *answers.same} - {0.0}, reverse=True):
        same = answers.same.get(cosine, [])
        d, error = sensitivity(sum(same), len(same), sum(false), len(false))
        bounds = f"{d:.2f} ({d - 1.96 * error:.2f} to {d + 1.96 * error:.2f})"
        shown = bounds if same and false else "no answers"
        yield f"| {cosine} | {_share(answers.found.get(cosine, []))} | {_share(same)} | {shown} |"
    everything = [one for outcomes in answers.found.values() for one in outcomes]
    yield ""
    yield f"Base found among 18, all: {_share(everything)}; the bar is 95 %."
    yield f"False 'same' on the nearest of 100 strangers: {_share(false)}; the bar is at most 6 %."


def main() -> None:
    """Score the files that the command line names."""
    parser = make_parser(__doc__)
    parser.add_argument("answers", nargs="+", type=Path, help="files that the page saved")
    parser.add_argument("--pictures", default="drawings", help="'drawings' or a decoder's file")
    options = parser.parse_args()
    name, draw = source_of(options.pictures)
    answers, trials = Answers(), {}
    for path in options.answers:
        given = read_answers(path)
        if given["pictures"] != name:
            raise SystemExit(
                f"{path}: answers to {given['pictures']}, not to {name}; name it with --pictures"
            )
        seed = given["seed"]
        if seed not in trials:
            trials[seed] = make_trial(seed, draw)
        add_up(answers, given, trials[seed])
    print("\n".join(report(answers)))
