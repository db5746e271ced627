import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
# Ray reads it when it is imported: its cluster then listens on the loopback address alone.
os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
os.environ["HUREF_HOME"] = tempfile.mkdtemp(prefix="huref-tests-")  # not the user's files

from tests.support.hub_server import LoopbackHub
from tests.support.small_models import some_words, write_tokenizer


@pytest.fixture
def make_llama(tmp_path: Path) -> Callable[..., Path]:
    """A function that saves a random Llama, Mistral or Qwen2 checkpoint with transformers."""
    import transformers

    def make(name: str, kind: str = "Llama", seed: int = 0, **changes: object) -> Path:
        settings: dict[str, object] = {
            "vocab_size": 2048,
            "hidden_size": 64,
            "intermediate_size": 96,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": 64,
        } | changes
        shard = settings.pop("max_shard_size", "5GB")
        config = getattr(transformers, f"{kind}Config")(**settings)
        torch.manual_seed(seed)
        model = getattr(transformers, f"{kind}ForCausalLM")(config)
        for parameter_name, parameter in model.named_parameters():
            if parameter.dim() == 1 and "norm" in parameter_name:
                parameter.data.uniform_(0.5, 1.5)
        folder = tmp_path / name
        model.save_pretrained(folder, max_shard_size=shard)
        write_tokenizer(folder, some_words(2048))
        return folder

    return make


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LoopbackHub]:
    """An empty local Hub server, which the Hub's client is set to use."""
    from huggingface_hub import constants

    with LoopbackHub() as server:
        monkeypatch.setattr(constants, "ENDPOINT", server.url)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub-cache"))
        monkeypatch.setattr(constants, "HF_ASSETS_CACHE", str(tmp_path / "assets-cache"))
        monkeypatch.setattr(
            constants,
            "HUGGINGFACE_CO_URL_TEMPLATE",
            server.url + "/{repo_id}/resolve/{revision}/{filename}",
        )
        yield server
