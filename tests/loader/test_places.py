"""What people type and which folders they name: opened, or named with the way out."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import huref
from huref.api.open import kind_of_file
from huref.errors import CheckpointError, HurefError, ModelNotFoundError, UnsupportedModelError
from huref.loader.checkpoint import open_checkpoint
from huref.loader.model_name import hub_id_of_page, open_repository
from huref.loader.sources.gguf import model_in_name
from huref.loader.typed_names import plain_name
from tests.support.containers import write_gguf
from tests.support.hub_server import LoopbackHub
from tests.support.small_models import write_tokenizer

MakeModel = Callable[..., Path]
NAME = "model.layers.1.mlp.up_proj.weight"


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a Llama of two blocks, written without transformers."""
    folder = tmp_path_factory.mktemp("tiny") / "model"
    folder.mkdir()
    size, hidden, vocabulary = 16, 24, 32
    config = {
        "model_type": "llama", "hidden_size": size, "intermediate_size": hidden,
        "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1,
        "vocab_size": vocabulary, "tie_word_embeddings": True, "rms_norm_eps": 1e-6,
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    write_tokenizer(folder, [f"w{i}" for i in range(vocabulary)])
    torch.manual_seed(0)
    tensors = {"model.embed_tokens.weight": torch.randn(vocabulary, size),
               "model.norm.weight": torch.ones(size)}  # fmt: skip
    shapes = {"self_attn.q_proj": (size, size), "self_attn.k_proj": (size // 2, size),
              "self_attn.v_proj": (size // 2, size), "self_attn.o_proj": (size, size),
              "mlp.gate_proj": (hidden, size), "mlp.up_proj": (hidden, size),
              "mlp.down_proj": (size, hidden)}  # fmt: skip
    for block in range(2):
        for role, shape in shapes.items():
            tensors[f"model.layers.{block}.{role}.weight"] = torch.randn(shape)
        for role in ("input_layernorm", "post_attention_layernorm"):
            tensors[f"model.layers.{block}.{role}.weight"] = torch.ones(size)
    save_file(tensors, folder / "model.safetensors")
    return folder


def assert_same(name: str, folder: Path) -> None:
    """A model opens with the weights of the folder's."""
    expected = load_file(folder / "model.safetensors")
    checkpoint = open_checkpoint(name)
    read = checkpoint.read(expected)
    for tensor in expected:
        assert torch.equal(read[tensor], expected[tensor]), tensor


PAGES = {
    "https://huggingface.co/org/name": "org/name",
    "https://huggingface.co/org/name/": "org/name",
    "https://huggingface.co/org/name.git": "org/name",
    "https://huggingface.co/api/models/org/name": "org/name",
    "http://www.huggingface.co/org/name?library=transformers": "org/name",
    "https://huggingface.co/org/name/tree/main": "org/name",
    "https://huggingface.co/org/name/tree/v1.0": "org/name@v1.0",
    "https://huggingface.co/org/name/tree/refs%2Fpr%2F3": "org/name@refs/pr/3",
    "https://huggingface.co/org/name/blob/main/config.json": "org/name",
    "https://huggingface.co/org/name/blob/v2/README.md": "org/name@v2",
    "https://huggingface.co/org/name/blob/main/a-00001.gguf": "org/name/a-00001.gguf",
    "https://huggingface.co/org/name/resolve/v2/a/b.gguf?download=true": "org/name/a/b.gguf@v2",
    "https://huggingface.co/org/name/discussions/12": "org/name",
    "https://hf.co/org/name#usage": "org/name",
    "hf.co/org/name": "org/name",
    "huggingface.co/org/name": "org/name",
    "hf://org/name": "org/name",
    "hf://models/org/name": "org/name",
    "hf.co/org/name:Q4_K_M": "org/name:Q4_K_M",
    "hf://org/name@v1": "org/name@v1",
    "org/name": None,
    "./folder": None,
}


@pytest.mark.parametrize("page", PAGES)
def test_pages_are_read_as_hub_ids(page: str) -> None:
    assert hub_id_of_page(page) == PAGES[page]


@pytest.mark.parametrize(
    ("page", "kind"),
    [("https://huggingface.co/datasets/org/name", "a data set"),
     ("https://huggingface.co/spaces/org/name", "a Space"),
     ("https://huggingface.co/org", "no model"),
     ("hf.co/collections/org/name", "a collection")],
)  # fmt: skip
def test_pages_of_anything_else_are_named(page: str, kind: str) -> None:
    with pytest.raises(ModelNotFoundError, match=kind):
        hub_id_of_page(page)


COMMANDS = {
    "hf download org/name": "org/name",
    "$ hf download org/name --revision v1": "org/name@v1",
    "huggingface-cli download org/name --local-dir x": "org/name",
    "git clone https://huggingface.co/org/name.git": "https://huggingface.co/org/name",
    "git lfs clone https://huggingface.co/org/name": "https://huggingface.co/org/name",
    "ollama run llama3.2": "ollama:llama3.2",
    "ollama pull llama3.2:3b": "ollama:llama3.2:3b",
    "ollama run hf.co/org/name:Q4_K_M": "hf.co/org/name:Q4_K_M",
    "llama-server -hf org/name:Q8_0": "org/name:Q8_0",
    "vllm serve org/name --port 8000": "org/name",
    "'a folder'": "a folder",
    '"org/name"': "org/name",
    "\u201corg/name\u201d": "org/name",
    "hf:org/name": "hf://org/name",
    "docker model run hf.co/org/name:Q4_K_M": "hf.co/org/name:Q4_K_M",
    "text-generation-launcher --model-id org/name --port 80": "org/name",
    "python -m vllm.entrypoints.openai.api_server --model=org/name": "org/name",
    "./llama-cli -m 'models/a.gguf' -p x": "models/a.gguf",
    'model = AutoModelForCausalLM.from_pretrained("org/name", dtype="auto")': "org/name",
    "export MODEL=org/name": "org/name",
    "base_model: org/name": "org/name",
    "[org/name](https://huggingface.co/org/name)": "https://huggingface.co/org/name",
    "git@hf.co:org/name.git": "org/name",
    "models--org--name": "org/name",
    "org\\name": "org/name",
    "org/name/": "org/name",
    "org/name,": "org/name",
    "https://huggingface.co/org/name.": "https://huggingface.co/org/name",
    "\ufefforg/name\u200b": "org/name",
    "--model": "--model",
    "..": "..",
    "rm -rf org/name": "rm -rf org/name",
    "hf download --help": "hf download --help",
    "org/name": "org/name",
    "'": "'",
    "": "",
}


@pytest.mark.parametrize("typed", COMMANDS)
def test_commands_and_quotation_marks_around_a_name(typed: str) -> None:
    assert plain_name(typed) == COMMANDS[typed]


def test_what_stands_for_a_folder(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = shutil.copytree(tiny, tmp_path / "my model")
    index = folder / "model.safetensors.index.json"
    index.write_text("{}")
    monkeypatch.chdir(tmp_path)
    quoted = (f"'{folder}'", f'"{folder}"', "my model\\", "my model\\model.safetensors")
    beside = (folder / "config.json", folder / "tokenizer.json", index)
    address = folder.as_uri()  # with its space quoted
    for typed in (*quoted, *map(str, beside), address, address.replace("file:", "FILE:")):
        assert_same(typed, tiny)
    assert {kind_of_file(file) for file in beside} == {"weights"}


ADDRESSES = {
    "https://example.com/org/name": "an address from which huref does not read.*give its folder",
    "s3://bucket/model": "an address from which huref does not read",
    "https://github.com/org/name": "an address from which huref does not read",
    "http://localhost:8000/v1": "the address of an endpoint.*use 'huref probe'",
}


@pytest.mark.parametrize("address", ADDRESSES)
def test_other_addresses_are_named(address: str) -> None:
    with pytest.raises(ModelNotFoundError, match=ADDRESSES[address]):
        open_repository(address)


def test_a_folder_of_models_is_a_choice_though_one_is_a_gguf(tiny: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny, tmp_path / "all" / "plain")
    write_gguf(tiny, tmp_path / "all" / "small" / "model-q8_0.gguf", "llama", "F16")
    with pytest.raises(HurefError, match=r"in folders below, in plain, small; give one of them"):
        _ = open_checkpoint(str(tmp_path / "all")).names
    assert open_checkpoint(str(tmp_path / "all" / "small")).describe_files()["names"] == [
        "model-q8_0.gguf"
    ]


def test_the_format_is_that_of_the_bytes(tiny: Path, tmp_path: Path) -> None:
    for name in ("MODEL.SAFETENSORS", "model.bin"):
        folder = shutil.copytree(tiny, tmp_path / name)
        (folder / "model.safetensors").rename(folder / name)
        assert open_checkpoint(str(folder)).describe_files()["format"] == "safetensors"


def test_addresses_open_the_hub_and_errors_name_the_repository(
    tiny: Path, tmp_path: Path, hub: LoopbackHub
) -> None:
    hub.add("org/name", tiny)
    for typed in ("https://huggingface.co/org/name", "hf://org/name", " org/name\n"):
        assert_same(typed, tiny)
        assert open_checkpoint(typed).model == "org/name"
    with pytest.raises(ModelNotFoundError, match=r"^org/gone: "):
        open_checkpoint("https://huggingface.co/org/gone/tree/main")


def test_a_quantisation_of_a_repository_is_chosen(
    tiny: Path, tmp_path: Path, hub: LoopbackHub
) -> None:
    folder = tmp_path / "gguf"
    folder.mkdir()
    for kind in ("Q4_K_M", "Q8_0", "IQ4_K"):
        write_gguf(tiny, folder / f"tiny.{kind}.gguf", "llama")
    (folder / "mmproj-Q8_0.gguf").write_bytes(b"GGUF")
    hub.add("org/tiny-GGUF", folder)
    for typed in ("org/tiny-GGUF:Q8_0", "hf.co/org/tiny-GGUF:q8_0", f"{folder}:Q8_0"):
        assert open_checkpoint(typed).describe_files()["names"] == ["tiny.Q8_0.gguf"]
    assert open_checkpoint(str(folder)).describe_files()["names"] == ["tiny.Q8_0.gguf"]
    with pytest.raises(ModelNotFoundError, match=r"'Q6_K'.*tiny\.Q4_K_M\.gguf"):
        open_checkpoint("org/tiny-GGUF:Q6_K")


def test_the_hub_caches_folders(tiny: Path, tmp_path: Path) -> None:
    cache = tmp_path / "hub"
    model = cache / "models--org--name"
    for commit in ("a" * 40, "b" * 40):
        shutil.copytree(tiny, model / "snapshots" / commit)
    (model / "blobs").mkdir()
    (model / "refs").mkdir()
    with pytest.raises(ModelNotFoundError, match="with 2 snapshots"):
        open_repository(str(model))
    (model / "refs" / "main").write_text("b" * 40)
    assert open_repository(str(model)).revision == "b" * 40
    assert_same(str(model), tiny)
    (model / "refs" / "main").write_text("../../../etc")
    with pytest.raises(ModelNotFoundError, match="with 2 snapshots"):
        open_repository(str(model))
    with pytest.raises(ModelNotFoundError, match=r"the Hub's cache, which holds org/name"):
        open_repository(str(cache))


def test_the_home_folder_and_file_addresses(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tiny.parent))
    assert_same("~/model", tiny)
    assert_same(f"file://{tiny}", tiny)
    assert_same(f"  {tiny}/  ", tiny)
    with pytest.raises(ModelNotFoundError):
        open_repository("x" * 5000)
    with pytest.raises(ModelNotFoundError):
        open_repository("a\0b")


def make_store(folder: Path, tiny: Path, *names: str) -> Path:
    """An Ollama store with a model under some names."""
    (folder / "blobs").mkdir(parents=True)
    blob = folder / "blobs" / f"sha256-{'0' * 64}"
    write_gguf(tiny, folder / "x.gguf", "llama")
    (folder / "x.gguf").rename(blob)
    layer = {"mediaType": "application/vnd.ollama.image.model", "digest": f"sha256:{'0' * 64}"}
    for name in names:
        path = folder / "manifests" / "registry.ollama.ai" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"schemaVersion": 2, "layers": [layer]}))
    return blob


