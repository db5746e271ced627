"""Files of the packages that quantise models, against each package's own dequantisation.

None of these packages is a dependency of huref or of its tests; each test is skipped where its
package is missing. To run one, make an environment with the package and huref's own dependencies,
and run this file in it. docs/formats.md has the releases with which they passed.
"""

import gc
import importlib
import importlib.util
import json
import re
import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import huref
from huref.errors import CheckpointError, UnsupportedModelError
from huref.loader.checkpoint import open_checkpoint
from tests.support.quantised_writers import Parts, round_groups, write_quantised
from tests.support.small_models import some_words, write_tokenizer

pytestmark = pytest.mark.slow
HALF = 2**-8  # relative rounding of bfloat16, to which packages round what they dequantise
Quantise = Callable[[Path], Path]


@pytest.fixture
def source(make_llama: Callable[..., Path]) -> Path:
    """A random Llama whose matrices divide into the groups of every package."""
    folder = make_llama(
        "source", hidden_size=128, intermediate_size=256, num_hidden_layers=4, head_dim=32
    )
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast"}')
    return folder


@pytest.fixture(autouse=True)
def collected() -> Iterator[None]:
    yield
    gc.collect()


def load_model(folder: Path, **arguments: Any) -> Any:
    import transformers

    return transformers.AutoModelForCausalLM.from_pretrained(folder, **arguments)


def check(folder: Path, source: Path, expected: dict[str, Tensor], rtol: float) -> None:
    """Every matrix is the package's, within `rtol` of its largest number; the ICS is printed.

    The similarity to the source must be what the package's own dequantised matrices have.
    """
    write_tokenizer(folder, some_words(2048))
    checkpoint = open_checkpoint(str(folder))
    linear = [name for name in expected if name.endswith("_proj.weight")]
    assert len(linear) == 28
    for name in linear:
        read = checkpoint.read([name])[name].float()
        difference = (read - expected[name].float()).abs().max()
        assert difference <= rtol * expected[name].float().abs().max(), name
        assert torch.equal(checkpoint.read_rows(name, [5, 0]).float(), read[[5, 0]]), name
    assert checkpoint.describe_files()["quantisation"], "it says how it is quantised"
    pair = huref.compare([str(folder), str(source)], cache=False).pairs[0]
    ics = pair.similarity.ics
    assert ics is not None
    print(f"ICS {ics:.4f} {pair.evidence.verdict} {checkpoint.describe_files()['quantisation']}")
    assert pair.evidence.verdict == "descends"
    assert ics > 0.6  # two bits leave this much of a random matrix


# --- torchao ------------------------------------------------------------------------------------


def torchao_settings(name: str) -> Any:
    quantization = pytest.importorskip("torchao.quantization")
    group = quantization.PerGroup(32)
    types: Any = torch  # whose stubs lack these
    int3, int4 = types.int3, types.int4
    match name:
        case "int8":
            return quantization.Int8WeightOnlyConfig(version=2)
        case "int8 groups":
            return quantization.Int8WeightOnlyConfig(version=2, granularity=group)
        case "float8":
            return quantization.Float8WeightOnlyConfig()
        case "int4 symmetric":
            return quantization.IntxWeightOnlyConfig(int4, group)
        case "int4":
            asymmetric = quantization.MappingType.ASYMMETRIC
            return quantization.IntxWeightOnlyConfig(int4, group, mapping_type=asymmetric)
    return quantization.IntxWeightOnlyConfig(int3, quantization.PerAxis(0))


@pytest.mark.parametrize(
    "name", ["int8", "int8 groups", "float8", "int4 symmetric", "int4", "int3"]
)
def test_torchao(source: Path, tmp_path: Path, name: str) -> None:
    pytest.importorskip("torchao")
    import transformers

    settings = transformers.TorchAoConfig(torchao_settings(name))
    model = load_model(source, quantization_config=settings, dtype=torch.bfloat16)
    model.save_pretrained(tmp_path / "quantised")
    expected = {
        key: value.dequantize() if hasattr(value, "dequantize") and type(value) is not Tensor
        else value
        for key, value in model.state_dict().items()
    }  # fmt: skip
    check(tmp_path / "quantised", source, expected, HALF)


