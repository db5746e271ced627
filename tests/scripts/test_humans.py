"""The test for people: its questions, its page and its score."""

import json
import re
import sys
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np
import pytest

pytest.importorskip("skia")

from scripts.humans import score, sheets, write
from scripts.humans.trials import CHOICES, COSINES, QUESTIONS, Trial, make_trial, nearest

SIDE = 8


def paint(z: np.ndarray) -> np.ndarray:
    """Pictures that are linear in the first coordinates of their latents."""
    colours = np.clip(128 + 40 * z[:, : SIDE * SIDE * 3], 0, 255).astype(np.uint8)
    return np.asarray(colours.reshape(-1, SIDE, SIDE, 3))


@pytest.fixture(scope="module")
def trial() -> Trial:
    return make_trial(5, paint)


def answers(trial: Trial) -> dict[str, Any]:
    """A file of right answers."""
    blank = sheets.blank_answers(5, "drawings x")
    return blank | {
        "matching": [one.answer for one in trial.matching],
        "pairs": ["same" if pair.cosine else "different" for pair in trial.pairs],
    }


def added(given: dict[str, Any], trial: Trial) -> score.Answers:
    found = score.Answers()
    score.add_up(found, given, trial)
    return found


def distance(trial: Trial, first: int, second: int) -> float:
    a, b = trial.pictures[first].astype(float), trial.pictures[second].astype(float)
    return float(np.abs(a - b).mean())


def test_the_questions_are_balanced(trial: Trial) -> None:
    assert len(trial.matching) == len(trial.pairs) == QUESTIONS
    for cosine in COSINES:
        assert sum(one.cosine == cosine for one in trial.matching) == QUESTIONS / len(COSINES)
        assert sum(pair.cosine == cosine for pair in trial.pairs) == QUESTIONS / 2 / len(COSINES)
    assert sum(pair.cosine == 0 for pair in trial.pairs) == QUESTIONS / 2
    assert len({one.answer for one in trial.matching}) > 8, "the place tells nothing"


def test_each_question_has_one_base_and_it_is_the_nearest(trial: Trial) -> None:
    for one in trial.matching:
        assert len({one.asked, *one.choices}) == CHOICES + 1
        apart = [distance(trial, one.asked, choice) for choice in one.choices]
        assert int(np.argmin(apart)) == one.answer


def test_strangers_of_pairs_are_the_nearest_of_the_pool(trial: Trial) -> None:
    bases = sorted({choice for one in trial.matching for choice in one.choices})
    for pair in trial.pairs:
        if pair.cosine == 0:
            others = [b for b in bases if b != pair.first]
            least = min(distance(trial, pair.first, other) for other in others)
            assert distance(trial, pair.first, pair.second) <= least


def test_a_seed_determines_the_questions(trial: Trial) -> None:
    again, other = make_trial(5, paint), make_trial(6, paint)
    assert again.matching == trial.matching
    assert np.array_equal(again.pictures, trial.pictures)
    assert other.matching != trial.matching
    assert not np.array_equal(other.pictures, trial.pictures)


def test_the_number_of_a_picture_tells_nothing(trial: Trial) -> None:
    asked = [one.asked for one in trial.matching]
    assert min(asked) < 40 < 120 < max(asked)


def test_the_nearest_is_another() -> None:
    pictures = np.array([0, 9, 4, 5], np.uint8).reshape(4, 1, 1, 1)
    assert [nearest(pictures, which) for which in range(4)] == [2, 3, 3, 2]


def test_right_and_wrong_answers_are_scored(trial: Trial) -> None:
    given = answers(trial)
    right = added(given, trial)
    assert all(all(outcomes) for outcomes in right.found.values())
    assert [all(right.same[c]) for c in COSINES] == [True] * len(COSINES)
    assert not any(right.same[0.0])
    given["matching"] = [(one.answer + 1) % CHOICES for one in trial.matching]
    given["pairs"] = ["same"] * QUESTIONS
    wrong = added(given, trial)
    assert not any(any(outcomes) for outcomes in wrong.found.values())
    assert all(wrong.same[0.0])
    assert "20 of 20, 100.0%" in "\n".join(score.report(wrong))


def test_what_was_not_answered_is_left_out(trial: Trial) -> None:
    given = answers(trial) | {"pairs": [None] * QUESTIONS}
    given["matching"] = [None, *given["matching"][1:]]
    found = added(given, trial)
    assert sum(len(outcomes) for outcomes in found.found.values()) == QUESTIONS - 1
    assert not found.same
    assert "no answers" in "\n".join(score.report(found))


def test_wilsons_interval() -> None:
    # The bounds p solve (share - p)^2 = z^2 p (1 - p) / n.
    z2 = NormalDist().inv_cdf(0.975) ** 2
    for hits, count in ((0, 20), (1, 20), (38, 40), (40, 40)):
        for bound in score.interval(hits, count):
            assert (hits / count - bound) ** 2 == pytest.approx(z2 * bound * (1 - bound) / count)
    assert score.interval(0, 0) == (0.0, 1.0)