def test_ollamas_store(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = tmp_path / "models"
    blob = make_store(store, tiny, "library/small/latest", "library/small/1b", "me/own/latest")
    monkeypatch.setenv("OLLAMA_MODELS", str(store))
    manifest = store / "manifests" / "registry.ollama.ai" / "library" / "small" / "1b"
    for name in ("ollama:small", "ollama:small:1b", "ollama:me/own", "ollama:library/small:latest",
                 "https://ollama.com/library/small:1b", str(manifest), str(blob)):  # fmt: skip
        checkpoint = open_checkpoint(name)
        assert checkpoint.describe_files()["format"] == "GGUF (llama)"
        assert NAME in checkpoint.names
    with pytest.raises(ModelNotFoundError, match=r"with 3 models.*small:1b"):
        open_repository(str(store))
    for name in ("ollama:none", "ollama:../../etc/passwd", "ollama:small:7b", "ollama:"):
        with pytest.raises(ModelNotFoundError):
            open_repository(name)
    manifest.write_text(
        json.dumps(
            {
                "layers": [
                    {
                        "mediaType": "application/vnd.ollama.image.model",
                        "digest": "sha256:" + "1" * 64,
                    }
                ]
            }
        )
    )
    with pytest.raises(HurefError, match=r"the blob sha256-1111.*missing; run 'ollama pull'"):
        open_repository(str(manifest))
    manifest.write_text(
        json.dumps(
            {
                "layers": [
                    {"mediaType": "application/vnd.ollama.image.model", "digest": "sha256:../../x"}
                ]
            }
        )
    )
    with pytest.raises(UnsupportedModelError):
        open_repository(str(manifest))
    manifest.write_text(
        json.dumps(
            {
                "layers": [
                    {
                        "mediaType": "application/vnd.ollama.image.adapter",
                        "digest": "sha256:" + "0" * 64,
                    }
                ]
            }
        )
    )
    with pytest.raises(UnsupportedModelError, match="with an adapter"):
        open_repository(str(manifest))


def touch(folder: Path, *names: str) -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"{}" if path.suffix == ".json" else b"x")