# --- optimum-quanto -----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["qint8", "qfloat8", "qint4", "qint2"])
def test_quanto(source: Path, tmp_path: Path, kind: str) -> None:
    quanto = pytest.importorskip("optimum.quanto")
    model = quanto.QuantizedModelForCausalLM.quantize(
        load_model(source), weights=getattr(quanto, kind)
    )
    model.save_pretrained(tmp_path / "quantised")
    if kind in ("qint4", "qint2"):
        write_tokenizer(tmp_path / "quantised", some_words(2048))
        with pytest.raises(CheckpointError, match=r"fewer than 8 bits.*give the model"):
            huref.fingerprint(str(tmp_path / "quantised"))
        return
    modules = dict(model.named_modules())
    expected = {
        f"{name}.weight": module.weight.dequantize()
        for name, module in modules.items()
        if name.endswith("_proj")
    }
    expected = {name.removeprefix("_wrapped."): tensor for name, tensor in expected.items()}
    check(tmp_path / "quantised", source, expected, 1e-6)


# --- HQQ ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_hqq(source: Path, tmp_path: Path, bits: int, axis: int) -> None:
    quantize = pytest.importorskip("hqq.core.quantize")
    from safetensors.torch import save_file

    settings = quantize.BaseQuantizeConfig(nbits=bits, group_size=64, axis=axis)
    tensors: dict[str, Tensor] = {}
    expected: dict[str, Tensor] = {}
    for name, tensor in load_model(source).state_dict().items():
        if not name.endswith("_proj.weight"):
            tensors[name] = tensor
            continue
        linear = torch.nn.Linear(tensor.shape[1], tensor.shape[0], bias=False)
        linear.weight.data = tensor
        layer = quantize.HQQLinear(linear, settings, compute_dtype=torch.float32, device="cpu")
        expected[name] = layer.dequantize()
        stem = name.removesuffix(".weight")
        for key, part in layer.state_dict().items():
            tensors[f"{stem}.{key}"] = part if torch.is_tensor(part) else torch.tensor(part)
    folder = tmp_path / "quantised"
    folder.mkdir()
    save_file({k: v.contiguous().clone() for k, v in tensors.items()}, folder / "model.safetensors")
    (folder / "config.json").write_text((source / "config.json").read_text())
    check(folder, source, expected, 1e-6)


# --- MLX ----------------------------------------------------------------------------------------

MLX = [("affine", bits, group) for bits in (2, 3, 4, 5, 6, 8) for group in (32, 64, 128)]
MLX += [("mxfp4", 4, 32), ("nvfp4", 4, 16), ("mxfp8", 8, 32)]


@pytest.mark.parametrize(("mode", "bits", "group"), MLX)
def test_mlx(source: Path, tmp_path: Path, mode: str, bits: int, group: int) -> None:
    mlx_lm = pytest.importorskip("mlx_lm")
    mx = pytest.importorskip("mlx.core")
    folder = tmp_path / "quantised"
    mlx_lm.convert(
        str(source), str(folder), quantize=True, q_bits=bits, q_group_size=group, q_mode=mode,
        dtype="float32",
    )  # fmt: skip
    stored = mx.load(str(folder / "model.safetensors"))
    expected = {}
    for name in stored:
        if name.endswith(".scales"):
            stem = name.removesuffix(".scales")
            plain = mx.dequantize(
                stored[f"{stem}.weight"], stored[name], stored.get(f"{stem}.biases"),
                group_size=group, bits=bits, mode=mode,
            )  # fmt: skip
            expected[f"{stem}.weight"] = torch.tensor(plain.astype(mx.float32).tolist())
    check(folder, source, expected, HALF if mode != "affine" else 1e-6)


@pytest.mark.parametrize("named", ["apart", "together"])
def test_mlx_settings_of_single_modules(source: Path, tmp_path: Path, named: str) -> None:
    """4 bits in groups of 64 and 8 bits in groups of 32 have the same shapes."""
    mlx_lm = pytest.importorskip("mlx_lm")
    mx = pytest.importorskip("mlx.core")
    folder = tmp_path / "quantised"
    eight, four = ({"bits": b, "group_size": g, "mode": "affine"} for b, g in ((8, 32), (4, 64)))

    def choose(name: str, _: Any) -> dict[str, Any]:
        return eight if "self_attn" in name else four

    mlx_lm.convert(
        str(source), str(folder), quantize=True, q_bits=4, q_group_size=64, dtype="float32",
        quant_predicate=choose,
    )  # fmt: skip
    if named == "apart":  # releases differ in the keys that they write
        config = json.loads((folder / "config.json").read_text())
        assert config.pop("quantization_config") == config["quantization"]
        (folder / "config.json").write_text(json.dumps(config))
    stored = mx.load(str(folder / "model.safetensors"))
    expected = {}
    for name in stored:
        if name.endswith(".scales"):
            stem = name.removesuffix(".scales")
            own = choose(stem, None)
            plain = mx.dequantize(
                stored[f"{stem}.weight"], stored[name], stored[f"{stem}.biases"],
                group_size=own["group_size"], bits=own["bits"],
            )  # fmt: skip
            expected[f"{stem}.weight"] = torch.tensor(plain.astype(mx.float32).tolist())
    check(folder, source, expected, 1e-6)


