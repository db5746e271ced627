"""The similarity that each form leaves, of a random Llama in the forms that the tests write.

`python -m pytest -m "" -s tests/loader/test_ics_of_written_forms.py` prints the figures of
docs/formats.md. Forms that packages write are in test_quantisation_packages.py.

A form must have an ICS of 1 with the same rounding in plain float32 matrices, which huref reads
without any of its schemes. How much it has with the plain model follows from the rounding. Let c be
the mean cosine of a matrix and its rounding; for b bits and groups of n normal numbers, whose range
is R(n) deviations, 1 / c^2 = 1 + (R(n) / (2^b - 1))^2 / 12. Terms are products of matrices, so that
the ICS is near c^f, where f is the mean number of rounded factors in the three terms
(docs/maths.md); whitening and flattening raise small directions and with them the power, by a
quarter to a half.
"""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import huref
from huref.loader.checkpoint import open_checkpoint
from tests.loader.test_adapter_kinds import write_mlx
from tests.support.containers import write_gguf
from tests.support.quantised_writers import (
    Parts,
    Write,
    awq,
    bitnet,
    gptq,
    mlx_affine,
    mxfp4,
    rounded,
    rounded_to_mxfp4,
    ternary,
    torchao_int4,
    write_quantised,
)

pytestmark = pytest.mark.slow
MakeModel = Callable[..., Path]


@pytest.fixture
def source(make_llama: MakeModel) -> Path:
    """The random Llama of test_quantisation_packages.py."""
    return make_llama(
        "source", hidden_size=128, intermediate_size=256, num_hidden_layers=4, head_dim=32
    )


Round = Callable[[str, Tensor], Tensor]
# Rounded factors in a term: the mean of qk, vo and ffn, whose matrices are 2, 2 and 3.
PROJECTIONS, EXPERTS = (2 + 2 + 3) / 3, 3 / 3
WITH_EMBEDDINGS = PROJECTIONS + (2 + 2 + 3) / 3
EXACT = 1e-5  # between two ways to write the same numbers


def ics_of(model: Path, other: Path) -> float:
    """The similarity of two models, which is printed."""
    pair = huref.compare([str(model), str(other)], cache=False).pairs[0]
    ics = pair.similarity.ics
    assert ics is not None
    quantisation = open_checkpoint(str(model)).describe_files()["quantisation"]
    print(f"ICS {ics:.4f} {pair.evidence.verdict} {quantisation}", end="; ")
    return ics


def check_what_is_left(
    quantised: Path,
    source: Path,
    round_: Round,
    ends: str | tuple[str, ...] = "_proj.weight",
    factors: float = PROJECTIONS,
) -> None:
    """A form leaves what its rounding leaves in a plain file, and no more than that explains."""
    cosines = []

    def write(name: str, weight: Tensor) -> Parts:
        plain = round_(name, weight).float().reshape(weight.shape)
        flat = torch.stack([plain.flatten(), weight.float().flatten()])
        cosines.append(torch.corrcoef(flat)[0, 1].item())
        return {".weight" if name.endswith(".weight") else "": plain}

    folder = source.parent / "rounded"
    write_quantised(source, folder, write, {}, ends)
    assert ics_of(quantised, folder) == pytest.approx(1, abs=EXACT)
    left = ics_of(quantised, source)
    cosine = sum(cosines) / len(cosines)
    power = math.log(left) / math.log(cosine)
    print(f"cosine of the matrices {cosine:.5f}, to the power {power:.2f}")
    assert factors < power < 1.5 * factors


def is_attention(name: str) -> bool:
    return "self_attn" in name


def mixed_gptq(name: str, weight: Tensor) -> Parts:
    return gptq(weight, 4 if is_attention(name) else 8, 32)


def mixed_mlx(name: str, weight: Tensor) -> Parts:
    """Widths and groups that give shapes alike, so that only the settings tell them apart."""
    return mlx_affine(weight, 8, 32) if is_attention(name) else mlx_affine(weight, 4, 64)


