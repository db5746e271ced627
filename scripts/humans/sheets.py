"""Writes the test as PNG sheets, for those who answer by looking at pictures alone.

    python -m scripts.humans sheets FOLDER --seed 1

Each row of matching-*.png has the relative and then 18 bases, numbered 0 to 17. Each row of
pairs-*.png has four pairs. Neither shows an answer. answers.json in the folder is to be filled
in, then scored with `python -m scripts.humans score`.
"""

import json
from pathlib import Path

import numpy as np

from huref.decoder.picture import Picture, contact_sheet, write_png
from scripts import make_parser
from scripts.humans.drawing import DRAWINGS, source_of
from scripts.humans.score import FORMAT
from scripts.humans.trials import CHOICES, QUESTIONS, Trial, make_trial

ROWS = 10  # questions on a sheet of matching
PAIRS = 4  # in a row
CELL = 96  # pixels


def blank_answers(seed: int, name: str) -> dict[str, object]:
    """A file of answers without any."""
    nothing = [None] * QUESTIONS
    return {
        "format": FORMAT,
        "seed": seed,
        "pictures": name,
        "matching": nothing,
        "pairs": nothing,
    }


def draw_sheets(trial: Trial, folder: Path) -> None:
    """Write the sheets of a test into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    shown: list[Picture] = list(trial.pictures)
    for start in range(0, QUESTIONS, ROWS):
        images, captions = [], []
        for number, question in enumerate(trial.matching[start : start + ROWS], start + 1):
            images += [shown[question.asked], *(shown[i] for i in question.choices)]
            captions += [f"{number}: whose?", *(str(place) for place in range(CHOICES))]
        sheet = contact_sheet(images, captions, CHOICES + 1, CELL)
        write_png(folder / f"matching-{start // ROWS + 1}.png", sheet, {})
    half, gap = QUESTIONS // 2, np.full_like(shown[0], 250)
    for start in range(0, QUESTIONS, half):
        images, captions = [], []
        for number, pair in enumerate(trial.pairs[start : start + half], start + 1):
            images += [shown[pair.first], shown[pair.second], gap]
            captions += [str(number), "", ""]
        sheet = contact_sheet(images, captions, 3 * PAIRS, CELL)
        write_png(folder / f"pairs-{start // half + 1}.png", sheet, {})


def main() -> None:
    """Write the sheets that the command line asks for."""
    parser = make_parser(__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seed", type=int, default=0, help="of the questions, from 0")
    parser.add_argument("--pictures", default=DRAWINGS, help="'drawings' or a decoder's file")
    options = parser.parse_args()
    name, draw = source_of(options.pictures)
    draw_sheets(make_trial(options.seed, draw), options.folder)
    path = options.folder / "answers.json"
    path.write_text(json.dumps(blank_answers(options.seed, name)) + "\n", "utf-8")
    print(f"{options.folder}: 6 sheets; fill in {path}, then score it")
