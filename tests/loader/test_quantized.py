"""Quantised weights, compared with the libraries that write them and with packing by hand."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor

from huref.architecture.weights import read_tensors
from huref.errors import CheckpointError, UnsupportedModelError, WeightsError
from huref.loader.checkpoint import Checkpoint, open_checkpoint
from huref.loader.quantized.bits import E2M1
from tests.support.quantised_writers import (
    awq,
    bitnet,
    mlx_affine,
    pack_bits,
    round_groups,
    rounded,
    ternary,
)

OUT, IN = 64, 96


@pytest.fixture
def save(tmp_path: Path) -> Callable[..., Checkpoint]:
    def write(tensors: dict[str, Tensor], **settings: object) -> Checkpoint:
        tensors = {"norm.weight": torch.ones(3)} | tensors
        contiguous = {name: tensor.contiguous().clone() for name, tensor in tensors.items()}
        safetensors.torch.save_file(contiguous, tmp_path / "model.safetensors")
        config = {"model_type": "llama", "quantization_config": settings}
        (tmp_path / "config.json").write_text(json.dumps(config))
        return open_checkpoint(str(tmp_path))

    return write


def check(checkpoint: Checkpoint, expected: Tensor, rtol: float = 1e-6) -> None:
    """Whole, by rows or sampled, reading gives the matrix; its parts are not listed."""
    name = "x.weight"
    assert set(checkpoint.names) == {"norm.weight", name}
    assert checkpoint.entry(name).shape == tuple(expected.shape)
    read = checkpoint.read([name])[name]
    torch.testing.assert_close(read, expected.float(), rtol=rtol, atol=1e-7)
    rows = [len(expected) - 1, 0, 3]
    assert torch.equal(checkpoint.read_rows(name, rows), read[rows])
    sample = checkpoint.read_sample(name, 2)
    is_rows = torch.equal(sample, read[: len(sample)]) if len(sample) < len(read) else False
    assert is_rows or torch.equal(sample, read[:, : sample.shape[1]])


def some_weight() -> Tensor:
    torch.manual_seed(0)
    return torch.randn(OUT, IN) * 0.05


# --- GPTQ and AWQ: packed by hand, integer by integer, as the formats are documented -------------


def pack(integers: Tensor, bits: int) -> Tensor:
    """Pack integers (n, columns) as one bit stream per column, (n * bits / 32, columns) int32."""
    rows, columns = integers.shape
    words = torch.zeros(rows * bits // 32, columns, dtype=torch.int64)
    for row in range(rows):
        for bit in range(bits):
            place = row * bits + bit
            words[place // 32] |= ((integers[row].long() >> bit) & 1) << (place % 32)
    return torch.where(words >= 2**31, words - 2**32, words).to(torch.int32)


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("act_order", [False, True])
@pytest.mark.parametrize("checkpoint_format", ["gptq", "gptq_v2"])
def test_gptq(
    save: Callable[..., Checkpoint], bits: int, act_order: bool, checkpoint_format: str
) -> None:
    groups, size = 3, IN // 3
    torch.manual_seed(0)
    integers = torch.randint(0, 2**bits, (IN, OUT))
    zeros = torch.randint(1, 2**bits, (groups, OUT))
    scales = torch.rand(groups, OUT).half()
    group_of = torch.arange(IN) // size
    if act_order:
        group_of = group_of[torch.randperm(IN)]
    stored = zeros - 1 if checkpoint_format == "gptq" else zeros
    checkpoint = save(
        {
            "x.qweight": pack(integers, bits),
            "x.qzeros": pack(stored.T, bits).T,
            "x.scales": scales,
            "x.g_idx": group_of.int(),
        },
        quant_method="gptq",
        bits=bits,
        group_size=size,
        desc_act=act_order,
        checkpoint_format=checkpoint_format,
    )
    check(checkpoint, (scales.float()[group_of] * (integers - zeros[group_of])).T)


def test_gptq_settings_of_old_releases_are_found(save: Callable[..., Checkpoint]) -> None:
    integers = torch.randint(0, 16, (32, 8))
    tensors = {
        "x.qweight": pack(integers, 4),
        "x.qzeros": pack(torch.full((8, 1), 7), 4).T,
        "x.scales": torch.ones(1, 8).half(),
    }
    checkpoint = save(tensors)
    folder = Path(checkpoint.model)
    (folder / "config.json").write_text('{"model_type": "llama"}')
    (folder / "quantize_config.json").write_text('{"bits": 4, "group_size": -1}')
    read = open_checkpoint(str(folder)).read(["x.weight"])["x.weight"]
    assert torch.equal(read, (integers - 8).T.float())


def test_awq(save: Callable[..., Checkpoint]) -> None:
    groups = 3
    torch.manual_seed(0)
    integers, zeros = torch.randint(0, 16, (IN, OUT)), torch.randint(0, 16, (groups, OUT))
    scales = torch.rand(groups, OUT).half()
    order = [0, 2, 4, 6, 1, 3, 5, 7]

    def awq_pack(values: Tensor) -> Tensor:
        words = torch.zeros(len(values), OUT // 8, dtype=torch.int64)
        for column in range(OUT // 8):
            for nibble in range(8):
                words[:, column] |= values[:, column * 8 + order[nibble]] << (4 * nibble)
        return torch.where(words >= 2**31, words - 2**32, words).to(torch.int32)

    tensors = {"x.qweight": awq_pack(integers), "x.qzeros": awq_pack(zeros), "x.scales": scales}
    checkpoint = save(tensors, quant_method="awq", bits=4, group_size=32, version="gemm")
    group_of = torch.arange(IN) // 32
    check(checkpoint, (scales.float()[group_of] * (integers - zeros[group_of])).T)


# --- bitsandbytes -------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["nf4", "fp4"])
@pytest.mark.parametrize("nested", [False, True])
# The CPU kernel of the library is wrong for long rows that are no multiple of the block.
@pytest.mark.slow
@pytest.mark.parametrize("shape", [(OUT, 128), (33, 25)])
def test_bitsandbytes_four_bit(
    save: Callable[..., Checkpoint], kind: str, nested: bool, shape: tuple[int, int]
) -> None:
    functional = pytest.importorskip("bitsandbytes.functional")
    weight = torch.randn(shape, dtype=torch.float32) * 0.05
    packed, state = functional.quantize_4bit(
        weight, blocksize=64, compress_statistics=nested, quant_type=kind
    )
    tensors = {f"x.weight.{key}": value for key, value in state.as_dict(packed=True).items()}
    checkpoint = save({"x.weight": packed, **tensors}, quant_method="bitsandbytes")
    check(checkpoint, functional.dequantize_4bit(packed, state))


def test_bitsandbytes_int8(save: Callable[..., Checkpoint]) -> None:
    functional = pytest.importorskip("bitsandbytes.functional")
    codes, scales, _ = functional.int8_vectorwise_quant(some_weight().half())
    tensors = {"x.weight": codes, "x.SCB": scales, "x.weight_format": torch.tensor(0).byte()}
    checkpoint = save(tensors, quant_method="bitsandbytes", load_in_8bit=True)
    check(checkpoint, functional.int8_vectorwise_dequant(codes, scales))


# --- fp8 ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2])
@pytest.mark.parametrize("scale_shape", [(), (1,), (OUT,), (OUT, 1)])
def test_fp8_with_one_scale_per_tensor_or_output(
    save: Callable[..., Checkpoint], dtype: torch.dtype, scale_shape: tuple[int, ...]
) -> None:
    weight, scale = some_weight().to(dtype), torch.rand(scale_shape)
    checkpoint = save({"x.weight": weight, "x.weight_scale": scale}, quant_method="fbgemm_fp8")
    check(checkpoint, weight.float() * (scale[:, None] if scale_shape == (OUT,) else scale))


def test_fp8_in_blocks(save: Callable[..., Checkpoint]) -> None:
    """DeepSeek's 128 x 128 blocks; those in the last row and column are smaller."""
    weight = torch.randn(200, 300).to(torch.float8_e4m3fn)
    scale = torch.rand(2, 3)
    expected = weight.float()
    for i in range(2):
        for j in range(3):
            expected[i * 128 : (i + 1) * 128, j * 128 : (j + 1) * 128] *= scale[i, j]
    tensors = {"x.weight": weight, "x.weight_scale_inv": scale}
    checkpoint = save(tensors, quant_method="fp8", weight_block_size=[128, 128])
    check(checkpoint, expected)


