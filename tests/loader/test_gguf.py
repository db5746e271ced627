"""GGUF files, read as the published checkpoints that they were converted from."""

import struct
import time
from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch

from huref.errors import CheckpointError, UnsupportedModelError
from huref.loader.checkpoint import open_checkpoint
from huref.loader.formats.gguf import read_header
from huref.loader.ranges import LocalFile, Meter
from huref.loader.sources.gguf_names import ARCHITECTURES, MIXTRAL_ARCHITECTURE
from huref.loader.sources.gguf_tensors import fused_rows
from huref.loader.tensors import rotary_halves
from tests.support.containers import load, write_gguf
from tests.support.hub_server import LoopbackHub
from tests.support.small_models import some_words

MakeModel = Callable[..., Path]
GGUF_ARCHITECTURES = {name: kind for kind, name in gguf.constants.MODEL_ARCH_NAMES.items()}
ESSENTIAL = (
    "token_embd",
    "attn_q",
    "attn_k",
    "attn_v",
    "attn_qkv",
    "attn_output",
    "ffn_up",
    "ffn_down",
)


@pytest.mark.parametrize("architecture", [*ARCHITECTURES, "mixtral"])
def test_names_are_those_of_the_gguf_package(architecture: str) -> None:
    names = ARCHITECTURES.get(architecture, MIXTRAL_ARCHITECTURE).names
    kind = GGUF_ARCHITECTURES["llama" if architecture == "mixtral" else architecture]
    table = gguf.get_tensor_name_map(kind, 2)
    known = {gguf.TENSOR_NAMES[tensor] for tensor in gguf.MODEL_TENSORS[kind]}
    checked = 0
    for name, published in names.items():
        stacked = published.replace(".{e}", "").format(i=1)
        expected = table.get_name(stacked) or table.get_name(stacked.removeprefix("transformer."))
        if expected is not None and name.replace("{i}", "{bid}") in known:
            # Files of a dense and of a mixed model may have two names for one published one.
            same = {other for other, one in names.items() if one == published}
            if "dbrx" in architecture and "exps" in name:
                continue  # published as one matrix of all experts
            assert expected in {other.replace(".{e}", "").format(i=1) for other in same}
            checked += any(role in name for role in ESSENTIAL)
    assert checked >= 4


@pytest.mark.parametrize(
    ("kind", "architecture"),
    [("Llama", "llama"), ("Mistral", "llama"), ("Qwen2", "qwen2"), ("Qwen3", "qwen3"),
     ("Gemma", "gemma"), ("Gemma2", "gemma2")],
)  # fmt: skip
def test_lossless_files_give_the_published_tensors(
    make_llama: MakeModel, tmp_path: Path, kind: str, architecture: str
) -> None:
    folder = make_llama("model", kind, head_dim=16, tie_word_embeddings=True)
    write_gguf(folder, tmp_path / "model.gguf", architecture)
    checkpoint = open_checkpoint(str(tmp_path / "model.gguf"))
    published = load(folder)
    assert set(checkpoint.names) == set(published)
    read = checkpoint.read(checkpoint.names)
    for name, tensor in published.items():
        if architecture.startswith("gemma") and "norm" in name:
            torch.testing.assert_close(read[name], tensor)
        else:
            assert torch.equal(read[name], tensor), name
        assert checkpoint.entry(name).shape == tuple(tensor.shape)
        rows = [len(tensor) - 1, 0, 3]
        torch.testing.assert_close(checkpoint.read_rows(name, rows), tensor[rows])
    config = open_checkpoint(str(folder)).config
    for key in ("model_type", "hidden_size", "num_attention_heads", "num_key_value_heads",
                "num_hidden_layers", "intermediate_size", "vocab_size"):  # fmt: skip
        if (kind, key) != ("Mistral", "model_type"):  # the same file
            assert checkpoint.config[key] == config[key]


def test_transformers_reads_the_same_from_a_file(make_llama: MakeModel, tmp_path: Path) -> None:
    """transformers reads what the writer in these tests writes as huref does."""
    from transformers.modeling_gguf_pytorch_utils import (
        BloomTensorProcessor,
        LlamaTensorProcessor,
    )

    weight = np.random.default_rng(0).normal(size=(24, 5)).astype(np.float32)
    expected = LlamaTensorProcessor()._reverse_permute_weights(weight, 3, 3)
    assert np.array_equal(expected, weight[rotary_halves(24, 3).numpy()])
    fused = np.random.default_rng(0).normal(size=(36, 12)).astype(np.float32)
    expected = BloomTensorProcessor()._reverse_reshape_weights(fused, 3, 12)
    assert np.array_equal(expected, fused[fused_rows(36, 3, 3).numpy()])