# --- NVIDIA ModelOpt ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["NVFP4_DEFAULT_CFG", "FP8_DEFAULT_CFG"])
def test_modelopt(source: Path, tmp_path: Path, name: str) -> None:
    """The export joins the scales of q, k and v, so what was exported is dequantised."""
    mtq = pytest.importorskip("modelopt.torch.quantization")
    from safetensors.torch import load_file

    export = pytest.importorskip("modelopt.torch.export")
    qtensor = pytest.importorskip("modelopt.torch.quantization.qtensor")

    model = load_model(source, dtype=torch.bfloat16)
    tokens = torch.arange(2, 34)[None]
    model = mtq.quantize(model, getattr(mtq, name), lambda model: model(tokens))
    folder = tmp_path / "quantised"
    export.export_hf_checkpoint(model, export_dir=str(folder))
    stored = load_file(folder / "model.safetensors")
    expected = {}
    for key in [key for key in stored if key.endswith("_proj.weight")]:
        data, scale = stored[key], stored[f"{key}_scale"]
        if name.startswith("NVFP4"):
            shape = torch.Size((data.shape[0], data.shape[1] * 2))
            packed = qtensor.NVFP4QTensor(shape, torch.float32, data)
            second = stored[f"{key}_scale_2"]
            expected[key] = packed.dequantize(
                scale=scale, double_scale=second, block_sizes={-1: 16}
            )
        else:
            packed = qtensor.FP8QTensor(data.shape, torch.float32, data)
            expected[key] = packed.dequantize(scale=scale)
    check(folder, source, expected, 1e-6)


# --- AutoRound ----------------------------------------------------------------------------------


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("form", ["auto_round", "auto_round:auto_gptq", "auto_round:auto_awq"])
def test_auto_round(source: Path, tmp_path: Path, form: str, bits: int) -> None:
    auto_round = pytest.importorskip("auto_round")
    import transformers

    if form.endswith("awq") and bits != 4:
        pytest.skip("the form has 4 bits")
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_file=str(source / "tokenizer.json"))

    def quantise(form: str) -> Path:
        rounding = auto_round.AutoRound(
            load_model(source), tokenizer, bits=bits, group_size=32, iters=0, device_map="cpu",
            disable_opt_rtn=True,
        )  # fmt: skip
        rounding.quantize_and_save(str(tmp_path / form.replace(":", "-")), format=form)
        return next((tmp_path / form.replace(":", "-")).rglob("config.json")).parent

    folder = quantise(form)
    # Of AWQ's packing, auto-round has no module for a CPU: the same rounding in its own packing.
    loaded = quantise("auto_round") if form.endswith("awq") else folder
    check(folder, source, matrices_of(load_model(loaded, device_map="cpu")), HALF)


def matrices_of(model: Any) -> dict[str, Tensor]:
    """What the linear modules of a loaded model give for the identity: their matrices."""
    found = {}
    for name, module in model.named_modules():
        if name.endswith("_proj"):
            columns = getattr(module, "in_features", None) or module.infeatures
            with torch.no_grad():
                found[f"{name}.weight"] = module(torch.eye(columns)).float().T
    return found


# --- llm-compressor -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "scheme", ["W4A16", "W4A16_ASYM", "W8A16", "W8A8", "FP8_DYNAMIC", "FP8_BLOCK", "NVFP4A16"]
)
def test_llm_compressor(source: Path, tmp_path: Path, scheme: str) -> None:
    llmcompressor = pytest.importorskip("llmcompressor")
    modifiers = pytest.importorskip("llmcompressor.modifiers.quantization")
    model = load_model(source, dtype=torch.bfloat16)
    recipe = modifiers.QuantizationModifier(targets="Linear", scheme=scheme, ignore=["lm_head"])
    llmcompressor.oneshot(model=model, recipe=recipe)
    folder = tmp_path / "quantised"
    model.save_pretrained(folder, save_compressed=True)
    import transformers

    plain = transformers.CompressedTensorsConfig(run_compressed=False)
    expected = load_model(folder, quantization_config=plain, dtype=torch.float32).state_dict()
    check(folder, source, expected, HALF)


