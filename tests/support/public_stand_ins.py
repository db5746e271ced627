"""Tiny stand-ins for public models, under their names and in their layouts, for a loopback Hub."""

import json
import re
import zlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from huref.api.pairs_file import PairList
from tests.support.hub_server import Handler, HostedRepository, LoopbackHub
from tests.support.small_models import some_words, write_tokenizer

WORDS = 2048
SHIFT = 0.05  # of a child's weights from its parent's, in standard deviations
State = dict[str, Tensor]


def _decoder(width: int, **more: Any) -> dict[str, Any]:
    return {
        "hidden_size": width, "intermediate_size": 96, "num_hidden_layers": 3,
        "num_attention_heads": 4, "num_key_value_heads": 2, "tie_word_embeddings": True, **more,
    }  # fmt: skip


def _neox(width: int) -> dict[str, Any]:
    return {
        "hidden_size": width, "intermediate_size": 2 * width, "num_hidden_layers": 3,
        "num_attention_heads": 4,
    }  # fmt: skip


def _opt(width: int) -> dict[str, Any]:
    return {
        "hidden_size": width, "word_embed_proj_dim": width, "ffn_dim": 96,
        "num_hidden_layers": 3, "num_attention_heads": 4,
    }  # fmt: skip


def _gpt2(width: int, blocks: int = 4) -> dict[str, Any]:
    return {"n_embd": width, "n_layer": blocks, "n_head": 4, "n_inner": 2 * width}


# Pattern of names -> class of transformers and its configuration.
LAYOUTS: list[tuple[str, str, dict[str, Any]]] = [
    ("pythia-70m", "GPTNeoX", _neox(48)),
    ("pythia-160m", "GPTNeoX", _neox(64)),
    ("pythia-410m", "GPTNeoX", _neox(80)),
    ("SmolLM2-135M", "Llama", _decoder(64)),
    ("SmolLM2-360M", "Llama", _decoder(80)),
    ("(?i)qwen2", "Qwen2", _decoder(64)),
    ("gemma-3", "Gemma3", _decoder(64, head_dim=16)),
    ("opt-?350", "OPT", _opt(80)),
    ("(?i)opt-?125", "OPT", _opt(64)),
    ("bloom", "Bloom", {"hidden_size": 64, "n_layer": 3, "n_head": 4}),
    ("gpt-neo", "GPTNeo", {
        "hidden_size": 64, "num_layers": 4, "num_heads": 4,
        "attention_types": [[["global", "local"], 2]],
    }),
    ("distilgpt2", "GPT2", _gpt2(64, 3)),
    ("gpt2-medium|DialoGPT-medium", "GPT2", _gpt2(80)),
    ("gpt2|DialoGPT|pop-lyrics", "GPT2", _gpt2(64)),
]  # fmt: skip
PICKLED = ("facebook/", "DialoGPT", "pszemraj/")
ADAPTERS = {"GPT2": "transformer.h.1.attn.c_attn", "OPT": "model.decoder.layers.1.self_attn.q_proj"}


def layout_of(name: str) -> tuple[str, dict[str, Any]]:
    """The class of transformers and the configuration of a model's stand-in."""
    for pattern, kind, settings in LAYOUTS:
        if re.search(pattern, name):
            return kind, settings
    raise LookupError(name)


class StandIns:
    """Writes stand-ins: children differ little from their parents, other models are random."""

    def __init__(self, listed: PairList, folder: Path):
        self.folder = folder
        self.names = sorted({name for pair in listed.pairs for name in (pair.id_a, pair.id_b)})
        self._parents: dict[str, str] = {}
        self._initialisations: dict[str, str] = {}
        for pair in listed.pairs:
            a, b = (pair.id_a, pair.id_b) if pair.older != "b" else (pair.id_b, pair.id_a)
            if pair.expected == "descends" and pair.older:
                self._parents.setdefault(b, a)
            if pair.expected == "shared initialisation":
                self._initialisations.setdefault(b, a)
        self._states: dict[str, State] = {}

    def state(self, name: str) -> State:
        """The weights of a model."""
        if name not in self._states:
            generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
            parent = self._parents.get(name) or self._initialisations.get(name)
            if parent is None or layout_of(name) != layout_of(parent):
                own = self._random(name)
                inherited = {} if parent is None else self.state(parent)
                self._states[name] = {
                    key: inherited[key] if _same(inherited, key, tensor) else tensor
                    for key, tensor in own.items()
                }
            else:
                shift = SHIFT if name in self._parents else 1.0
                self._states[name] = {
                    key: tensor + _noise(tensor, shift, generator)
                    for key, tensor in self.state(parent).items()
                }
        return self._states[name]

    def _random(self, name: str) -> State:
        model = _build(name)
        kept = {key: tensor.clone() for key, tensor in model.state_dict().items()}
        if model.config.tie_word_embeddings:
            kept.pop("lm_head.weight", None)
        return kept

    def write(self, name: str) -> Path:
        """Write a model's files as its repository has them, and return their folder."""
        folder = self.folder / name.replace("/", "--")
        folder.mkdir(parents=True)
        kind, _ = layout_of(name)
        if re.search("(?i)lora|opt125M_alpaca", name):
            _write_adapter(folder, ADAPTERS[kind], self._parents[name], self.state(name))
            return folder
        _build(name, weights=False).config.save_pretrained(folder)
        write_tokenizer(folder, some_words(WORDS))
        state = {key: tensor.contiguous() for key, tensor in self.state(name).items()}
        if name.endswith("GGUF"):
            _write_gguf(folder, state)
        elif name.startswith(PICKLED) or "DialoGPT" in name:
            torch.save(state, folder / "pytorch_model.bin")
        else:
            save_file(state, folder / "model.safetensors")
        return folder