def test_fused_rows_are_grouped_by_key_value_head() -> None:
    # 4 heads, 2 groups, heads of 1: stored q0 q1 q2 q3 k0 k1 v0 v1
    assert fused_rows(8, 4, 2).tolist() == [0, 1, 4, 6, 2, 3, 5, 7]


TYPES = ["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "F16", "BF16"]


@pytest.mark.parametrize("kind", TYPES)
def test_quantised_types_decode_as_the_package_does(
    make_llama: MakeModel, tmp_path: Path, kind: str
) -> None:
    folder = make_llama("model", "Qwen2")
    write_gguf(folder, tmp_path / "m.gguf", "qwen2", kind)
    checkpoint = open_checkpoint(str(tmp_path / "m.gguf"))
    name = "model.layers.1.mlp.down_proj.weight"
    number = gguf.GGMLQuantizationType[kind]
    weight = load(folder)[name].numpy()
    expected = gguf.dequantize(gguf.quantize(weight, number), number)
    assert np.array_equal(checkpoint.read([name])[name].float().numpy(), expected)
    rows = checkpoint.read_rows(name, [63, 0])
    assert np.array_equal(rows.float().numpy(), expected[[63, 0]])


DECODED = [k for k in gguf.quants._type_traits if k.name not in ("BF16",)]


@pytest.mark.parametrize("kind", DECODED, ids=lambda kind: kind.name)
def test_every_type_that_the_package_decodes_is_read(
    tmp_path: Path, kind: gguf.GGMLQuantizationType
) -> None:
    """Random bytes are valid blocks of any type; NaN scales among them are compared, too."""
    elements, size = gguf.GGML_QUANT_SIZES[kind]
    raw = np.random.default_rng(0).integers(0, 256, (5, 3 * size), dtype=np.uint8)
    writer = gguf.GGUFWriter(tmp_path / "m.gguf", "llama")
    writer.add_tensor("token_embd.weight", raw, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    checkpoint = open_checkpoint(str(tmp_path / "m.gguf"))
    read = checkpoint.read(["model.embed_tokens.weight"])["model.embed_tokens.weight"]
    assert read.shape == (5, 3 * elements)
    with np.errstate(all="ignore"):
        assert np.array_equal(read.numpy(), gguf.dequantize(raw, kind), equal_nan=True)


def test_each_expert_is_a_separate_tensor(tmp_path: Path) -> None:
    writer = gguf.GGUFWriter(tmp_path / "m.gguf", "llama")
    writer.add_expert_count(3)
    stack = np.arange(24, dtype=np.float32).reshape(3, 2, 4)
    writer.add_tensor("blk.0.ffn_up_exps.weight", stack)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    checkpoint = open_checkpoint(str(tmp_path / "m.gguf"))
    name = "model.layers.0.block_sparse_moe.experts.2.w3.weight"
    assert len(checkpoint.names) == 3
    assert np.array_equal(checkpoint.read([name])[name].numpy(), stack[2])
    assert checkpoint.config["model_type"] == "mixtral"


def test_key_and_value_halves_of_a_latent_projection_are_joined(tmp_path: Path) -> None:
    """As llama.cpp's DeepSeek converter has written it since 2025: keys transposed by head."""
    heads, nope, value, rank = 3, 4, 5, 6
    kv_b = torch.randn(heads * (nope + value), rank)
    keys, values = kv_b.view(heads, nope + value, rank).split_with_sizes([nope, value], dim=1)
    writer = gguf.GGUFWriter(tmp_path / "m.gguf", "deepseek2")
    writer.add_tensor("blk.1.attn_k_b.weight", keys.transpose(1, 2).contiguous().numpy())
    writer.add_tensor("blk.1.attn_v_b.weight", values.contiguous().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    checkpoint = open_checkpoint(str(tmp_path / "m.gguf"))
    name = "model.layers.1.self_attn.kv_b_proj.weight"
    assert list(checkpoint.names) == [name]
    assert checkpoint.entry(name).shape == tuple(kv_b.shape)
    assert torch.equal(checkpoint.read([name])[name], kv_b)
    assert torch.equal(checkpoint.read_rows(name, [9, 2]), kv_b[[9, 2]])


def test_key_and_value_halves_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    writer = gguf.GGUFWriter(tmp_path / "m.gguf", "deepseek2")
    writer.add_tensor("blk.1.attn_k_b.weight", np.zeros((3, 6, 4), dtype=np.float32))
    writer.add_tensor("blk.1.attn_v_b.weight", np.zeros((2, 5, 6), dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    checkpoint = open_checkpoint(str(tmp_path / "m.gguf"))
    with pytest.raises(CheckpointError, match="not the key and value parts of one projection"):
        checkpoint.entry("model.layers.1.self_attn.kv_b_proj.weight")


def test_split_files_are_one_model(make_llama: MakeModel, tmp_path: Path) -> None:
    folder = make_llama("model")
    write_gguf(folder, tmp_path / "split" / "m.gguf", "llama", split=12)
    parts = sorted((tmp_path / "split").glob("m-*.gguf"))
    assert len(parts) > 2
    (tmp_path / "split" / "other-00001-of-00009.gguf").write_bytes(b"GGUF")
    for part in (parts[0], parts[2]):
        checkpoint = open_checkpoint(str(part))
        assert set(checkpoint.names) == set(load(folder))
        assert checkpoint.bytes_total == sum(p.stat().st_size for p in parts)
    parts[1].unlink()
    with pytest.raises(CheckpointError, match=rf"one of {len(parts)} parts"):
        _ = open_checkpoint(str(parts[0])).names


def test_one_of_several_files_on_the_hub_is_chosen(
    make_llama: MakeModel, tmp_path: Path, hub: LoopbackHub
) -> None:
    folder = make_llama("model", "Qwen2")
    repository = tmp_path / "repository"
    for kind in ("Q4_0", "Q8_0"):
        write_gguf(folder, repository / f"model-{kind.lower()}.gguf", "qwen2", kind)
    (repository / "mmproj-model-f16.gguf").write_bytes(b"GGUF")
    hub.add("org/name-GGUF", repository)
    name = "model.layers.0.mlp.up_proj.weight"
    best = open_checkpoint("org/name-GGUF")
    assert best.entry(name).file == "model-q8_0.gguf"
    named = open_checkpoint("org/name-GGUF/model-q4_0.gguf")
    assert named.entry(name).file == "model-q4_0.gguf"
    local = open_checkpoint(str(repository / "model-q4_0.gguf"))
    assert torch.equal(named.read([name])[name], local.read([name])[name])


def test_a_large_vocabulary_opens_in_under_a_second(tmp_path: Path) -> None:
    """128,000 tokens and 280,000 merges, like Llama 3's."""
    writer = gguf.GGUFWriter(tmp_path / "m.gguf", "llama")
    words = (some_words(6400) * 20)[:128_000]
    tokens = [f"{word}{i}" for i, word in enumerate(words)]
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(tokens)
    writer.add_token_types([1] * len(tokens))
    writer.add_token_merges([f"{token} x" for token in tokens * 2][:280_000])
    writer.add_tensor("token_embd.weight", np.zeros((4, 32), dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    began = time.process_time()  # not wall time: the machine may be busy
    header = read_header(LocalFile(tmp_path / "m.gguf", "m.gguf", Meter()))
    assert time.process_time() - began < 1.0
    assert header.metadata["tokenizer.ggml.tokens"] == tokens


# --- refusals ---------------------------------------------------------------------------------


def number(value: int, form: str = "<Q") -> bytes:
    return struct.pack(form, value)


def text(value: str) -> bytes:
    return number(len(value)) + value.encode()


def tensor_entry(name: str, shape: tuple[int, ...], kind: int = 0, offset: int = 0) -> bytes:
    axes = b"".join(map(number, shape))
    return text(name) + number(len(shape), "<I") + axes + number(kind, "<I") + number(offset)


def file_of(
    tensors: list[bytes], values: bytes = b"", count: int | None = None, value_count: int = 0
) -> bytes:
    counts = number(len(tensors) if count is None else count) + number(value_count)
    head = b"GGUF" + number(3, "<I") + counts + values + b"".join(tensors)
    return head + bytes(-len(head) % 32 + 64)


ARRAY = text("k") + number(9, "<I")
INVALID = {
    "not GGUF": b"GGML" + bytes(60),
    "empty": b"",
    "version 1": b"GGUF" + number(1, "<I") + bytes(60),
    "big-endian": b"GGUF" + number(3, ">I") + bytes(60),
    "absurd tensor count": file_of([], count=2**60),
    "absurd value count": file_of([], value_count=2**60),
    "large tensor count": file_of([], count=90_000) + bytes(13_000_000),
    "absurd string": file_of([], text("k") + number(8, "<I") + number(2**60), value_count=1),
    "absurd array": file_of([], ARRAY + number(4, "<I") + number(2**60), value_count=1),
    "absurd array of text": file_of([], ARRAY + number(8, "<I") + number(2**40), value_count=1),
    "nested arrays": file_of(
        [], ARRAY + (number(9, "<I") + number(1)) * 100_000, value_count=1
    ),
    "unknown value type": file_of([], text("k") + number(77, "<I"), value_count=1),
    "alignment 0": file_of(
        [], text("general.alignment") + number(4, "<I") + number(0, "<I"), value_count=1
    ),
    "alignment as text": file_of(
        [], text("general.alignment") + number(8, "<I") + text("x"), value_count=1
    ),
    "unknown tensor type": file_of([tensor_entry("t", (4,), kind=999)]),
    "partial blocks": file_of([tensor_entry("t", (5,), kind=2)]),
    "many axes": file_of([text("t") + number(2**31, "<I")]),
    "beyond the file": file_of([tensor_entry("t", (1000,))]),
    "absurd shape": file_of([tensor_entry("t", (2**62, 2**62))]),
    "absurd offset": file_of([tensor_entry("t", (4,), offset=2**63)]),
    "overlap": file_of([tensor_entry("t", (4,)), tensor_entry("u", (4,), offset=4)]),
    "twice": file_of([tensor_entry("t", (4,)), tensor_entry("t", (4,), offset=16)]),
    "absurd stack of experts": file_of([tensor_entry("blk.0.ffn_up_exps.weight", (0, 0, 2**50))]),
}  # fmt: skip


@pytest.mark.parametrize("fault", INVALID)
def test_invalid_headers_are_refused(tmp_path: Path, fault: str) -> None:
    (tmp_path / "m.gguf").write_bytes(INVALID[fault])
    began = time.process_time()
    with pytest.raises((CheckpointError, UnsupportedModelError), match=r"m\.gguf"):
        _ = open_checkpoint(str(tmp_path / "m.gguf")).names
    assert time.process_time() - began < 5


@pytest.mark.parametrize("kept", [0.001, 0.1, 0.5, 0.999])
def test_truncated_files_are_refused(make_llama: MakeModel, tmp_path: Path, kept: float) -> None:
    write_gguf(make_llama("model"), tmp_path / "m.gguf", "llama")
    data = (tmp_path / "m.gguf").read_bytes()
    (tmp_path / "m.gguf").write_bytes(data[: int(kept * len(data))])
    with pytest.raises(CheckpointError, match=r"m\.gguf"):
        _ = open_checkpoint(str(tmp_path / "m.gguf")).names


def test_unknown_architectures_are_named(tmp_path: Path) -> None:
    value = text("general.architecture") + number(8, "<I") + text("martian")
    (tmp_path / "m.gguf").write_bytes(file_of([tensor_entry("t", (4,))], value, value_count=1))
    with pytest.raises(UnsupportedModelError, match="architecture 'martian'"):
        _ = open_checkpoint(str(tmp_path / "m.gguf")).names


def test_what_llama_cpp_refuses_twice_is_refused(tmp_path: Path) -> None:
    """A metadata key twice, and an expert alone beside the stack that holds it."""
    import gguf

    def write(stack: bool) -> bytes:
        writer = gguf.GGUFWriter(tmp_path / "a.gguf", "llama")
        writer.add_uint32("llama.block_count", 1)
        writer.add_uint32("llama.block_kount", 2)
        if stack:
            writer.add_tensor("blk.0.ffn_up_exps.weight", np.zeros((2, 4, 32), np.float32))
        writer.add_tensor("blk.0.ffn_up_exps.1.weight", np.ones((4, 32), np.float32))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return (tmp_path / "a.gguf").read_bytes()

    data = write(stack=False).replace(b"llama.block_kount", b"llama.block_count")
    (tmp_path / "a.gguf").write_bytes(data)
    with pytest.raises(CheckpointError, match=r"metadata has 'llama\.block_count' twice"):
        _ = open_checkpoint(str(tmp_path / "a.gguf")).names
    write(stack=True)
    with pytest.raises(CheckpointError, match="twice, alone and in a stack"):
        _ = open_checkpoint(str(tmp_path / "a.gguf")).names