# --- GPTQModel ----------------------------------------------------------------------------------


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("act_order", [False, True])
def test_gptqmodel(source: Path, tmp_path: Path, bits: int, act_order: bool) -> None:
    gptqmodel = pytest.importorskip("gptqmodel")
    settings = gptqmodel.QuantizeConfig(bits=bits, group_size=32, desc_act=act_order)
    model = gptqmodel.GPTQModel.load(str(source), settings, device="cpu")
    generator = torch.Generator().manual_seed(0)
    texts = [
        {"input_ids": torch.randint(0, 2048, (64,), generator=generator).tolist(),
         "attention_mask": [1] * 64} for _ in range(32)
    ]  # fmt: skip
    model.quantize(texts, batch_size=1)
    model.save(str(tmp_path / "quantised"))
    loaded = gptqmodel.GPTQModel.load(
        str(tmp_path / "quantised"), device="cpu", dtype=torch.float16,
        backend=gptqmodel.BACKEND.TORCH,
    )  # fmt: skip
    expected = {
        f"model.{name.partition('layers.')[1]}{name.partition('layers.')[2]}.weight":
            module.dequantize_weight().T
        for name, module in loaded.named_modules()
        if hasattr(module, "dequantize_weight")
    }  # fmt: skip
    check(tmp_path / "quantised", source, expected, HALF)


# --- bitsandbytes -------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["nf4", "fp4", "nf4 twice", "int8"])
def test_bitsandbytes(source: Path, tmp_path: Path, kind: str) -> None:
    pytest.importorskip("bitsandbytes")
    functional = pytest.importorskip("bitsandbytes.functional")
    import transformers

    if kind == "int8":
        settings = transformers.BitsAndBytesConfig(load_in_8bit=True)
    else:
        settings = transformers.BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type=kind[:3],
            bnb_4bit_use_double_quant="twice" in kind,
        )  # fmt: skip
    model = load_model(source, quantization_config=settings, device_map="cpu", dtype=torch.bfloat16)
    model.save_pretrained(tmp_path / "quantised")
    expected = {}
    for name, module in model.named_modules():
        if name.endswith("_proj"):
            weight = module.weight
            expected[f"{name}.weight"] = (
                functional.int8_vectorwise_dequant(weight.data, weight.SCB)
                if kind == "int8"
                else functional.dequantize_4bit(weight.data, weight.quant_state)
            )
    check(tmp_path / "quantised", source, expected, HALF)


# --- AutoAWQ ------------------------------------------------------------------------------------