def in_four_bits(_: str, weight: Tensor) -> Tensor:
    return rounded(weight, 4, 32)


GPTQ = {"quant_method": "gptq", "group_size": 32, "checkpoint_format": "gptq"}
ATTENTION = [f"model.layers.{i}.self_attn.{p}_proj" for i in range(4) for p in "qkvo"]
# name -> (writer, rounding, settings)
FORMS: dict[str, tuple[Write, Round, dict[str, Any]]] = {
    "GPTQ, 4 bits and 8 (dynamic)": (
        mixed_gptq,
        lambda name, weight: rounded(weight, 4 if is_attention(name) else 8, 32),
        {"quantization_config":
            {**GPTQ, "bits": 8, "dynamic": {r"+:.*self_attn.*": {"bits": 4}}}}),
    "AWQ gemm, 4 bits": (
        lambda _, weight: awq(weight, 32), in_four_bits,
        {"quantization_config":
            {"quant_method": "awq", "bits": 4, "group_size": 32, "version": "gemm"}}),
    "MLX, 8 bits in some modules": (
        mixed_mlx,
        lambda name, weight: rounded(weight, *((8, 32) if is_attention(name) else (4, 64))),
        {"quantization":
            {"bits": 4, "group_size": 64,
             **{n: {"bits": 8, "group_size": 32} for n in ATTENTION}}}),
    "torchao Int4Tensor": (
        lambda _, weight: torchao_int4(weight, 32), in_four_bits,
        {"quantization_config": {"quant_method": "torchao"}}),
    "BitNet, packed": (
        lambda _, weight: bitnet(weight),
        lambda _, weight: ternary(weight) * weight.abs().mean(),
        {"quantization_config": {"quant_method": "bitnet", "quantization_mode": "offline"}}),
}  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_what_a_form_leaves(source: Path, tmp_path: Path, form: str) -> None:
    write, round_, settings = FORMS[form]
    write_quantised(source, tmp_path / "quantised", write, settings)
    print(form, end=": ")
    check_what_is_left(tmp_path / "quantised", source, round_)


@pytest.mark.parametrize(
    ("form", "told"),
    [
        ("GPTQ, 4 bits and 8 (dynamic)", "gptq, 8 bits, 4 in some modules"),
        ("MLX, 8 bits in some modules", "mlx, 4 bits, 8 in some modules"),
        ("AWQ gemm, 4 bits", "awq, 4 bits"),
    ],
)
def test_widths_of_modules_are_told(source: Path, tmp_path: Path, form: str, told: str) -> None:
    write, _, settings = FORMS[form]
    write_quantised(source, tmp_path / "quantised", write, settings)
    files = open_checkpoint(str(tmp_path / "quantised")).describe_files()
    assert files["quantisation"] == told


@pytest.mark.parametrize(("bits", "group"), [(2, 32), (3, 32), (4, 32), (4, 128), (8, 32)])
def test_what_a_number_of_bits_leaves(bits: int, group: int) -> None:
    """The formula of this module, of normal numbers."""
    torch.manual_seed(0)
    weight = torch.randn(512, 512)
    extent = torch.randn(20_000, group).aminmax(dim=1)
    width = (extent.max - extent.min).square().mean().item()
    expected = 1 / (1 + width / (2**bits - 1) ** 2 / 12)
    plain = rounded(weight, bits, group)
    cosine = torch.corrcoef(torch.stack([weight.flatten(), plain.flatten()]))[0, 1].item()
    assert 1 - cosine**2 == pytest.approx(1 - expected, rel=0.1)


