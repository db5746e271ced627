"""Contact sheets: random dogs, families, drawings and pictures, and a blind test."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from huref.decoder.picture import contact_sheet, write_png
from scripts.evaluate.decoder.drawings import Images, Latents, latents_of, relative_of

KINSHIPS = (0.95, 0.9, 0.8, 0.7)
BLIND = 20
BLIND_KINSHIP = 0.8
COLUMNS = 5
LETTERS = "ABCDEFGHIJKLMNOPQRST"
Draw = Callable[[Latents], Images]


def _save(path: Path, images: Images, captions: list[str], columns: int, cell: int) -> None:
    write_png(path, contact_sheet(list(images), captions, columns, cell), {})


def draw_sheets(draw: Draw, folder: Path) -> None:
    """Write decoder-random.png (36 dogs) and decoder-families.png (12 bases, 4 relatives each)."""
    _save(folder / "decoder-random.png", draw(latents_of(20, 36)), [""] * 36, 9, 128)
    base, other = latents_of(21, 12), latents_of(22, 48).reshape(4, 12, -1)
    members = [base, *(relative_of(base, o, c) for o, c in zip(other, KINSHIPS, strict=True))]
    latents = np.stack(members, axis=1).reshape(60, -1)
    captions = [f"{label}" for label in ("base", *(f"cos z {c}" for c in KINSHIPS))]
    _save(folder / "decoder-families.png", draw(latents), captions * 12, 10, 112)


def draw_comparison(path: Path, drawn: Images, made: Images) -> None:
    """Write 3 x 8 drawings, and below each the decoder's picture of the same latent."""
    rows: list[NDArray[np.uint8]] = []
    for start in (0, 8, 16):
        rows += [*drawn[start : start + 8], *made[start : start + 8]]
    captions = (["drawing"] * 8 + ["decoder"] * 8) * 3
    _save(path, np.stack(rows), captions, 8, 128)


def draw_blind_test(draw: Draw, folder: Path, seed: int) -> None:
    """Write blind-bases.png, blind-relatives.png and the solution, blind-answers.json.

    Relatives have cos z 0.8. The solution maps each relative's number to its base's letter.
    """
    base = latents_of(30 + 2 * seed, BLIND)
    relatives = relative_of(base, latents_of(31 + 2 * seed, BLIND), BLIND_KINSHIP)
    order = np.random.default_rng().permutation(BLIND)
    folder.mkdir(parents=True, exist_ok=True)
    _save(folder / "blind-bases.png", draw(base), list(LETTERS), COLUMNS, 160)
    numbers = [str(i + 1) for i in range(BLIND)]
    _save(folder / "blind-relatives.png", draw(relatives[order]), numbers, COLUMNS, 160)
    answers = {str(i + 1): LETTERS[which] for i, which in enumerate(order)}
    (folder / "blind-answers.json").write_text(json.dumps(answers))


def score_blind_test(folder: Path, guesses: str) -> tuple[int, int]:
    """Numbers of right guesses and of guesses; `guesses` has the letter of each relative."""
    answers = json.loads((folder / "blind-answers.json").read_text())
    letters = [letter for letter in guesses.upper() if letter in LETTERS]
    if len(letters) != BLIND:
        raise SystemExit(f"{len(letters)} guesses; give {BLIND} letters, one per relative")
    right = sum(answers[str(i + 1)] == letter for i, letter in enumerate(letters))
    return right, BLIND
