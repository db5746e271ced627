"""Reading in ranges, from disk and from a local Hub server; refusing invalid files."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
import safetensors.torch
import torch

from huref.errors import AccessError, CheckpointError, ModelNotFoundError, NetworkError
from huref.loader.checkpoint import open_checkpoint
from huref.loader.ranges import coalesce
from huref.loader.tensors import StoredTensor
from huref.loader.vocabulary import parse_tokenizer_json
from tests.support.hub_server import LoopbackHub
from tests.support.small_models import BYTE_LEVEL, some_words, write_tokenizer

MakeModel = Callable[..., Path]
DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn]


def write_raw(path: Path, header: object, data: bytes = b"", length: int | None = None) -> None:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes((len(text) if length is None else length).to_bytes(8, "little") + text + data)


def tensor(start: int, stop: int, shape: list[int], dtype: str = "F32") -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, stop]}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "model"
    path.mkdir()
    (path / "config.json").write_text('{"model_type": "llama"}')
    write_tokenizer(path, some_words(100))
    return path


def test_tensors_and_rows_are_read_exactly(folder: Path) -> None:
    torch.manual_seed(0)
    tensors = {f"t{i}": torch.randn(50, 3 + i).to(d) for i, d in enumerate(DTYPES)}
    safetensors.torch.save_file(tensors, folder / "model.safetensors")
    checkpoint = open_checkpoint(str(folder))
    read = checkpoint.read(tensors)
    for name, expected in tensors.items():
        assert read[name].dtype == expected.dtype
        assert torch.equal(read[name].float(), expected.float())
        rows = checkpoint.read_rows(name, [49, 0, 7])
        assert torch.equal(rows.float(), expected.float()[[49, 0, 7]])


def test_only_the_needed_bytes_are_read(folder: Path) -> None:
    tensors = {"a": torch.randn(500, 1000), "b": torch.randn(1000, 1000), "c": torch.randn(8, 8)}
    safetensors.torch.save_file(tensors, folder / "model.safetensors")
    checkpoint = open_checkpoint(str(folder))
    checkpoint.read(["c"])
    checkpoint.read_rows("b", [0, 1, 999])
    assert checkpoint.bytes_read < 64 * 1024 + 256 + 3 * 4000 + 1000
    assert checkpoint.bytes_total > 6_000_000


def test_adjacent_ranges_are_merged() -> None:
    assert coalesce([(10, 20), (0, 8), (21, 30), (100, 110)], gap=2) == [(0, 30), (100, 110)]
    assert coalesce([(0, 100), (10, 20)], gap=0) == [(0, 100)]


def test_a_tensor_at_an_odd_offset_is_read(folder: Path) -> None:
    header: dict[str, dict[str, Any]] = {"t": tensor(0, 8, [2], "F32"), "__metadata__": {"pad": ""}}
    while len(json.dumps(header)) % 2 == 0:
        header["__metadata__"]["pad"] += " "
    values = torch.tensor([1.5, -2.0])
    write_raw(folder / "model.safetensors", header, values.numpy().tobytes())
    assert torch.equal(open_checkpoint(str(folder)).read(["t"])["t"], values)


INVALID_HEADERS: dict[str, tuple[object, bytes, int | None]] = {
    "huge header": ({}, b"", 2**60),
    "negative-looking header": ({}, b"", 2**64 - 1),
    "header longer than the file": ({}, b"", 100),
    "not JSON": (b"{nonsense", b"", None),
    "not an object": ([1, 2], b"", None),
    "nested deep": (b'{"a":' * 100_000, b"", None),
    "no description": ({"t": 3}, b"", None),
    "unknown dtype": ({"t": tensor(0, 4, [1], "F77")}, b"1234", None),
    "negative offsets": ({"t": tensor(-4, 0, [1])}, b"1234", None),
    "backward offsets": ({"t": tensor(4, 0, [1])}, b"1234", None),
    "size and shape differ": ({"t": tensor(0, 8, [1])}, b"12345678", None),
    "beyond the file": ({"t": tensor(0, 8, [2])}, b"1234", None),
    "overlap": ({"t": tensor(0, 8, [2]), "u": tensor(4, 12, [2])}, b"123456789012", None),
    "absurd shape": ({"t": tensor(0, 4, [2**61, 2**61])}, b"1234", None),
    "boolean sizes": ({"t": tensor(0, 4, [True])}, b"1234", None),
    "fractional sizes": ({"t": {"dtype": "F32", "shape": [1.0], "data_offsets": [0, 4]}},
                         b"1234", None),
}  # fmt: skip


@pytest.mark.parametrize("case", INVALID_HEADERS)
def test_invalid_headers_are_refused(folder: Path, case: str) -> None:
    header, data, length = INVALID_HEADERS[case]
    write_raw(folder / "model.safetensors", header, data, length)
    with pytest.raises(CheckpointError, match=r"model\.safetensors"):
        open_checkpoint(str(folder)).read(["t"])


@pytest.mark.parametrize("size", [0, 5, 8])
def test_truncated_files_are_refused(folder: Path, size: int) -> None:
    safetensors.torch.save_file({"t": torch.ones(4)}, folder / "model.safetensors")
    data = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(data[:size])
    with pytest.raises(CheckpointError, match=r"model\.safetensors"):
        open_checkpoint(str(folder)).read(["t"])


@pytest.mark.parametrize("name", ["../secret.safetensors", "/etc/passwd", "a/../../x", "gone.st"])
def test_indexes_that_name_missing_or_outside_files_are_refused(folder: Path, name: str) -> None:
    safetensors.torch.save_file({"t": torch.ones(4)}, folder.parent / "secret.safetensors")
    index = {"weight_map": {"t": name}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match=r"index\.json: it names"):
        open_checkpoint(str(folder)).read(["t"])


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_a_git_lfs_pointer_is_recognised(folder: Path, name: str) -> None:
    safetensors.torch.save_file({"t": torch.ones(4)}, folder / "model.safetensors")
    oid = "oid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393"
    text = f"version https://git-lfs.github.com/spec/v1\n{oid}\nsize 12345\n"
    (folder / name).write_text(text)
    with pytest.raises(CheckpointError, match=f"{name}: it is a Git LFS pointer.*git lfs pull"):
        open_checkpoint(str(folder)).read(["t"])


def test_links_out_of_the_folder_are_refused(folder: Path) -> None:
    safetensors.torch.save_file({"t": torch.ones(4)}, folder.parent / "secret.safetensors")
    (folder / "model.safetensors").symlink_to(folder.parent / "secret.safetensors")
    with pytest.raises(
        CheckpointError, match=r"model\.safetensors: it is a link to a file outside the folder"
    ):
        open_checkpoint(str(folder)).read(["t"])


def test_a_hub_cache_snapshot_is_a_folder_of_links_and_works(tmp_path: Path) -> None:
    cache = tmp_path / "models--org--name"
    snapshot = cache / "snapshots" / "0123abc"
    (cache / "blobs").mkdir(parents=True)
    snapshot.mkdir(parents=True)
    safetensors.torch.save_file({"t": torch.ones(4)}, cache / "blobs" / "hash")
    (snapshot / "model.safetensors").symlink_to("../../blobs/hash")
    assert open_checkpoint(str(snapshot)).read(["t"])["t"].sum() == 4


def test_errors_name_what_is_missing(folder: Path) -> None:
    checkpoint = open_checkpoint(str(folder))
    with pytest.raises(CheckpointError, match="no weights"):
        checkpoint.read(["t"])
    (folder / "pytorch_model.bin").write_bytes(b"x")
    with pytest.raises(CheckpointError, match=r"pytorch_model\.bin"):
        open_checkpoint(str(folder)).read(["t"])
    (folder / "tokenizer.json").unlink()
    with pytest.raises(CheckpointError, match="no tokenizer"):
        _ = open_checkpoint(str(folder)).vocabulary
    (folder / "config.json").unlink()
    with pytest.raises(CheckpointError, match=r"no config\.json"):
        _ = open_checkpoint(str(folder)).config
    nowhere = folder / "nowhere" / "else"
    with pytest.raises(
        ModelNotFoundError, match=f"{nowhere}: it is neither a folder, nor a file, nor a Hub id"
    ):
        open_checkpoint(str(nowhere))


def test_token_ids_beyond_the_embedding_are_refused(folder: Path) -> None:
    safetensors.torch.save_file({"e": torch.ones(4, 2)}, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match="do not belong together"):
        open_checkpoint(str(folder)).read_rows("e", [0, 4])


# --- vocabularies -----------------------------------------------------------------------------


def tokenizer(model: dict[str, object], **parts: object) -> bytes:
    """A tokenizer.json with the fields that the tokenizers library requires."""
    needed: dict[str, dict[str, object]] = {
        "BPE": {"merges": []},
        "WordPiece": {"unk_token": "[UNK]", "continuing_subword_prefix": "##",
                      "max_input_chars_per_word": 100},
    }  # fmt: skip
    model = {**needed.get(str(model.get("type")), {}), **model}
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    given = cast("list[dict[str, object]]", parts.pop("added_tokens", []))
    added = [{**flags, **entry} for entry in given]
    return json.dumps({"model": model, "added_tokens": added, **parts}).encode()


def texts(data: bytes) -> dict[int, tuple[bytes, str]]:
    return {t.id: (t.text, t.kind) for t in parse_tokenizer_json(data)}


def test_byte_level_pieces_become_bytes() -> None:
    vocab = {"Ġthe": 0, "ÃĹ": 1, "Ċ": 2, "<|end|>": 3}
    data = tokenizer(
        {"type": "BPE", "vocab": vocab},
        pre_tokenizer={"type": "Sequence", "pretokenizers": [BYTE_LEVEL]},
        added_tokens=[{"id": 3, "content": "<|end|>", "special": True}],
    )
    assert texts(data) == {
        0: (b" the", "normal"),
        1: ("×".encode(), "normal"),
        2: (b"\n", "normal"),
        3: (b"<|end|>", "special"),
    }


def test_byte_level_agrees_with_the_tokenizers_library() -> None:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    library = Tokenizer(models.BPE())
    library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    library.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    library.train_from_iterator(["naïve straße\n\tthe the 中文 🐕 thé" * 20], trainer)
    for token in parse_tokenizer_json(library.to_str().encode()):
        assert library.decode([token.id]) == token.text.decode("utf-8", errors="replace")


def test_sentencepiece_and_wordpiece_spellings() -> None:
    unigram = tokenizer({"type": "Unigram", "vocab": [["<0x0A>", 0.0], ["▁the", -1.0]]})
    assert texts(unigram) == {0: (b"\n", "byte"), 1: (b" the", "normal")}
    wordpiece = tokenizer({"type": "WordPiece", "vocab": {"the": 0, "##re": 1}})
    assert texts(wordpiece) == {0: (b" the", "normal"), 1: (b"re", "normal")}


@pytest.mark.parametrize(
    "text", [b"", b"[]", b"{}", b'{"model": {}}', b'{"model": {"vocab": {"a": "x"}}}', b"\xff"]
)
def test_invalid_tokenizers_are_refused(text: bytes) -> None:
    with pytest.raises(CheckpointError, match=r"not a tokenizer\.json"):
        parse_tokenizer_json(text)


# --- the Hub ----------------------------------------------------------------------------------


def test_a_hub_model_is_read_in_ranges_at_one_commit(
    hub: LoopbackHub, make_llama: MakeModel
) -> None:
    folder = make_llama("model", vocab_size=8192, hidden_size=128)
    hub.add("org/tiny", folder)
    checkpoint = open_checkpoint("org/tiny@main")
    local = open_checkpoint(str(folder))
    name = "model.layers.1.mlp.up_proj.weight"
    assert torch.equal(checkpoint.read([name])[name], local.read([name])[name])
    embedding = "model.embed_tokens.weight"
    rows = [5, 4000, 8191]
    assert torch.equal(checkpoint.read_rows(embedding, rows), local.read_rows(embedding, rows))
    assert checkpoint.revision == hub.repositories["org/tiny"].commit
    assert checkpoint.bytes_read == hub.bytes_sent < 0.1 * checkpoint.bytes_total
    files = [path for path, _ in hub.requests if "resolve" in path]
    assert all(ranged for path, ranged in hub.requests if path in files)
    assert sum("api/models" in path for path, _ in hub.requests) == 1


def test_broken_connections_resume_and_busy_answers_are_retried(
    hub: LoopbackHub, make_llama: MakeModel
) -> None:
    folder = make_llama("model")
    hub.add("org/tiny", folder)
    name = "model.layers.1.mlp.up_proj.weight"
    checkpoint = open_checkpoint("org/tiny")
    checkpoint.entry(name)
    hub.cut_after, hub.refuse_with = 1000, [503, 429]
    read = checkpoint.read([name])[name]
    assert torch.equal(read, open_checkpoint(str(folder)).read([name])[name])
    resumed = [ranged for _, ranged in hub.requests][-1]
    entry = checkpoint.entry(name)
    assert isinstance(entry, StoredTensor)
    assert resumed == f"bytes={entry.start + 1000}-{entry.stop - 1}"


def test_a_server_that_ignores_ranges_is_refused(hub: LoopbackHub, make_llama: MakeModel) -> None:
    hub.add("org/tiny", make_llama("model"))
    checkpoint = open_checkpoint("org/tiny")
    hub.ignore_ranges = True
    with pytest.raises(NetworkError, match="ignores range requests"):
        checkpoint.read(["model.norm.weight"])


def test_errors_name_gates_missing_models_and_no_network(
    hub: LoopbackHub, make_llama: MakeModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.add("org/tiny", make_llama("model"), gated=True)
    with pytest.raises(
        AccessError,
        match=r"org/tiny: config\.json: the repository is gated; ask for access at http",
    ):
        _ = open_checkpoint("org/tiny").config
    with pytest.raises(
        ModelNotFoundError, match="org/none: there is no such folder or Hub repository"
    ):
        open_checkpoint("org/none")
    with pytest.raises(ModelNotFoundError, match="org/tiny: there is no such revision"):
        open_checkpoint("org/tiny@v9")
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(NetworkError, match="cannot be reached"):
        open_checkpoint("org/tiny")


def test_a_file_in_the_users_cache_is_read_from_disk(
    hub: LoopbackHub, make_llama: MakeModel
) -> None:
    from huggingface_hub import constants

    folder = make_llama("model")
    hub.add("org/tiny", folder)
    commit = hub.repositories["org/tiny"].commit
    cache = Path(constants.HF_HUB_CACHE) / "models--org--tiny"
    (cache / "snapshots").mkdir(parents=True)
    shutil.copytree(folder, cache / "snapshots" / commit)
    open_checkpoint("org/tiny").read(["model.norm.weight"])
    assert not any("resolve" in path for path, _ in hub.requests)


def test_offline_opens_the_cached_snapshot(
    hub: LoopbackHub, make_llama: MakeModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    cache = Path(constants.HF_HUB_CACHE) / "models--org--tiny"
    (cache / "refs").mkdir(parents=True)
    (cache / "refs" / "main").write_text("f" * 40)
    (cache / "snapshots").mkdir()
    shutil.copytree(make_llama("model"), cache / "snapshots" / ("f" * 40))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    checkpoint = open_checkpoint("org/tiny")
    assert checkpoint.revision == "f" * 40
    assert checkpoint.read(["model.norm.weight"])
    with pytest.raises(NetworkError, match="HF_HUB_OFFLINE is set"):
        open_checkpoint("org/other")
    assert not hub.requests