def test_sensitivity_of_known_answers() -> None:
    normal, rng = NormalDist(), np.random.default_rng(0)
    for d in (0.0, 1.0, 2.5):
        hits = int((rng.standard_normal(200_000) + d > 1).sum())
        false = int((rng.standard_normal(200_000) > 1).sum())
        value, error = score.sensitivity(hits, 200_000, false, 200_000)
        assert value == pytest.approx(d, abs=0.03)
        assert error < 0.02
    assert score.sensitivity(20, 20, 0, 20)[0] == pytest.approx(2 * normal.inv_cdf(20.5 / 21))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": "other"}, "format"),
        ({"seed": -1}, "seed"),
        ({"seed": True}, "seed"),
        ({"pictures": 3}, "pictures"),
        ({"matching": [0] * 39}, "'matching' is no list of 40"),
        ({"matching": [0, 18] + [0] * 38}, "answer 2 of 'matching'"),
        ({"matching": [True] + [0] * 39}, "answer 1 of 'matching'"),
        ({"matching": [0, 1.0] + [0] * 38}, "answer 2 of 'matching'"),
        ({"matching": [[1]] + [0] * 39}, "answer 1 of 'matching'"),
        ({"pairs": "same"}, "'pairs' is no list of 40"),
        ({"pairs": ["Same"] * 40}, "answer 1 of 'pairs'"),
        ({"pairs": None}, "'pairs' is no list of 40"),
    ],
)
def test_refuses_files_that_are_no_answers(
    tmp_path: Path, trial: Trial, change: dict[str, Any], message: str
) -> None:
    path = tmp_path / "answers.json"
    path.write_text(json.dumps(answers(trial)))
    assert score.read_answers(path)["seed"] == 5
    path.write_text(json.dumps(answers(trial) | change))
    with pytest.raises(SystemExit, match=re.escape(message)):
        score.read_answers(path)


@pytest.mark.parametrize("text", ["", "[1]", "{", "null"])
def test_refuses_what_is_no_object(tmp_path: Path, text: str) -> None:
    path = tmp_path / "answers.json"
    path.write_text(text)
    with pytest.raises(SystemExit, match=r"answers\.json"):
        score.read_answers(path)
    with pytest.raises(SystemExit, match=r"gone\.json"):
        score.read_answers(tmp_path / "gone.json")


def test_the_page_is_whole_and_has_no_answers(trial: Trial) -> None:
    page = write.page_of(trial, 5, "drawings </script>")
    assert page.count("</script>") == 1, "a name cannot end the script"
    assert not re.search(r"(src|href)=|https?:|@import|url\(", page), "nothing is loaded"
    found = re.search(r"const questions = (\{.*\});\n", page)
    assert found
    questions = json.loads(found.group(1))
    assert set(questions) == {"format", "seed", "pictures", "images", "matching", "pairs"}
    assert questions["pictures"] == "drawings </script>"
    assert [len(one) for one in questions["matching"]] == [CHOICES + 1] * QUESTIONS
    assert [len(one) for one in questions["pairs"]] == [2] * QUESTIONS
    assert len(questions["images"]) == len(trial.pictures)
    assert all(image.startswith("data:image/jpeg;base64,") for image in questions["images"])


def test_sheets_show_every_question(trial: Trial, tmp_path: Path) -> None:
    from PIL import Image

    sheets.draw_sheets(trial, tmp_path)
    names = [*(f"matching-{i}.png" for i in range(1, 5)), "pairs-1.png", "pairs-2.png"]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(names)
    first = Image.open(tmp_path / "matching-1.png")
    assert first.width > (CHOICES + 1) * sheets.CELL
    assert first.height > sheets.ROWS * sheets.CELL


def test_the_commands_write_and_score(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for module in (sheets, write, score):
        monkeypatch.setattr(module, "source_of", lambda _: ("drawings x", paint))
    monkeypatch.setattr(sys, "argv", ["sheets", str(tmp_path), "--seed", "5"])
    sheets.main()
    path = tmp_path / "answers.json"
    assert score.read_answers(path)["matching"] == [None] * QUESTIONS
    monkeypatch.setattr(sys, "argv", ["page", str(tmp_path / "page.html"), "--seed", "5"])
    write.main()
    assert "huref-humans-1" in (tmp_path / "page.html").read_text("utf-8")
    path.write_text(json.dumps(answers(make_trial(5, paint))))
    monkeypatch.setattr(sys, "argv", ["score", str(path), str(path)])
    score.main()
    assert "all: 80 of 80, 100.0% (95.4% to 100.0%)" in capsys.readouterr().out
    path.write_text(json.dumps(answers(make_trial(5, paint)) | {"pictures": "decoder y"}))
    with pytest.raises(SystemExit, match="answers to decoder y, not to drawings x"):
        score.main()