def test_autoawq(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its packing, of matrices that are rounded here: its own rounding needs older releases."""
    found = importlib.util.find_spec("awq")
    if found is None:
        pytest.skip("autoawq is not installed")
    package = types.ModuleType("awq")  # without its __init__, which needs an older transformers
    package.__path__ = list(found.submodule_search_locations or [])
    monkeypatch.setitem(sys.modules, "awq", package)
    gemm = importlib.import_module("awq.modules.linear.gemm")
    packing = importlib.import_module("awq.utils.packing_utils")
    expected = {}

    def write(name: str, weight: Tensor) -> Parts:
        integers, scales, zeros = round_groups(weight, 4, 32)
        spread = [part.repeat_interleave(32, 1) for part in (scales, zeros)]
        linear = torch.nn.Linear(weight.shape[1], weight.shape[0], bias=False)
        linear.weight.data = (integers - spread[1]) * spread[0]
        packed = gemm.WQLinear_GEMM.from_linear(
            linear, 4, 32, scales=scales.T.contiguous(), zeros=zeros.T.contiguous()
        )
        expected[name] = packing.dequantize_gemm(
            packed.qweight, packed.qzeros, packed.scales, 4, 32
        ).T
        return {f".{end}": part for end, part in packed.state_dict().items()}

    settings = {"quant_method": "awq", "bits": 4, "group_size": 32, "version": "gemm"}
    write_quantised(source, tmp_path / "quantised", write, {"quantization_config": settings})
    check(tmp_path / "quantised", source, expected, 2**-10)


# --- what is refused ----------------------------------------------------------------------------


def test_forms_of_one_device_are_refused(tmp_path: Path, source: Path) -> None:
    """torchao's tiles for one kernel; written by hand, since they are made on a GPU only."""
    from safetensors.torch import load_file, save_file

    tensors = load_file(source / "model.safetensors")
    for name in [name for name in tensors if name.endswith("_proj.weight")]:
        stem = name.removesuffix("weight")
        del tensors[name]
        tensors[f"{stem}_weight_qdata"] = torch.zeros(4, 4, 32, 4, dtype=torch.int32)
        tensors[f"{stem}_weight_scale_and_zero"] = torch.zeros(4, 32, 2)
    folder = tmp_path / "tiles"
    folder.mkdir()
    save_file(tensors, folder / "model.safetensors")
    (folder / "config.json").write_text((source / "config.json").read_text())
    write_tokenizer(folder, some_words(2048))
    with pytest.raises((CheckpointError, UnsupportedModelError), match=r"kernels.*give the model"):
        huref.fingerprint(str(folder))


MLX_ADAPTERS: dict[str, tuple[str, dict[str, Any]]] = {
    "LoRA": ("lora", {}),
    "LoRA of all matrices of two blocks": ("lora", {"num_layers": 2}),
    "LoRA of queries and the embeddings": (
        "lora", {"keys": ["self_attn.q_proj", "model.embed_tokens"]},
    ),
    "DoRA": ("dora", {}),
    "DoRA of the embeddings": ("dora", {"keys": ["mlp.up_proj", "model.embed_tokens"]}),
    "LoRA of a four-bit base": ("lora", {"bits": 4}),
    "DoRA of a four-bit base": ("dora", {"bits": 4}),
    "LoRA of experts": ("lora", {"mixture": True}),
    "all weights": ("full", {"num_layers": 2}),
}  # fmt: skip


@pytest.mark.parametrize("name", MLX_ADAPTERS)
def test_adapters_are_merged_as_mlx_lm_does(
    make_llama: Callable[..., Path],
    source: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
) -> None:
    mlx_lm = pytest.importorskip("mlx_lm")
    mx = pytest.importorskip("mlx.core")
    fuse = pytest.importorskip("mlx_lm.fuse")

    kind, settings = MLX_ADAPTERS[name]
    if settings.get("mixture"):
        source = make_llama(
            "mixture", "Mixtral", hidden_size=128, intermediate_size=192, num_local_experts=4,
            num_experts_per_tok=2, head_dim=32,
        )  # fmt: skip
        (source / "tokenizer_config.json").write_text(
            '{"tokenizer_class": "PreTrainedTokenizerFast"}'
        )
    base, adapter, fused = (tmp_path / word for word in ("converted", "adapter", "fused"))
    bits = settings.get("bits")
    mlx_lm.convert(
        str(source), str(base), quantize=bits is not None, q_bits=bits or 4, dtype="float32"
    )
    moved = make_mlx_adapter(base, adapter, kind, settings)
    arguments = ["--model", base, "--adapter-path", adapter, "--save-path", fused, "--dequantize"]
    monkeypatch.setattr("sys.argv", ["fuse", *map(str, arguments)])
    fuse.main()
    stored = mx.load(str(fused / "model.safetensors"))
    expected = {key: torch.tensor(x.astype(mx.float32).tolist()) for key, x in stored.items()}
    checkpoint = open_checkpoint(str(adapter))
    for key, tensor in checkpoint.read(checkpoint.names).items():
        theirs = _in_mlx(key, expected)
        torch.testing.assert_close(tensor.float(), theirs, rtol=1e-4, atol=1e-5, msg=key)
    for folder in (adapter, fused):
        write_tokenizer(folder, some_words(2048))
    pair = huref.compare([str(adapter), str(fused)], cache=False).pairs[0]
    print(f"ICS {pair.similarity.ics:.6f}, {moved} tensors in the adapter")
    assert pair.similarity.ics == pytest.approx(1, abs=1e-5)


def make_mlx_adapter(base: Path, folder: Path, kind: str, settings: dict[str, Any]) -> int:
    """An adapter of random numbers, saved as mlx-lm's trainer does; how many tensors it has."""
    mx = pytest.importorskip("mlx.core")
    mlx_lm = pytest.importorskip("mlx_lm")
    tree_flatten = pytest.importorskip("mlx.utils").tree_flatten
    linear_to_lora_layers = pytest.importorskip("mlx_lm.tuner.utils").linear_to_lora_layers

    model, _ = mlx_lm.load(str(base))
    layers = settings.get("num_layers", 4)
    parameters = {"rank": 4, "scale": 3.0, "dropout": 0.0}
    if "keys" in settings:
        parameters["keys"] = settings["keys"]
    model.freeze()
    if kind == "full":
        for layer in model.layers[-layers:]:
            layer.unfreeze()
    else:
        linear_to_lora_layers(model, layers, parameters, use_dora=kind == "dora")
    mx.random.seed(1)
    trained = {
        key: x + 0.05 * mx.random.normal(x.shape)
        for key, x in tree_flatten(model.trainable_parameters())
    }
    folder.mkdir()
    mx.save_safetensors(str(folder / "adapters.safetensors"), trained)
    config = {"model": str(base), "fine_tune_type": kind, "num_layers": layers}
    config["lora_parameters"] = parameters
    (folder / "adapter_config.json").write_text(json.dumps(config), "utf-8")
    return len(trained)


def _in_mlx(name: str, expected: dict[str, Tensor]) -> Tensor | None:
    """A tensor by its published name; one expert's part of a stack."""
    if name in expected:
        return expected[name]
    found = re.fullmatch(r"(.*)\.experts\.(\d+)\.(w[123])\.weight", name)
    if not found:
        return None
    part = {"w1": "gate_proj", "w2": "down_proj", "w3": "up_proj"}[found[3]]
    stack = expected.get(f"{found[1]}.switch_mlp.{part}.weight")
    return None if stack is None else stack[int(found[2])]


@pytest.mark.parametrize("kind", ["LoRA", "DoRA", "older", "older, of rank 1"])
def test_adapters_are_merged_as_mlx_vlm_does(source: Path, tmp_path: Path, kind: str) -> None:
    """Its trainer takes MLX-LM's model of the same blocks, too."""
    peft = pytest.importorskip("mlx_vlm.trainer.peft")
    mlx_lm = pytest.importorskip("mlx_lm")
    mx = pytest.importorskip("mlx.core")
    tree = pytest.importorskip("mlx.utils")

    base, adapter, merged = (tmp_path / word for word in ("converted", "adapter", "merged"))
    mlx_lm.convert(str(source), str(base), dtype="float32")
    model, _ = mlx_lm.load(str(base))
    is_older, rank = kind.startswith("older"), 1 if "rank 1" in kind else 4
    peft.get_peft_model(
        model, ["q_proj", "up_proj"], rank=rank, alpha=6.0, dropout=0.0, verbose=False,
        legacy=is_older, use_dora=kind == "DoRA",
    )  # fmt: skip
    mx.random.seed(1)
    trained = [
        (name, x + 0.05 * mx.random.normal(x.shape))
        for name, x in tree.tree_flatten(model.trainable_parameters())
    ]
    model.update(tree.tree_unflatten(trained))
    peft.save_adapter(model, adapter / "adapters.safetensors")
    settings = json.loads((adapter / "adapter_config.json").read_text())
    assert ("lora_parameters" in settings) != is_older
    (adapter / "adapter_config.json").write_text(json.dumps(settings | {"model": str(base)}))
    if kind == "older":  # other releases multiply by another factor
        with pytest.raises(CheckpointError, match=r"alpha \(6\).*alpha / rank \(1\.5\)"):
            _ = open_checkpoint(str(adapter)).names
        settings |= {"model": str(base), "lora_parameters": {"scale": 6 / rank}}
        (adapter / "adapter_config.json").write_text(json.dumps(settings))

    def write(name: str, weight: Tensor) -> Parts:
        module = peft.utils.get_module_by_name(model, name.removesuffix(".weight"))
        if hasattr(module, "fuse"):
            weight = torch.tensor(module.fuse(dequantize=True).weight.tolist())
        elif hasattr(module, "A"):
            weight = torch.tensor(module(mx.eye(weight.shape[1])).tolist()).T
        return {".weight": weight}

    write_quantised(source, merged, write, {})
    expected, before = load_model(merged).state_dict(), load_model(source).state_dict()
    checkpoint = open_checkpoint(str(adapter))
    for name, tensor in checkpoint.read(checkpoint.names).items():
        torch.testing.assert_close(tensor.float(), expected[name], rtol=1e-4, atol=1e-5, msg=name)
        is_changed = name.endswith(("q_proj.weight", "up_proj.weight"))
        assert torch.allclose(before[name], expected[name]) != is_changed, name
    pair = huref.compare([str(adapter), str(merged)], cache=False).pairs[0]
    print(f"ICS {pair.similarity.ics:.6f}")
    assert pair.similarity.ics == pytest.approx(1, abs=1e-5)
