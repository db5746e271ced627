"""The clue of token counts: it cuts candidates, and says no more than it is."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from huref.blackbox.candidates import match_candidates
from huref.blackbox.tokenizer_clue import (
    TEXTS,
    TokenizerClue,
    compare_counts,
    count_tokens,
    own_counts,
)
from huref.cli import main
from tests.support.endpoint_server import LoopbackEndpoint
from tests.support.served_models import TextModel, connect
from tests.support.zoo import ZOO

SERVED, SAME, OTHER = (str(ZOO / name) for name in ("llama-a", "llama-b", "mistral-d"))
TEXT_ALONE: dict[str, Any] = {"top": 0, "bias": "refused", "count": True}


def compare(counts: Sequence[int | None] | None, model: str) -> TokenizerClue:
    own = own_counts(model)
    assert counts is not None
    assert own is not None
    return compare_counts(counts, own)


@pytest.fixture(scope="module")
def served() -> TextModel:
    return TextModel(Path(SERVED))


def test_counts_are_those_of_the_tokenizer(served: TextModel) -> None:
    counts = count_tokens(connect(served.serve(**TEXT_ALONE)))
    assert compare(counts, SERVED) == TokenizerClue(len(TEXTS), len(TEXTS))
    assert compare(counts, SERVED).fits
    assert not compare(counts, OTHER).fits


@pytest.mark.parametrize("added", [0, 5, 31])
def test_a_template_adds_the_same_to_every_count(added: int) -> None:
    own = own_counts(SERVED)
    assert own is not None
    assert compare([count + added for count in own], SERVED).agree == len(TEXTS)


def test_made_up_counts_fit_nobody(served: TextModel) -> None:
    assert not compare(list(range(len(TEXTS))), SERVED).fits
    inflated = count_tokens(connect(served.serve(**TEXT_ALONE, inflate=1000)))
    assert compare(inflated, SERVED).fits  # as a long template would


def test_without_counts_there_is_no_clue(served: TextModel) -> None:
    assert count_tokens(connect(served.serve(top=0, bias="refused"))) is None


def test_where_text_alone_is_given_the_clue_is_all(served: TextModel) -> None:
    endpoint = connect(served.serve(**TEXT_ALONE))
    matches, clues = match_candidates(endpoint, [OTHER, SERVED, SAME], 16)
    verdicts = {match.model: match.verdict for match in matches}
    assert list(verdicts) == [OTHER, SERVED, SAME]
    # A tokenizer is shared by many models, so that it never shows which one is served.
    assert verdicts == {OTHER: "other tokenizer", SERVED: "cannot tell", SAME: "cannot tell"}
    assert all("no proof" in match.why for match in matches)
    assert set(clues) == set(verdicts)


def test_candidates_of_another_tokenizer_are_not_compared_further(
    served: TextModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with LoopbackEndpoint(served.serve(top=1, bias="ignored", count=True)) as endpoint:
        arguments = ["probe", "match", endpoint.url, SERVED, OTHER, "--yes", "--json"]
        result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.output
    first, second = json.loads(result.stdout)["candidates"]
    assert first["verdict"] == "same model"
    assert first["tokenizer"] == {"agree": 12, "of": 12, "fits": True}
    assert second["verdict"] == "other tokenizer"
    assert not second["tokenizer"]["fits"]


def test_a_wrong_name_is_found_before_a_request(
    served: TextModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with LoopbackEndpoint(served.serve(**TEXT_ALONE)) as endpoint:
        arguments = ["probe", "match", endpoint.url, str(tmp_path / "gone"), "--yes"]
        result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 1
    assert "gone" in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_a_model_without_a_tokenizer_gives_no_clue(models: Callable[..., Path]) -> None:
    assert own_counts(str(models("llama"))) is None
