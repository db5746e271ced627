"""`probe match` by scores, where an endpoint's logits cannot be measured."""

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from huref.blackbox.scoring import collect_scores, match_scores
from huref.cli import main
from huref.errors import EndpointError
from tests.support.endpoint_server import LoopbackEndpoint
from tests.support.served_models import TextModel, connect, round_weights
from tests.support.zoo import ZOO

BY_ECHO: dict[str, Any] = {"top": 1, "bias": "ignored", "echo": "scores", "count": True}
BY_ONE_LOGPROB: dict[str, Any] = {"top": 1, "bias": "ignored", "count": True}


@pytest.fixture(scope="module")
def served() -> dict[str, TextModel]:
    return {
        "same model": TextModel(ZOO / "llama-a"),
        "same model, about 4 bits": TextModel(ZOO / "llama-a", partial(round_weights, bits=4)),
    }


@pytest.mark.slow
@pytest.mark.parametrize("switches", [BY_ECHO, BY_ONE_LOGPROB])
def test_a_served_model_and_its_precision_are_found(
    served: dict[str, TextModel], switches: dict[str, Any]
) -> None:
    for verdict, model in served.items():
        scored = collect_scores(connect(model.serve(**switches)))
        assert match_scores(scored, str(ZOO / "llama-a")).verdict == verdict
        relative = match_scores(scored, str(ZOO / "llama-a-finetune"))
        assert not relative.verdict.startswith("same")
        stranger = match_scores(scored, str(ZOO / "llama-b"))
        assert not stranger.verdict.startswith("same")


def test_text_alone_is_too_little(served: dict[str, TextModel]) -> None:
    endpoint = connect(served["same model"].serve(top=0, bias="refused"))
    with pytest.raises(EndpointError, match="too little to compare scores"):
        collect_scores(endpoint)


def test_the_command(
    served: dict[str, TextModel], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    models = [str(ZOO / "llama-a"), str(ZOO / "llama-b")]
    with LoopbackEndpoint(served["same model"].serve(**BY_ECHO)) as endpoint:
        arguments = ["probe", "match", endpoint.url, *models, "--yes", "--json"]
        result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert found["candidates"][0]["verdict"] == "same model"
    assert found["candidates"][1]["verdict"] in ("other model", "cannot tell")
    assert found["requests"] <= 16