ROUND_ABOUT = {
    "a training run": (["checkpoint-250/model.safetensors", "checkpoint-250/config.json",
                        "checkpoint-500/model.safetensors", "checkpoint-500/config.json"],
                       "training run.*such as .*checkpoint-500"),
    "adapters by name": (["style/adapter_config.json", "style/adapter_model.safetensors",
                          "tone/adapter_config.json", "tone/adapter_model.bin"],
                         "adapters lie in folders of their own, in style, tone"),
    "Meta's folder": (["original/params.json", "original/consolidated.00.pth"],
                      "Meta's own release in original; give .*original"),
    "a pipeline": (["model_index.json", "unet/diffusion_pytorch_model.safetensors",
                    "text_encoder/config.json", "text_encoder/model.safetensors"],
                   "diffusers pipeline.*text_encoder"),
    "ZeRO": (["config.json", "latest", "zero_to_fp32.py",
              "global_step9/zero_pp_rank_0_mp_rank_00_model_states.pt"], "zero_to_fp32"),
    "distcp": (["config.json", "pytorch_model_fsdp_0/__0_0.distcp"], "merge-weights"),
    "Megatron": (["iter_0000100/mp_rank_00/model_optim_rng.pt"], "Megatron checkpoint"),
    "a GGUF in pieces": (["big.gguf.part1of2", "big.gguf.part2of2"], "cat big.gguf"),
    "a GGUF cut by split": (["big.gguf-split-a", "big.gguf-split-b"], "cat big.gguf"),
    "no adapter config": (["adapter_model.safetensors"], "no adapter_config.json beside it"),
    "no adapter weights": (["adapter_config.json"], "no adapter_model.safetensors"),
    "Flax": (["config.json", "flax_model.msgpack"], "Flax checkpoint"),
    "TensorFlow": (["config.json", "tf_model.h5"], "TensorFlow checkpoint"),
    "ONNX": (["config.json", "onnx/model.onnx"], "ONNX graph"),
    "OpenVINO": (["config.json", "openvino_model.xml", "openvino_model.bin"], "OpenVINO graph"),
    "NeMo": (["model.nemo"], "NeMo archive"),
    "a training state": (["optimizer.pt", "rng_state.pth"], "training state"),
    "a model below": (["out/merged/config.json", "out/merged/model.safetensors"],
                      "in folders below, in out/merged; give .*out/merged"),
    "an unfinished download": (["config.json", "model.safetensors.incomplete"],
                               "a download that did not finish; finish the download"),
    "a browser's unfinished download": (["model.safetensors.crdownload"], "did not finish"),
    "an archive": (["model.tar.gz"], "'model.tar.gz' is an archive; unpack it"),
    "Core ML": (["m.mlpackage/Manifest.json", "m.mlpackage/Data/weight.bin"], "Core ML package"),
    "Orbax": (["default/_METADATA", "default/d/0"], "Orbax checkpoint of JAX"),
    "MLC-LLM": (["mlc-chat-config.json", "params_shard_0.bin", "ndarray-cache.json"],
                "weights compiled by MLC-LLM; give the model"),
    "Core ML, one file": (["config.json", "m.mlmodel"], "Core ML model; give the model"),
    "PaddlePaddle": (["model_state.pdparams"], "PaddlePaddle checkpoint; convert it"),
    "rust-bert": (["config.json", "rust_model.ot"], "rust-bert; give the model"),
    "LiteRT": (["config.json", "gemma.litertlm"], "LiteRT-LM; give the model"),
    "torch.export": (["model.pt2"], "torch.export saved; give the model"),
    "nothing": (["README.md"], "no weights.*give the folder that holds"),
}  # fmt: skip