def test_mxfp4_of_gpt_oss(make_llama: MakeModel, tmp_path: Path) -> None:
    source = make_llama(
        "source", "GptOss", hidden_size=128, intermediate_size=128, num_hidden_layers=4,
        head_dim=32, num_local_experts=4, num_experts_per_tok=2,
    )  # fmt: skip
    file = source / "model.safetensors"
    tensors = load_file(file)
    torch.manual_seed(1)
    for name in [name for name in tensors if "experts" in name and "proj" in name]:
        tensors[name] = torch.randn_like(tensors[name]) * 0.02
    save_file(tensors, file, {"format": "pt"})
    stacks = ("experts.gate_up_proj", "experts.down_proj")
    write_quantised(
        source, tmp_path / "quantised", lambda _, stack: mxfp4(stack),
        {"quantization_config": {"quant_method": "mxfp4"}}, stacks,
    )  # fmt: skip
    check_what_is_left(
        tmp_path / "quantised", source, lambda _, stack: rounded_to_mxfp4(stack), stacks, EXPERTS
    )


@pytest.mark.parametrize("kind", ["BF16", "Q5_1", "Q5_0", "Q4_1", "Q4_0", "MXFP4"])
def test_what_a_type_of_gguf_leaves(source: Path, tmp_path: Path, kind: str) -> None:
    """Embeddings and output head are of the type, too."""
    file = tmp_path / f"model-{kind}.gguf"
    write_gguf(source, file, "llama", kind)
    number = gguf.GGMLQuantizationType[kind]

    def round_(_: str, weight: Tensor) -> Tensor:
        packed = gguf.quants.quantize(weight.float().numpy(), number)
        return torch.tensor(gguf.quants.dequantize(packed, number))

    print(kind, end=": ")
    check_what_is_left(
        file,
        source,
        round_,
        ("_proj.weight", "embed_tokens.weight", "lm_head.weight"),
        WITH_EMBEDDINGS,
    )


@pytest.mark.parametrize("kind", ["TQ1_0", "TQ2_0"])
def test_types_of_gguf_for_ternary_models(make_llama: MakeModel, tmp_path: Path, kind: str) -> None:
    """Blocks of 256; of other models the rounding to -1, 0 and 1 leaves nearly nothing."""
    source = make_llama(
        "source", hidden_size=256, intermediate_size=256, num_hidden_layers=4, head_dim=64
    )
    file = source / "model.safetensors"
    tensors = load_file(file)
    for name, tensor in tensors.items():
        if tensor.dim() == 2:
            tensors[name] = ternary(tensor) * 2**-6
    save_file(tensors, file, {"format": "pt"})
    write_gguf(source, tmp_path / f"model-{kind}.gguf", "llama", kind)
    print(kind, end=": ")
    assert ics_of(tmp_path / f"model-{kind}.gguf", source) == pytest.approx(1, abs=1e-5)


def test_older_adapters_of_mlx_lm(source: Path, tmp_path: Path) -> None:
    """Its first releases multiplied by scale alpha / rank."""
    weights = load_file(source / "model.safetensors")
    torch.manual_seed(3)
    pairs: dict[str, Tensor] = {}
    for name in [n for n in weights if n.endswith(("q_proj.weight", "v_proj.weight"))]:
        stem = name.removesuffix(".weight")
        out, inputs = weights[name].shape
        a, b = torch.randn(inputs, 4) * 0.02, torch.randn(4, out) * 0.02
        pairs |= {f"{stem}.lora_a": a, f"{stem}.lora_b": b}
        weights[name] = weights[name] + 10 * 16 / 4 * (a @ b).T
    write_quantised(source, tmp_path / "merged", lambda name, _: {".weight": weights[name]}, {})
    write_mlx(
        source, tmp_path / "adapter", pairs, lora_layers=4,
        lora_parameters={"rank": 4, "alpha": 16.0, "scale": 10.0},
    )  # fmt: skip
    moved = ics_of(tmp_path / "merged", source)
    assert moved < 0.99, "a factor that is wrong is seen"
    assert ics_of(tmp_path / "adapter", tmp_path / "merged") == pytest.approx(1, abs=1e-5)
