"""A real server, if HUREF_PROBE_URL gives its base URL and HUREF_PROBE_MODEL the served model.

scripts/start_probe_server.sh starts one for a model's folder.
"""

import os
from pathlib import Path

import pytest

from huref.blackbox.client import Client, Limits
from huref.blackbox.endpoint import Endpoint
from huref.blackbox.heads import read_head
from huref.blackbox.match import match_outputs, require_candidates
from huref.blackbox.prompts import make_prompts
from huref.blackbox.size import clr, precision_of

URL, MODEL = os.environ.get("HUREF_PROBE_URL"), os.environ.get("HUREF_PROBE_MODEL")
pytestmark = pytest.mark.skipif(not (URL and MODEL), reason="no server was named")


def test_a_real_server_gives_the_logits_of_its_model() -> None:
    assert URL
    assert MODEL
    name = MODEL if os.environ.get("HUREF_PROBE_NAME") is None else os.environ["HUREF_PROBE_NAME"]
    endpoint = Endpoint(Client(URL, limits=Limits(20_000, concurrency=2)), name)
    assert endpoint.capabilities.access != "none"
    head = read_head(str(Path(MODEL)))
    if endpoint.capabilities.access == "argmax":  # a match would take too many requests
        found = clr(endpoint.outputs(make_prompts(2), endpoint.choose_ids(12)))
        assert found.std() > 0.1
        return
    ids = endpoint.choose_ids(require_candidates([head]))
    outputs = endpoint.outputs(make_prompts(4), ids)
    match = match_outputs(outputs, ids, precision_of(endpoint, outputs).noise, head)
    assert match.residual is not None
    assert match.residual < 0.05