def _build(name: str, weights: bool = True) -> Any:
    import transformers

    kind, settings = layout_of(name)
    suffix = "TextConfig" if kind == "Gemma3" else "Config"
    config = getattr(transformers, f"{kind}{suffix}")(vocab_size=WORDS, **settings)
    torch.manual_seed(zlib.crc32(name.encode()))
    with torch.device("cpu" if weights else "meta"):
        model = getattr(transformers, f"{kind}ForCausalLM")(config)
    model.config.architectures = [type(model).__name__]
    return model


def _same(state: Mapping[str, Tensor], key: str, tensor: Tensor) -> bool:
    return key in state and state[key].shape == tensor.shape


def _noise(tensor: Tensor, shift: float, generator: torch.Generator) -> Tensor:
    if tensor.dim() < 2:
        return torch.zeros_like(tensor)
    return shift * tensor.std() * torch.randn(tensor.shape, generator=generator)


def _write_adapter(folder: Path, module: str, base: str, state: State) -> None:
    """A LoRA adapter of rank 2 on one module."""
    weight = next(tensor for key, tensor in state.items() if key.endswith(f"{module}.weight"))
    conv = "c_attn" in module  # stored as (inputs, outputs)
    inputs, outputs = weight.shape if conv else weight.shape[::-1]
    prefix = f"base_model.model.{module}"
    tensors = {
        f"{prefix}.lora_A.weight": 0.01 * torch.randn(2, inputs),
        f"{prefix}.lora_B.weight": 0.01 * torch.randn(outputs, 2),
    }
    save_file(tensors, folder / "adapter_model.safetensors")
    settings = {
        "peft_type": "LORA", "r": 2, "lora_alpha": 4, "fan_in_fan_out": conv,
        "target_modules": [module.rpartition(".")[2]], "base_model_name_or_path": base,
    }  # fmt: skip
    (folder / "adapter_config.json").write_text(json.dumps(settings))


def _write_gguf(folder: Path, state: State) -> None:
    """A GPT-2 as one GGUF file in Q8_0, as llama.cpp converts it."""
    import gguf

    config = json.loads((folder / "config.json").read_text())
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.GPT2, config["n_layer"])
    writer = gguf.GGUFWriter(folder / "model-q8_0.gguf", "gpt2")
    writer.add_block_count(config["n_layer"])
    writer.add_embedding_length(config["n_embd"])
    writer.add_feed_forward_length(config["n_inner"])
    writer.add_head_count(config["n_head"])
    writer.add_context_length(config["n_positions"])
    pieces = sorted(tokenizer["model"]["vocab"].items(), key=lambda item: item[1])
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list([piece for piece, _ in pieces])
    writer.add_token_types([1] * len(pieces))
    kind = gguf.GGMLQuantizationType.Q8_0
    for key, tensor in state.items():
        stem, _, suffix = key.rpartition(".")
        new = f"{names.get_name(stem)}.{suffix}"
        if tensor.dim() == 2 and ".c_" in stem:
            tensor = tensor.T
        values = tensor.float().contiguous().numpy()
        if tensor.dim() == 2:
            writer.add_tensor(new, gguf.quants.quantize(values, kind), raw_dtype=kind)
        else:
            writer.add_tensor(new, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    for name in ("config.json", "tokenizer.json"):
        (folder / name).unlink()


class PublicHub(LoopbackHub):
    """A loopback Hub whose repositories have named revisions, and some of which were renamed."""

    def __init__(self) -> None:
        super().__init__()
        self.renamed: dict[str, str] = {}

    def handler(self) -> type[Handler]:
        """See LoopbackHub."""
        return _PublicHandler

    def find(self, name: str, revision: str) -> HostedRepository | None:
        """The repository of a name at a named revision, or of one of the commits."""
        if f"{name}@{revision}" in self.repositories:
            return self.repositories[f"{name}@{revision}"]
        at_commit = (r for n, r in self.repositories.items() if n.partition("@")[0] == name)
        return next((r for r in at_commit if r.commit == revision), None)


class _PublicHandler(Handler):
    server_hub: PublicHub

    def _model_info(self, rest: str) -> None:
        name, _, revision = rest.partition("/revision/")
        found = self.server_hub.find(name, revision) if revision else None
        known = found or self.server_hub.repositories.get(name)
        if known is None:
            self._answer(401, b"{}", X_Error_Code="RepoNotFound")
            return
        body = {
            "id": self.server_hub.renamed.get(name, name),
            "sha": known.commit,
            "siblings": [
                {"rfilename": path.name, "size": path.stat().st_size}
                for path in sorted(known.folder.iterdir())
            ],
            "tags": [],
        }
        self._answer(200, json.dumps(body).encode(), Content_Type="application/json")

    def _file(self, path: str) -> None:
        name, _, rest = path.partition("/resolve/")
        found = self.server_hub.find(name, rest.partition("/")[0])
        assert found is not None, path
        original = self.server_hub.repositories
        self.server_hub.repositories = {**original, name: found}
        try:
            super()._file(path)
        finally:
            self.server_hub.repositories = original


def readings(hub: PublicHub, names: Iterable[str]) -> Iterator[tuple[str, int]]:
    """How often each model was asked for."""
    asked = [path.removeprefix("api/models/") for path, _ in hub.requests]
    for name in names:
        repository, _, revision = name.partition("@")
        yield name, asked.count(f"{repository}/revision/{revision}" if revision else repository)