@pytest.mark.parametrize("kind", ROUND_ABOUT)
def test_one_look_around_before_a_refusal(tmp_path: Path, kind: str) -> None:
    files, message = ROUND_ABOUT[kind]
    folder = tmp_path / "given"
    touch(folder, *files)
    with pytest.raises(HurefError, match=message) as caught:
        _ = open_checkpoint(str(folder)).names
    assert str(caught.value).startswith(str(folder))
    assert "download it again" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("model.nemo", "NeMo archive; convert it"),
        ("model.tar.gz", "is an archive; unpack it"),
        ("model.llamafile", "llamafile; extract its GGUF file"),
        ("tf_model.h5", "TensorFlow checkpoint"),
        ("MODEL.ONNX", "ONNX graph; give the model"),
        ("weights.npz", "NumPy arrays"),
        ("model.safetensors.part", "did not finish"),
        ("model.pt2", "torch.export saved"),
    ],
)
def test_a_single_file_of_another_form_is_named(tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / name).write_bytes(b"x" * 100)
    with pytest.raises(CheckpointError, match=message):
        huref.fingerprint(tmp_path / name, tmp_path / "dog.png")


def test_programs_of_torch_and_ctranslate2_are_named(tmp_path: Path) -> None:
    torch.jit.script(torch.nn.Linear(4, 4)).save(tmp_path / "script.pt")  # type: ignore[no-untyped-call]
    program = torch.export.export(torch.nn.Linear(4, 4), (torch.zeros(1, 4),))
    torch.export.save(program, tmp_path / "program.pt")
    (tmp_path / "model.bin").write_bytes(b"\x06\0\0\0\x10\0TransformerSpec\0" + bytes(200))
    for name, message in {
        "script.pt": "TorchScript program; save its weights with torch.save",
        "program.pt": "torch.export saved; give the model",
        "model.bin": "CTranslate2; give the model",
    }.items():
        with pytest.raises(HurefError, match=message):
            huref.fingerprint(tmp_path / name, tmp_path / "dog.png")