def test_fp8_without_scales_is_read_unchanged(save: Callable[..., Checkpoint]) -> None:
    weight = some_weight().to(torch.float8_e5m2)
    read = save({"x.weight": weight}, quant_method="fp8").read(["x.weight"])["x.weight"]
    assert torch.equal(read.float(), weight.float())


# --- compressed-tensors -------------------------------------------------------------------------


def compressed(
    format_name: str, weight: Tensor, scale: Tensor, extra: dict[str, Tensor], **arguments: Any
) -> tuple[dict[str, Tensor], Tensor, dict[str, Any]]:
    """A module compressed by the library, the weight that the library recovers, the settings."""
    pytest.importorskip("compressed_tensors")
    from compressed_tensors.compressors import BaseCompressor
    from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme

    weights = QuantizationArgs(**arguments)
    scheme = QuantizationScheme(targets=["Linear"], weights=weights)
    library = BaseCompressor.get_value_from_registry(format_name)
    state = library.compress({"weight": weight, "weight_scale": scale, **extra}, scheme)
    recovered = library.decompress(dict(state), scheme)["weight"]
    group = json.loads(scheme.model_dump_json())
    settings = {
        "quant_method": "compressed-tensors",
        "format": format_name,
        "config_groups": {"group_0": group},
    }
    return {f"x.{key}": value for key, value in state.items()}, recovered, settings


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("group_size", [32, None])
def test_compressed_packed_integers(
    save: Callable[..., Checkpoint], bits: int, symmetric: bool, group_size: int | None
) -> None:
    groups = IN // group_size if group_size else 1
    scale = torch.rand(OUT, groups) * 0.1
    zero = torch.randint(-(2 ** (bits - 1)), 2 ** (bits - 1), (OUT, groups)).to(torch.int8)
    tensors, recovered, settings = compressed(
        "pack-quantized",
        some_weight(),
        scale,
        {"weight_zero_point": torch.zeros_like(zero) if symmetric else zero},
        num_bits=bits,
        type="int",
        symmetric=symmetric,
        strategy="group" if group_size else "channel",
        group_size=group_size,
    )
    check(save(tensors, **settings), recovered)


