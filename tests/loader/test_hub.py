"""Reading from the Hub: redirects, tokens, retries, and the cache of headers."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from huref.errors import CheckpointError, NetworkError
from huref.loader import ranges
from huref.loader.checkpoint import Checkpoint, open_checkpoint
from huref.loader.hub.file import HubFile
from huref.loader.tensors import StoredTensor
from tests.support.hub_server import LoopbackHub

MakeModel = Callable[..., Path]
UP = "model.layers.1.mlp.up_proj.weight"


def stored_bytes(checkpoint: Checkpoint) -> int:
    entry = checkpoint.entry(UP)
    assert isinstance(entry, StoredTensor)
    return entry.nbytes


@pytest.fixture
def elsewhere() -> Iterator[LoopbackHub]:
    """The server that the Hub redirects to, which must never see the user's token."""
    with LoopbackHub() as server:
        yield server


def test_tokens_are_sent_to_the_hub_only_and_redirects_are_followed_once(
    hub: LoopbackHub,
    elsewhere: LoopbackHub,
    make_llama: MakeModel,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    folder = make_llama("model", vocab_size=8192, hidden_size=128)
    hub.add("org/tiny", folder, gated=True)
    elsewhere.add("org/tiny", folder)
    hub.redirect_to = elsewhere.url
    checkpoint, local = open_checkpoint("org/tiny"), open_checkpoint(str(folder))
    rows = list(range(0, 8192, 1000))
    name = "model.embed_tokens.weight"
    monkeypatch.setattr(HubFile, "merge_gap", 0)
    assert torch.equal(checkpoint.read([UP])[UP], local.read([UP])[UP])
    assert torch.equal(checkpoint.read_rows(name, rows), local.read_rows(name, rows))
    assert set(hub.tokens) == {"Bearer hf_secret"}
    assert set(elsewhere.tokens) == {None}
    redirected = [path for path, _ in hub.requests if path.endswith(".safetensors")]
    assert len(redirected) == 1  # one redirect, many ranges
    assert sum(path in redirected for path, _ in elsewhere.requests) > len(rows)


def test_an_expired_redirect_is_requested_again(
    hub: LoopbackHub, elsewhere: LoopbackHub, make_llama: MakeModel
) -> None:
    folder = make_llama("model")
    hub.add("org/tiny", folder)
    elsewhere.add("org/tiny", folder)
    hub.redirect_to = elsewhere.url
    checkpoint = open_checkpoint("org/tiny")
    checkpoint.entry(UP)
    elsewhere.refuse_with = [403]
    assert torch.equal(checkpoint.read([UP])[UP], open_checkpoint(str(folder)).read([UP])[UP])
    assert sum(path.endswith(".safetensors") for path, _ in hub.requests) == 2


def test_circular_redirects_are_an_error(hub: LoopbackHub, make_llama: MakeModel) -> None:
    hub.add("org/tiny", make_llama("model"))
    hub.redirect_to = hub.url
    with pytest.raises(NetworkError, match="redirected in circles"):
        _ = open_checkpoint("org/tiny").names


def test_headers_are_cached_by_commit(
    hub: LoopbackHub, make_llama: MakeModel, tmp_path: Path
) -> None:
    folder = make_llama("model", max_shard_size="100KB")
    hub.add("org/tiny", folder)

    def read() -> int:
        before = hub.bytes_sent
        checkpoint = open_checkpoint("org/tiny")
        assert checkpoint.vocabulary
        assert checkpoint.config["hidden_size"] == 64
        checkpoint.read([UP])
        return hub.bytes_sent - before

    first, second = read(), read()
    weight = stored_bytes(open_checkpoint(str(folder)))
    assert second == weight < first
    for damaged in (tmp_path / "assets-cache").rglob("*-*-*"):
        if damaged.is_dir():
            continue
        damaged.write_bytes(damaged.read_bytes()[:-1])
    assert read() == first  # truncated cache files, as after a full disk, are fetched again
    hub.repositories["org/tiny"].folder = make_llama("other")  # a new commit
    assert open_checkpoint("org/tiny").config
    assert read() > weight


def test_long_ranges_are_split(
    hub: LoopbackHub, make_llama: MakeModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_llama("model")
    hub.add("org/tiny", folder)
    checkpoint = open_checkpoint("org/tiny")
    checkpoint.entry(UP)
    monkeypatch.setattr(ranges, "LONGEST_READ", 5000)
    before = len(hub.requests)
    assert torch.equal(checkpoint.read([UP])[UP], open_checkpoint(str(folder)).read([UP])[UP])
    assert len(hub.requests) - before == -(-stored_bytes(checkpoint) // 5000)


def test_retry_after_is_honoured(hub: LoopbackHub, make_llama: MakeModel) -> None:
    hub.add("org/tiny", make_llama("model"))
    checkpoint = open_checkpoint("org/tiny")
    checkpoint.entry(UP)
    hub.refuse_with, hub.retry_after = [429], "0.7"
    began = time.perf_counter()
    checkpoint.read([UP])
    assert time.perf_counter() - began >= 0.7


def test_retries_of_a_busy_hub_are_limited(
    hub: LoopbackHub, make_llama: MakeModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.add("org/tiny", make_llama("model"))
    hub.refuse_with = [503] * 50
    with pytest.raises(NetworkError, match="failed 6 times, last with status 503"):
        _ = open_checkpoint("org/tiny").names


def test_the_error_names_a_missing_file_of_a_repository(
    hub: LoopbackHub, make_llama: MakeModel
) -> None:
    from huref.errors import ModelNotFoundError

    hub.add("org/tiny", make_llama("model"))
    with pytest.raises(ModelNotFoundError, match=r"no file 'x\.gguf'"):
        open_checkpoint("org/tiny/x.gguf")


def test_file_names_on_the_hub_cannot_leave_the_cache(
    hub: LoopbackHub, make_llama: MakeModel
) -> None:
    hub.add("org/tiny", make_llama("model"))
    repository = open_checkpoint("org/tiny").repository
    repository.files["../escape"] = 4
    with pytest.raises(CheckpointError, match="there is no file"):
        repository.open("../escape")


def test_the_estimate_covers_the_bytes_to_read(hub: LoopbackHub, make_llama: MakeModel) -> None:
    hub.add("org/tiny", make_llama("model", num_hidden_layers=8))
    checkpoint = open_checkpoint("org/tiny")
    estimate = checkpoint.estimate_bytes(2)
    size = checkpoint.repository.files["model.safetensors"]
    assert checkpoint.bytes_read < estimate < checkpoint.bytes_read + 0.3 * size


def test_the_headers_of_many_shards_are_read_side_by_side(
    hub: LoopbackHub, make_llama: MakeModel
) -> None:
    folder = make_llama("model", max_shard_size="100KB")
    shards = {f"org/sharded/{file.name}" for file in folder.glob("*.safetensors")}
    assert len(shards) > 4
    hub.add("org/sharded", folder)
    hub.latency = 0.05
    names = set(open_checkpoint("org/sharded").names)
    assert names == set(open_checkpoint(str(folder)).names)
    asked = [path for path, _ in hub.requests if path.endswith(".safetensors")]
    assert len(asked) == len(shards)  # each header once
    assert hub.most_at_once > 1