@pytest.mark.parametrize("magic", [b"lmgg", b"tjgg", b"fmgg", b"algg"])
def test_formats_older_than_gguf_are_named(tiny: Path, tmp_path: Path, magic: bytes) -> None:
    (tmp_path / "ggml-model-q4_0.bin").write_bytes(magic + bytes(100))
    with pytest.raises(UnsupportedModelError, match="older than GGUF; take a GGUF"):
        _ = open_checkpoint(str(tmp_path / "ggml-model-q4_0.bin")).names
    shutil.copy(tiny / "config.json", tmp_path)
    with pytest.raises(UnsupportedModelError, match="older than GGUF"):
        _ = open_checkpoint(str(tmp_path)).names


SAME_MODEL = [
    ("llama-2-7b.Q4_K_M.gguf", "llama-2-7b.Q8_0.gguf"),
    ("Llama-3-8B-IQ2_XXS.gguf", "Llama-3-8B-f16.gguf"),
    ("x-Q4_K_M-00001-of-00003.gguf", "x-Q4_K_M-00002-of-00003.gguf"),
    ("x.i1-Q4_K_S.gguf", "x.IQ3_M.gguf"),
    ("x-UD-Q4_K_XL.gguf", "x-BF16.gguf"),
    ("Q8_0/x-Q8_0-00001-of-00002.gguf", "x-MXFP4_MOE.gguf"),
    ("ggml-model-q4_0.gguf", "ggml-model-f32.gguf"),
    ("x-TQ1_0.gguf", "x-q5_1.gguf"),
]