@pytest.mark.parametrize(
    ("format_name", "kind", "strategy", "scale_shape", "more"),
    [
        ("int-quantized", "int", "channel", (OUT, 1), {}),
        ("int-quantized", "int", "tensor", (1,), {}),
        ("naive-quantized", "int", "group", (OUT, 3), {"group_size": 32}),
        ("float-quantized", "float", "channel", (OUT, 1), {}),
        ("float-quantized", "float", "tensor", (1,), {}),
        ("float-quantized", "float", "block", (2, 3), {"block_structure": [32, 32]}),
    ],
)
def test_compressed_eight_bit(
    save: Callable[..., Checkpoint],
    format_name: str,
    kind: str,
    strategy: str,
    scale_shape: tuple[int, ...],
    more: dict[str, Any],
) -> None:
    scale = torch.rand(scale_shape) * 0.01 + 0.001
    tensors, recovered, settings = compressed(
        format_name, some_weight(), scale, {}, num_bits=8, type=kind, strategy=strategy, **more
    )
    check(save(tensors, **settings), recovered)


def test_compressed_nvfp4(save: Callable[..., Checkpoint]) -> None:
    scale = (torch.rand(OUT, IN // 16) + 0.1).to(torch.float8_e4m3fn).float()
    tensors, recovered, settings = compressed(
        "nvfp4-pack-quantized", some_weight(), scale, {"weight_global_scale": torch.tensor([7.0])},
        num_bits=4, type="float", strategy="tensor_group", group_size=16,
    )  # fmt: skip
    check(save(tensors, **settings), recovered, rtol=2**-7)  # the library multiplies in bfloat16


@pytest.mark.parametrize(
    ("format_name", "bits"), [("mxfp4-pack-quantized", 4), ("mxfp8-quantized", 8)]
)
def test_compressed_mx(save: Callable[..., Checkpoint], format_name: str, bits: int) -> None:
    scale = torch.exp2(torch.randint(-6, 0, (OUT, IN // 32)).float())
    tensors, recovered, settings = compressed(
        format_name, some_weight(), scale, {},
        num_bits=bits, type="float", strategy="group", group_size=32, scale_dtype="torch.uint8",
    )  # fmt: skip
    check(save(tensors, **settings), recovered)


# --- MXFP4 of gpt-oss ---------------------------------------------------------------------------


def test_mxfp4_experts(save: Callable[..., Checkpoint]) -> None:
    from transformers.integrations.mxfp4 import convert_moe_packed_tensors

    torch.manual_seed(0)
    blocks = torch.randint(0, 256, (3, OUT, 3, 16), dtype=torch.uint8)
    scales = torch.randint(118, 130, (3, OUT, 3), dtype=torch.uint8)
    expected = convert_moe_packed_tensors(blocks.clone(), scales.clone(), dtype=torch.float32)
    name = "experts.gate_up_proj"
    tensors = {f"{name}_blocks": blocks, f"{name}_scales": scales}
    checkpoint = save(tensors, quant_method="mxfp4")
    assert checkpoint.entry(name).shape == tuple(expected.shape) == (3, IN, OUT)
    assert torch.equal(checkpoint.read([name])[name], expected)
    assert torch.equal(checkpoint.read_rows(name, [2, 0]), expected[[2, 0]])


# --- refusals -----------------------------------------------------------------------------------


WORDS = torch.zeros(4, 8, dtype=torch.int32)


def test_unknown_schemes_are_named(save: Callable[..., Checkpoint]) -> None:
    for end, method in ((".codebooks", "AQLM"), (".q_groups", "EXL2"), (".trellis", "EXL3"),
                        (".Qidxs", "QuIP#"), (".weight_qdata", "an older torchao")):  # fmt: skip
        with pytest.raises(
            UnsupportedModelError,
            match=f"quantised by {method}, which huref cannot read; supported: gptq.*; give the",
        ):
            _ = save({f"x{end}": WORDS}, quant_method="anything").names


BROKEN: dict[str, tuple[dict[str, Tensor], dict[str, object]]] = {
    "gptq bits": ({"x.qweight": WORDS}, {"quant_method": "gptq", "bits": 5}),
    "gptq without scales": ({"x.qweight": WORDS}, {"quant_method": "gptq", "bits": 4}),
    "gptq scales of another width": (
        {"x.qweight": WORDS, "x.scales": torch.ones(1, 9), "x.qzeros": WORDS},
        {"quant_method": "gptq", "bits": 4},
    ),
    "gptq without groups": (
        {"x.qweight": WORDS, "x.scales": torch.ones(0, 8), "x.qzeros": WORDS},
        {"quant_method": "gptq", "bits": 4},
    ),
    "gptq with too few zero points": (
        {"x.qweight": WORDS, "x.scales": torch.ones(4, 8), "x.qzeros": WORDS[:, :0]},
        {"quant_method": "gptq", "bits": 4},
    ),
    "gptq group index out of range": (
        {"x.qweight": WORDS, "x.scales": torch.ones(4, 8), "x.qzeros": WORDS[:, :1],
         "x.g_idx": torch.full((32,), 99)},
        {"quant_method": "gptq", "bits": 4},
    ),
    "config_groups is a list": (
        {"x.weight_packed": WORDS}, {"quant_method": "compressed-tensors", "config_groups": [1]},
    ),
    "block size is a string": (
        {"x.weight": torch.ones(4, 4).to(torch.float8_e4m3fn), "x.weight_scale": torch.ones(2, 2)},
        {"quant_method": "fp8", "weight_block_size": "no"},
    ),
    "awq gemv": ({"x.qweight": WORDS}, {"quant_method": "awq", "bits": 4, "version": "gemv"}),
    "awq scales": (
        {"x.qweight": WORDS, "x.scales": torch.ones(1, 9), "x.qzeros": WORDS},
        {"quant_method": "awq", "bits": 4},
    ),
    "nf4 state is not JSON": (
        {"x.weight": WORDS, "x.weight.quant_state.bitsandbytes__nf4": torch.zeros(9).byte()},
        {"quant_method": "bitsandbytes"},
    ),
    "nf4 state of another shape": (
        {
            "x.weight": WORDS,
            "x.weight.quant_state.bitsandbytes__nf4": torch.tensor(
                list(b'{"shape": [4096, 4096], "blocksize": 64}'), dtype=torch.uint8
            ),
        },
        {"quant_method": "bitsandbytes"},
    ),
    "int8 scales": (
        {"x.weight": WORDS.char(), "x.SCB": torch.ones(9)},
        {"quant_method": "bitsandbytes"},
    ),
    "fp8 scale": (
        {"x.weight": torch.ones(300, 300).to(torch.float8_e4m3fn),
         "x.weight_scale_inv": torch.ones(7, 5)},
        {"quant_method": "fp8"},
    ),
    "packed without a width": ({"x.weight_packed": WORDS}, {"quant_method": "compressed-tensors"}),
    "mxfp4 scales": (
        {"x_blocks": torch.zeros(2, 4, 1, 16).byte(), "x_scales": torch.zeros(2, 5, 1).byte()},
        {"quant_method": "mxfp4"},
    ),
}  # fmt: skip


@pytest.mark.parametrize("fault", BROKEN)
def test_inconsistent_parts_are_refused(save: Callable[..., Checkpoint], fault: str) -> None:
    tensors, settings = BROKEN[fault]
    checkpoint = save(tensors, **settings)
    with pytest.raises(CheckpointError):
        checkpoint.read(checkpoint.names)


def test_integers_without_scales_are_refused(save: Callable[..., Checkpoint]) -> None:
    checkpoint = save({"x.weight": WORDS.char()}, quant_method="bitsandbytes")
    with pytest.raises(WeightsError, match=r"'x\.weight': it holds integers"):
        read_tensors(checkpoint, {"x": "x.weight"})


# --- forms that people have, as the packages write them; see docs/formats.md --------------------


@pytest.mark.parametrize("bits", [2, 3, 4, 5, 6, 8])
@pytest.mark.parametrize("group", [32, 64, 128])
def test_mlx_affine(save: Callable[..., Checkpoint], bits: int, group: int) -> None:
    torch.manual_seed(bits * group)
    codes = torch.randint(0, 2**bits, (2, 8, 256))
    scales, biases = torch.rand(2, 8, 256 // group) + 0.1, torch.randn(2, 8, 256 // group)
    expected = (codes.view(2, 8, -1, group) * scales[..., None] + biases[..., None]).flatten(-2)
    stack = {"s.weight": pack_bits(codes, bits), "s.scales": scales, "s.biases": biases}
    matrix = {name.replace("s.", "m.", 1): tensor[0].clone() for name, tensor in stack.items()}
    other = 4 if bits != 4 else 8
    settings = {"bits": other, "group_size": 64,
                **{name: {"bits": bits, "group_size": group} for name in "ms"}}  # fmt: skip
    checkpoint = save({**stack, **matrix, "x.weight": torch.ones(2, 2)}, **settings)
    read = checkpoint.read(["m.weight", "s.weight", "x.weight"])
    torch.testing.assert_close(read["s.weight"], expected)
    torch.testing.assert_close(read["m.weight"], expected[0])
    rows = checkpoint.read_rows("m.weight", [7, 0])
    torch.testing.assert_close(rows, expected[0][[7, 0]])
    told = checkpoint.describe_files()["quantisation"]
    assert told == f"mlx, {other} bits, {bits} in some modules"


def test_mlx_floats(save: Callable[..., Checkpoint]) -> None:
    torch.manual_seed(0)
    codes = torch.randint(0, 16, (4, 64))
    values = torch.tensor(E2M1)[codes].view(4, -1, 32)
    exponent = torch.randint(120, 130, (4, 2)).byte()
    checkpoint = save(
        {"x.weight": pack_bits(codes, 4), "x.scales": exponent},
        bits=4, group_size=32, mode="mxfp4",
    )  # fmt: skip
    expected = (values * torch.exp2(exponent.float() - 127)[..., None]).flatten(-2)
    torch.testing.assert_close(checkpoint.read(["x.weight"])["x.weight"], expected)


@pytest.mark.parametrize("stack", [(), (3,)])
def test_modelopt_nvfp4(save: Callable[..., Checkpoint], stack: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    codes = torch.randint(0, 16, (*stack, 8, 64))
    packed = (codes[..., 0::2] | codes[..., 1::2] << 4).byte()
    scale = (torch.rand(*stack, 8, 4) + 0.5).to(torch.float8_e4m3fn)
    total = torch.rand(stack) + 0.5
    factors = scale.float() * total.reshape(*stack, 1, 1)
    expected = (torch.tensor(E2M1)[codes].view(*stack, 8, 4, 16) * factors[..., None]).flatten(-2)
    tensors = {"x.weight": packed, "x.weight_scale": scale, "x.weight_scale_2": total,
               "x.input_scale": torch.tensor(0.1)}  # fmt: skip
    checkpoint = save(tensors, quant_method="modelopt", quant_algo="NVFP4")
    torch.testing.assert_close(checkpoint.read(["x.weight"])["x.weight"], expected)
    torch.testing.assert_close(checkpoint.read_rows("x.weight", [2, 0]), expected[[2, 0]])
    assert set(checkpoint.names) == {"norm.weight", "x.weight"}
    assert checkpoint.describe_files()["quantisation"] == "modelopt NVFP4"


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("offset", [0, 1])
def test_gptq_widths_are_those_of_each_module(
    save: Callable[..., Checkpoint], bits: int, offset: int
) -> None:
    torch.manual_seed(bits)
    codes = torch.randint(0, 2**bits, (64, 32))
    zeros = torch.randint(1, 2**bits, (2, 32))
    scales = torch.rand(2, 32) + 0.1
    expected = ((codes.view(2, 32, 32) - zeros[:, None]) * scales[:, None]).flatten(0, 1).T
    tensors = {
        "x.qweight": pack_bits(codes.T, bits).view(torch.int32).T.contiguous(),
        "x.qzeros": pack_bits(zeros - offset, bits).view(torch.int32),
        "x.scales": scales,
    }
    settings = {"bits": 4 if bits != 4 else 8, "dynamic": {"+:x": {"bits": bits}},
                "checkpoint_format": "gptq" if offset else "gptq_v2"}  # fmt: skip
    checkpoint = save(tensors, quant_method="gptq", **settings)
    torch.testing.assert_close(checkpoint.read(["x.weight"])["x.weight"], expected)
    packing = "auto_round:auto_gptq" if offset else "auto_round"
    checkpoint = save(tensors, quant_method="auto-round", packing_format=packing, bits=4)
    torch.testing.assert_close(checkpoint.read(["x.weight"])["x.weight"], expected)


def test_compressed_tensors_with_several_widths(save: Callable[..., Checkpoint]) -> None:
    torch.manual_seed(0)
    tensors: dict[str, Tensor] = {}
    expected = {}
    for name, bits in (("a", 4), ("b", 8)):
        codes = torch.randint(0, 2**bits, (8, 64))
        scale = torch.rand(8, 2) + 0.1
        tensors |= {f"{name}.weight_packed": pack_bits(codes, bits).view(torch.int32),
                    f"{name}.weight_scale": scale,
                    f"{name}.weight_shape": torch.tensor([8, 64])}  # fmt: skip
        signed = (codes - 2 ** (bits - 1)).view(8, 2, 32)
        expected[f"{name}.weight"] = (signed * scale[..., None]).flatten(1)
    groups = {f"group_{b}": {"weights": {"num_bits": b}} for b in (4, 8)}
    checkpoint = save(tensors, quant_method="compressed-tensors", config_groups=groups)
    read = checkpoint.read(expected)
    for name, tensor in expected.items():
        torch.testing.assert_close(read[name], tensor)


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_hqq(save: Callable[..., Checkpoint], bits: int, axis: int) -> None:
    torch.manual_seed(bits)
    grouped = torch.randint(0, 2**bits, (32, 64) if axis == 1 else (64, 32))
    scale, zero = (torch.rand((32, 1) if axis == 1 else (1, 32)) for _ in range(2))
    each = 8 // bits
    parts = grouped.chunk(each)
    packed = sum(part << bits * (each - 1 - i) for i, part in enumerate(parts))
    assert isinstance(packed, Tensor)
    tensors = {"x.W_q": packed.byte(), "x.scale": scale, "x.zero": zero,
               "x.shape": torch.tensor([16, 128]), "x.axis": torch.tensor(axis),
               "x.nbits": torch.tensor(bits), "x.group_size": torch.tensor(64)}  # fmt: skip
    checkpoint = save(tensors, quant_method="hqq")
    expected = ((grouped - zero) * scale).reshape(16, 128)
    torch.testing.assert_close(checkpoint.read(["x.weight"])["x.weight"], expected)


def test_bitnet_and_quanto(save: Callable[..., Checkpoint]) -> None:
    torch.manual_seed(0)
    ternary = torch.randint(-1, 2, (16, 8))
    packed = sum((part + 1) << 2 * i for i, part in enumerate(ternary.chunk(4)))
    assert isinstance(packed, Tensor)
    tensors = {"x.weight": packed.byte(), "x.weight_scale": torch.tensor([4.0])}
    checkpoint = save(tensors, quant_method="bitnet", quantization_mode="offline")
    torch.testing.assert_close(checkpoint.read(["x.weight"])["x.weight"], ternary / 4)
    data, scale = torch.randint(-127, 128, (4, 8)).to(torch.int8), torch.rand(4, 1)
    checkpoint = save({"x.weight._data": data, "x.weight._scale": scale}, quant_method="quanto")
    torch.testing.assert_close(checkpoint.read(["x.weight"])["x.weight"], data * scale)
    checkpoint = save({"x.weight._data": data.view(torch.uint8), "x.weight._scale": scale,
                       "x.weight._shift": scale}, quant_method="quanto")  # fmt: skip
    with pytest.raises(CheckpointError, match=r"fewer than 8 bits.*give the model"):
        _ = checkpoint.read(["x.weight"])


@pytest.mark.parametrize("groups", [1, 3])
@pytest.mark.parametrize("dtype", [torch.int8, torch.float8_e4m3fn])
def test_torchao_blocks(save: Callable[..., Checkpoint], groups: int, dtype: torch.dtype) -> None:
    torch.manual_seed(groups)
    data = torch.randint(-8, 8, (OUT, IN)).to(dtype)
    scale = torch.rand(OUT, groups) + 0.1
    zero = torch.randint(-3, 4, (OUT, groups)).to(torch.int8)
    spread = IN // groups
    expected = data.float() * scale.repeat_interleave(spread, 1)
    checkpoint = save({"x._weight_qdata": data, "x._weight_scale": scale}, quant_method="torchao")
    check(checkpoint, expected)
    assert checkpoint.describe_files()["quantisation"] == "torchao"
    expected = (data.float() - zero.repeat_interleave(spread, 1)) * scale.repeat_interleave(
        spread, 1
    )
    check(save({"x._weight_qdata": data, "x._weight_scale": scale, "x._weight_zero_point": zero}),
          expected)  # fmt: skip


@pytest.mark.parametrize("stack", [(), (3,)])
def test_torchao_int4(save: Callable[..., Checkpoint], stack: tuple[int, ...]) -> None:
    """torchao's Int4Tensor: signed nibbles, low first; scales and zeros transposed."""
    torch.manual_seed(0)
    signed = torch.randint(-8, 8, (*stack, 8, 64))
    packed = (signed[..., 0::2] & 15 | (signed[..., 1::2] & 15) << 4).byte().view(torch.int8)
    scale, zero = torch.rand(*stack, 2, 8) + 0.1, torch.randn(*stack, 2, 8)
    checkpoint = save(
        {"e._gate_up_qdata": packed, "e._gate_up_scale": scale, "e._gate_up_zero_point": zero}
    )
    spread_scale, spread_zero = (t.mT.repeat_interleave(32, -1) for t in (scale, zero))
    expected = signed * spread_scale + spread_zero
    torch.testing.assert_close(checkpoint.read(["e.gate_up"])["e.gate_up"], expected)
    torch.testing.assert_close(checkpoint.read_rows("e.gate_up", [2, 0]), expected[[2, 0]])


def test_scales_of_a_stack_of_8_bit_experts(save: Callable[..., Checkpoint]) -> None:
    torch.manual_seed(0)
    stack = torch.randn(3, 8, 16).to(torch.float8_e4m3fn)
    scale = torch.rand(3, 2, 4)
    checkpoint = save(
        {"m.experts.gate_up_proj": stack, "m.experts.gate_up_proj_scale_inv": scale},
        quant_method="fp8", weight_block_size=[4, 4],
    )  # fmt: skip
    name = "m.experts.gate_up_proj"
    expected = stack.float() * scale.repeat_interleave(4, 1).repeat_interleave(4, 2)
    torch.testing.assert_close(checkpoint.read([name])[name], expected)


HALF_MADE = {
    "mlx scales of another height": {
        "x.weight": torch.zeros(4, 8).to(torch.uint32), "x.scales": torch.ones(5, 1),
        "x.biases": torch.ones(5, 1)},
    "mlx with too many groups": {
        "x.weight": torch.zeros(4, 8).to(torch.uint32), "x.scales": torch.ones(4, 999),
        "x.biases": torch.ones(4, 999)},
    "mlx without biases": {
        "x.weight": torch.zeros(4, 8).to(torch.uint32), "x.scales": torch.ones(4, 1)},
    "nvfp4 with no scales": {
        "x.weight": torch.zeros(4, 8).byte(), "x.weight_scale": torch.ones(4, 0),
        "x.weight_scale_2": torch.ones(())},
    "nvfp4 scales that do not divide": {
        "x.weight": torch.zeros(4, 8).byte(), "x.weight_scale": torch.ones(4, 5),
        "x.weight_scale_2": torch.ones(())},
    "nvfp4 times a scale of inputs": {
        "x.weight": torch.zeros(4, 8).byte(), "x.weight_scale": torch.ones(4, 1),
        "x.pre_quant_scale": torch.ones(16)},
    "hqq without a shape": {"x.W_q": torch.zeros(4, 8).byte(), "x.scale": torch.ones(4, 1)},
    "hqq of a huge shape": {
        "x.W_q": torch.zeros(4, 8).byte(), "x.scale": torch.ones(4, 1), "x.zero": torch.ones(4, 1),
        "x.shape": torch.tensor([2**31, 2**31]), "x.axis": torch.tensor(1)},
    "hqq of another shape": {
        "x.W_q": torch.zeros(4, 8).byte(), "x.scale": torch.ones(4, 1), "x.zero": torch.ones(4, 1),
        "x.shape": torch.tensor([3, 5]), "x.axis": torch.tensor(1)},
    "torchao in tiles of a kernel": {
        "x._weight_qdata": torch.zeros(1, 2, 32, 4).int(),
        "x._weight_scale_and_zero": torch.ones(2, 8, 2)},
    "torchao with scales of another height": {
        "x._weight_qdata": torch.zeros(4, 8).char(), "x._weight_scale": torch.ones(5, 1)},
    "torchao with scales of no size": {
        "x._weight_qdata": torch.zeros(4, 8).char(), "x._weight_scale": torch.ones(4, 0)},
    "torchao with scales of 8 bits": {
        "x._weight_qdata": torch.zeros(4, 8).byte(),
        "x._weight_scale": torch.ones(4, 1).to(torch.float8_e4m3fn)},
    "torchao times a scale of inputs": {
        "x._weight_qdata": torch.zeros(4, 8).char(), "x._weight_scale": torch.ones(4, 1),
        "x._weight_act_pre_scale": torch.ones(8)},
    "torchao's 4 bits with odd groups": {
        "x._weight_qdata": torch.zeros(4, 8).char(), "x._weight_scale": torch.ones(3, 4),
        "x._weight_zero_point": torch.ones(3, 4)},
    "quanto of 4 bits": {
        "x.weight._data._data": torch.zeros(4, 8).byte(), "x.weight._scale": torch.ones(8, 1),
        "x.weight._shift": torch.ones(8, 1)},
    "gptq with zero points of no width": {
        "x.qweight": WORDS, "x.scales": torch.ones(1, 8), "x.qzeros": torch.zeros(1, 99).int()},
}  # fmt: skip


@pytest.mark.parametrize("fault", HALF_MADE)
def test_half_made_forms_are_refused(save: Callable[..., Checkpoint], fault: str) -> None:
    checkpoint = save(HALF_MADE[fault])
    with pytest.raises(CheckpointError):
        checkpoint.read(checkpoint.names)


# --- forms whose settings are not there, or that say little -------------------------------------


def test_packed_forms_without_settings(save: Callable[..., Checkpoint]) -> None:
    """The shapes say what AWQ and BitNet are."""
    integers, scales, zeros = round_groups(some_weight(), 4, 32)
    spread = [part.repeat_interleave(32, 1) for part in (scales, zeros)]
    parts = {f"x{end}": part for end, part in awq(some_weight(), 32).items()}
    check(save(parts), (integers - spread[1]) * spread[0], 1e-3)
    parts = {f"x{end}": part for end, part in bitnet(some_weight()).items()}
    check(save(parts), ternary(some_weight()) * some_weight().abs().mean(), 1e-5)


def test_bytes_of_nf4_stored_as_other_numbers(save: Callable[..., Checkpoint]) -> None:
    """bitsandbytes' quant_storage, which FSDP needs."""
    torch.manual_seed(1)
    packed = torch.randint(0, 60, (OUT * IN // 2, 1), dtype=torch.uint8)  # no bytes of a NaN
    text = json.dumps({"blocksize": 64, "dtype": "float32", "shape": [OUT, IN]})
    parts = {
        "x.weight.absmax": torch.rand(OUT * IN // 64),
        "x.weight.quant_map": torch.linspace(-1, 1, 16),
        "x.weight.quant_state.bitsandbytes__nf4": torch.tensor(list(text.encode())).byte(),
    }
    plain = save({"x.weight": packed, **parts}).read(["x.weight"])["x.weight"]
    for dtype in (torch.bfloat16, torch.float32):
        check(save({"x.weight": packed.view(-1).view(dtype)[:, None], **parts}), plain)


def test_affine_modules_of_a_model_in_mxfp4(save: Callable[..., Checkpoint]) -> None:
    """As gpt-oss in MLX; a module's own settings without a mode are affine."""
    parts = {f"x{end}": part for end, part in mlx_affine(some_weight(), 8, 32).items()}
    own = {"bits": 8, "group_size": 32}
    settings: dict[str, Any] = {"bits": 4, "group_size": 32, "mode": "mxfp4"}
    check(save(parts, **settings, x=own), rounded(some_weight(), 8, 32))
    with pytest.raises(CheckpointError, match=r"neither 4 bits nor groups of 32.*fits several"):
        save(parts, **settings).read(["x.weight"])
