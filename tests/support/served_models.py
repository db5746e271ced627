"""Tiny models of every kind of head, and stub endpoints that serve them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from huref.blackbox.client import Client, Limits
from huref.blackbox.endpoint import Endpoint
from huref.blackbox.local_model import LocalModel
from huref.blackbox.prompts import make_prompts
from tests.support.endpoint_server import Stub, Switches

V = 640
FULL = {"top": None, "ids": "token_id"}
KINDS = {  # class, its own settings, hidden size, final norm
    "llama": ("LlamaForCausalLM", {"hidden_size": 24, "intermediate_size": 32}, 24, "RMSNorm"),
    "qwen2": ("Qwen2ForCausalLM", {"hidden_size": 32, "intermediate_size": 32}, 32, "RMSNorm"),
    "gemma": (
        "GemmaForCausalLM",
        {"hidden_size": 24, "intermediate_size": 32, "head_dim": 8},
        24,
        "RMSNorm",
    ),
    "olmo": ("OlmoForCausalLM", {"hidden_size": 24, "intermediate_size": 32}, 24, "LayerNorm"),
    "cohere": ("CohereForCausalLM", {"hidden_size": 32, "intermediate_size": 32}, 32, "LayerNorm"),
    "neox": (
        "GPTNeoXForCausalLM",
        {"hidden_size": 24, "intermediate_size": 32},
        24,
        "LayerNorm with bias",
    ),
    "gpt2": (
        "GPT2LMHeadModel",
        {"n_embd": 32, "n_layer": 2, "n_head": 2},
        32,
        "LayerNorm with bias",
    ),
    "phi": (
        "PhiForCausalLM",
        {"hidden_size": 24, "intermediate_size": 32},
        24,
        "LayerNorm with bias",
    ),
}


def make_model(folder: Path, kind: str, seed: int = 0) -> Path:
    """Save a tiny model with random weights, including the gains and biases of its norms."""
    import transformers

    name, settings, _, _ = KINDS[kind]
    common = {"vocab_size": V, "max_position_embeddings": 32, "initializer_range": 0.15}
    common |= {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}
    if kind != "gpt2":
        common |= {"num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 2}
    if kind == "neox":
        del common["num_key_value_heads"]
    torch.manual_seed(seed)
    config = getattr(
        transformers, name.replace("ForCausalLM", "").replace("LMHeadModel", "") + "Config"
    )
    model = getattr(transformers, name)(config(**common | settings))
    for parameter_name, parameter in model.named_parameters():
        if parameter.dim() == 1 and parameter_name.endswith("weight"):
            parameter.data.uniform_(0.5, 1.5)
        elif parameter.dim() == 1:
            parameter.data.normal_(0, 0.5)
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Get the folder of a tiny model; each is made once per test module."""
    root = tmp_path_factory.mktemp("served")

    def get(kind: str, seed: int = 0) -> Path:
        folder = root / f"{kind}-{seed}"
        return folder if folder.exists() else make_model(folder, kind, seed)

    return get


@pytest.fixture(scope="module")
def served(models: Callable[..., Path]) -> Callable[..., Stub]:
    """Make stub endpoints; the outputs of each model are computed once."""
    tables: dict[tuple[str, int], dict[str, np.ndarray]] = {}
    sources: dict[tuple[str, int], LocalModel] = {}

    def serve(kind: str = "llama", seed: int = 0, **switches: Any) -> Stub:
        key = (kind, seed)
        if key not in sources:
            sources[key] = LocalModel(str(models(kind, seed)))
            prompts = [p for which in "ab" for p in make_prompts(72, which)]
            rows = sources[key].outputs(prompts, np.arange(V))
            tables[key] = dict(zip(prompts, rows, strict=True))

        def logits(prompt: str) -> np.ndarray:
            if prompt not in tables[key]:
                tables[key][prompt] = sources[key].outputs([prompt], np.arange(V))[0]
            return tables[key][prompt]

        return Stub(logits, Switches(**switches))

    return serve


class TextModel:
    """A model's folder with a tokenizer, as `endpoint_server.TextModel`; transformers runs it."""

    def __init__(self, folder: Path, change: Callable[[torch.nn.Module], None] | None = None):
        from tokenizers import Tokenizer
        from transformers import AutoModelForCausalLM

        self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        if change is not None:
            change(self._model)
        self._rows: dict[tuple[int, ...], np.ndarray] = {}

    def encode(self, text: str) -> list[int]:
        """The token ids of a text."""
        return list(self._tokenizer.encode(text).ids)

    def piece(self, token: int) -> str:
        """The text of a token."""
        return str(self._tokenizer.decode([token]))

    def logits(self, ids: list[int]) -> np.ndarray:
        """Logits (len(ids), v) after each of the ids."""
        key = tuple(ids)
        if key not in self._rows:
            with torch.inference_mode():
                self._rows[key] = self._model(torch.tensor([ids])).logits[0].double().numpy()
        return self._rows[key]

    def serve(self, **switches: Any) -> Stub:
        """A stub endpoint that serves the model."""
        switches = {"spell": self.piece} | switches
        return Stub(lambda p: self.logits(self.encode(p))[-1], Switches(**switches), text=self)


def round_weights(model: torch.nn.Module, bits: int, group: int = 32) -> None:
    """Quantise the weights of all linear layers in place: each group has a scale of its own."""
    largest = 2 ** (bits - 1) - 1
    for module in model.modules():
        if isinstance(module, torch.nn.Linear):
            weight = module.weight.data
            groups = weight.reshape(-1, min(group, weight.shape[1]))
            scale = groups.abs().amax(dim=1, keepdim=True).clamp_min(1e-12) / largest
            module.weight.data = ((groups / scale).round() * scale).reshape(weight.shape)


def connect(stub: Stub, budget: int = 100_000, **options: Any) -> Endpoint:
    """Open a stub endpoint in this process, without a socket."""
    client = Client(
        "http://127.0.0.1:1/v1",
        limits=Limits(budget, options.pop("tokens", None)),
        store=options.pop("store", None),
        transport=stub.transport(),
    )
    return Endpoint(client, **options)