@pytest.mark.parametrize(("a", "b"), SAME_MODEL)
def test_quantisations_of_one_model_have_one_name(a: str, b: str) -> None:
    assert model_in_name(a) == model_in_name(b)


@pytest.mark.parametrize(
    ("a", "b"),
    [("big-Q4_K_M.gguf", "big-draft-Q4_K_M.gguf"), ("llama-7b.Q8_0.gguf", "llama-13b.Q8_0.gguf"),
     ("x-v1.Q8_0.gguf", "x-v2.Q8_0.gguf"), ("q4model.gguf", "q8model.gguf")],
)  # fmt: skip
def test_different_models_have_different_names(a: str, b: str) -> None:
    assert model_in_name(a) != model_in_name(b)


def test_gguf_files_of_different_models_are_a_choice(tiny: Path, tmp_path: Path) -> None:
    for name in ("big-a.Q4_K_M.gguf", "draft-b.Q8_0.gguf"):
        write_gguf(tiny, tmp_path / name, "llama")
    with pytest.raises(HurefError, match=r"different models \(.*draft-b.*name one of them"):
        open_checkpoint(str(tmp_path))
    assert NAME in open_checkpoint(str(tmp_path / "draft-b.Q8_0.gguf")).names


def test_a_gguf_file_beside_other_files(tiny: Path, tmp_path: Path) -> None:
    write_gguf(tiny, tmp_path / "tiny.gguf", "llama")
    for name in ("imatrix.dat", "training_args.bin", "vocab.bin", "weights.bin"):
        (tmp_path / name).write_bytes(b"not weights")
    assert open_checkpoint(str(tmp_path)).describe_files()["names"] == ["tiny.gguf"]
    (tmp_path / "tiny.gguf").rename(tmp_path / "tiny.unknown")
    for name in ("vocab.bin", "weights.bin", "training_args.bin"):
        (tmp_path / name).unlink()
    assert NAME in open_checkpoint(str(tmp_path / "tiny.unknown")).names
    assert NAME in open_checkpoint(str(tmp_path)).names
