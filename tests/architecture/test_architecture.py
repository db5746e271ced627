"""Layouts, and canonical blocks compared with the real transformers modules."""

import dataclasses
import json
from collections.abc import Callable, Iterator
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
import yaml
from safetensors.torch import load_file, save_file

from huref.architecture.block import Attention, Block, Mixture
from huref.architecture.layout_files import load_layouts, merge, parse_layout
from huref.architecture.match import find_layout
from huref.architecture.reader import ModelReader
from huref.errors import CheckpointError, UnsupportedModelError, WeightsError
from huref.invariants.extract import NOOP, writes
from huref.loader.checkpoint import open_checkpoint
from tests.support.architecture_case import Case, tiny_config
from tests.support.architecture_cases import CASES
from tests.support.module_oracle import find_layers, module_terms, randomise
from tests.support.remote_cases import REMOTE_CASES, RENAMED, D, random_checkpoint, reference_terms

MakeModel = Callable[..., Path]


def as_float64(part: Any) -> Any:
    """A block, or a part of one, in float64."""
    if torch.is_tensor(part):
        return part.double()
    if isinstance(part, Mixture):
        read = part.read
        return Mixture(part.count, lambda e: as_float64(read(e)), as_float64(part.shared))
    if dataclasses.is_dataclass(part) and not isinstance(part, type):
        values = {f.name: as_float64(getattr(part, f.name)) for f in dataclasses.fields(part)}
        return dataclasses.replace(part, **values)
    return part


@pytest.fixture
def double_by_default() -> Iterator[None]:
    yield
    torch.set_default_dtype(torch.float32)


def build(case: Case) -> transformers.PreTrainedModel:
    torch.manual_seed(0)
    model = case.model_class(tiny_config(case)).eval()
    randomise(model)
    return model


def assert_proportional(a: torch.Tensor, b: torch.Tensor, scale: float | None) -> None:
    """Equal to 1e-6 of the largest entry, up to a constant factor where `scale` is None."""
    if scale is None:
        scale = float((a * b).sum() / a.square().sum())
    assert (scale * a - b).abs().max() < 1e-6 * b.abs().max()


def refuse_or_read_alike(folder: Path, known: ModelReader, block: Block) -> None:
    """Under an unknown model_type a model is read as its own layout reads it, or refused."""
    edit_config(folder, model_type="unknown")
    try:
        unknown = ModelReader(open_checkpoint(str(folder)))
    except UnsupportedModelError:
        return
    rows = known.embeddings(range(3, 9))
    assert torch.equal(rows, unknown.embeddings(range(3, 9)))
    other = unknown.read_block(block.index)
    terms = [
        (b.attention.scores(rows), b.attention.write(rows), b.ffn.write(rows))
        for b in (block, other)
    ]
    assert all(torch.equal(a, b) for a, b in zip(*terms, strict=True))


@pytest.mark.usefixtures("double_by_default")
@pytest.mark.parametrize("name", CASES)
def test_terms_equal_what_the_module_computes(name: str, tmp_path: Path) -> None:
    case, model_type = CASES[name], name.partition(" ")[0]
    model = build(case)
    model.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["model_type"] == model_type
    reader = ModelReader(open_checkpoint(str(tmp_path)))
    assert model_type in reader.layout.model_types
    assert case.index in reader.attention_blocks
    block = reader.read_block(case.index)
    refuse_or_read_alike(tmp_path, reader, block)
    block = as_float64(block)
    torch.set_default_dtype(torch.float64)  # some modules make tensors of the default dtype
    E = 1e3 * torch.randn(
        12, model.get_input_embeddings().weight.shape[1] if not case.width else case.width
    )
    case.prepare(model)
    expected = module_terms(model.double(), **{"index": case.index, "E": E, **case.oracle})
    terms = [block.attention.scores(E), block.attention.write(E) @ E.T, block.ffn.write(E) @ E.T]
    scales = [1.0, 1.0, 1.0] if not case.scaled else [None, None, None]
    for term, reference, scale in zip(terms, expected, scales, strict=True):
        assert_proportional(term, reference, scale)


def test_every_model_type_of_every_layout_is_tested() -> None:
    listed = {t for layout in load_layouts() for t in layout.model_types}
    tested = {name.partition(" ")[0] for name in CASES}
    assert listed <= {*tested, *REMOTE_CASES, *RENAMED}


# The families that must be read. Pythia is gpt_neox, Falcon 3 is llama, and Falcon 180B has 40B's
# tensor names.
REQUIRED = """llama mistral mixtral qwen qwen2 qwen2_moe qwen3 qwen3_moe gemma gemma2 gemma3_text
    phi phi3 phimoe gpt2 gpt_neo gptj gpt_neox opt bloom falcon mpt stablelm gpt_bigcode starcoder2
    codegen olmo olmo2 olmoe cohere cohere2 granite granitemoe nemotron persimmon glm glm4 chatglm
    baichuan internlm internlm2 deepseek deepseek_v2 deepseek_v3 minicpm exaone smollm3 ernie4_5
    seed_oss hunyuan_v1_dense arcee gpt_oss dbrx xglm biogpt jamba zamba falcon_h1 qwen3_next"""


def test_every_required_family_is_tested() -> None:
    tested = {name.partition(" ")[0] for name in CASES} | {*REMOTE_CASES, *RENAMED}
    assert set(REQUIRED.split()) <= tested
    assert {"opt 350m", "falcon 40b", "falcon rw", "gpt_bigcode many"} <= set(CASES)


@pytest.mark.parametrize("model_type", REMOTE_CASES)
def test_terms_equal_the_reference_implementation(model_type: str, tmp_path: Path) -> None:
    case = REMOTE_CASES[model_type]
    tensors = random_checkpoint(case)
    save_file(tensors, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(case.config | {"model_type": model_type}))
    reader = ModelReader(open_checkpoint(str(tmp_path)))
    assert model_type in reader.layout.model_types
    block = as_float64(reader.read_block(0))
    E = torch.randn(12, D, dtype=torch.float64)
    terms = [block.attention.scores(E), block.attention.write(E) @ E.T, block.ffn.write(E) @ E.T]
    for term, reference in zip(terms, reference_terms(case, tensors, E), strict=True):
        assert_proportional(term, reference, 1.0)


@pytest.mark.parametrize("model_type", RENAMED)
def test_a_renamed_family_is_read_like_the_original(model_type: str, tmp_path: Path) -> None:
    case = CASES[RENAMED[model_type]]
    build(case).save_pretrained(tmp_path)
    original = ModelReader(open_checkpoint(str(tmp_path))).read_block(case.index)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"model_type": model_type}))
    renamed = ModelReader(open_checkpoint(str(tmp_path))).read_block(case.index)
    E = torch.randn(12, case.width or 48)
    assert torch.equal(original.attention.scores(E), renamed.attention.scores(E))
    assert torch.equal(original.attention.write(E), renamed.attention.write(E))
    assert torch.equal(original.ffn.write(E), renamed.ffn.write(E))


@pytest.mark.parametrize(
    "model_type", ["opt 350m", "bloom", "modernbert-decoder", "gemma", "cohere"]
)
def test_embeddings_are_what_the_first_block_reads(model_type: str, tmp_path: Path) -> None:
    """Factors, norms and removed means are the model's own; rows agree up to their scale."""
    case = CASES[model_type]
    model = build(case)
    for name, parameter in model.named_parameters():
        if "position" in name:
            parameter.data.zero_()
    model.save_pretrained(tmp_path)
    inputs: list[torch.Tensor] = []

    def record(_: object, args: tuple[Any, ...], named: dict[str, Any]) -> None:
        inputs.append((args[0] if args else named["hidden_states"])[:, 0])

    find_layers(model)[1][0].register_forward_pre_hook(record, with_kwargs=True)
    ids = torch.tensor([[5], [9], [2]])
    with torch.no_grad():
        model(ids, use_cache=False)
    rows = ModelReader(open_checkpoint(str(tmp_path))).embeddings([5, 9, 2])
    expected = inputs[0]
    if model_type not in ("gemma", "opt 350m"):
        expected = expected - expected.mean(dim=1, keepdim=True)
    cosine = torch.nn.functional.cosine_similarity(rows.double(), expected.double())
    assert (cosine > 1 - 1e-6).all()


def test_blocks_that_reuse_keys_and_values_are_skipped(tmp_path: Path) -> None:
    case = dataclasses.replace(
        CASES["gemma4_text"], changes=CASES["gemma4_text"].changes | {"num_kv_shared_layers": 2}
    )
    build(case).save_pretrained(tmp_path)
    assert ModelReader(open_checkpoint(str(tmp_path))).attention_blocks == [0, 1]


NOOP_TYPES = [
    "llama", "gemma2", "olmo2", "gpt2", "gpt_neox", "bloom", "falcon", "falcon 40b", "mpt", "phi",
    "gptj", "cohere", "phi3", "gpt_bigcode", "mixtral", "qwen2_moe", "gpt_oss", "dbrx",
    "granitemoe", "llama4_text", "deepseek_v2 lite", "deepseek_v3", "longcat_flash",
    "gemma4_text experts", "inkling_text", "jetmoe", "deepseek_v4", "zamba",
]  # fmt: skip


@pytest.mark.parametrize("name", NOOP_TYPES)
def test_a_block_that_writes_nothing_is_found(name: str, tmp_path: Path) -> None:
    case = CASES[name]
    build(case).save_pretrained(tmp_path)
    reader = ModelReader(open_checkpoint(str(tmp_path)))
    silent, other = reader.attention_blocks[-1], reader.attention_blocks[-2]
    block = reader.resolve(silent)
    writing = [t for role, t in block.tensors.items() if role.split(".")[-1] in ("o", "down")]
    if block.out is not None:  # each use of a shared block has its own last map
        writing = [block.out]
    writers = {name for stored in writing for name in stored.names}
    file = tmp_path / "model.safetensors"
    tensors = load_file(file)
    save_file({n: t * 0 if n in writers else t for n, t in tensors.items()}, file)
    reader = ModelReader(open_checkpoint(str(tmp_path)))
    rows = reader.embeddings(range(3, 11))
    assert reader.may_be_noop(silent)
    assert writes(reader.read_block(silent), rows) == 0
    assert not reader.may_be_noop(other) or writes(reader.read_block(other), rows) > NOOP


def test_embedding_rows_are_in_the_order_of_the_ids(make_llama: MakeModel) -> None:
    folder = make_llama("model")
    model = transformers.LlamaForCausalLM.from_pretrained(folder)
    rows = ModelReader(open_checkpoint(str(folder))).embeddings([7, 3, 2047, 3])
    assert torch.equal(rows, model.model.embed_tokens.weight.data[[7, 3, 2047, 3]])


def test_base_model_without_the_prefix_is_found(make_llama: MakeModel) -> None:
    folder = make_llama("model")
    inner = folder.parent / "inner"
    model = transformers.LlamaForCausalLM.from_pretrained(folder)
    model.model.save_pretrained(inner)
    a, b = (ModelReader(open_checkpoint(str(f))).read_attention(1) for f in (folder, inner))
    assert isinstance(a, Attention)
    assert isinstance(b, Attention)
    assert torch.equal(a.q, b.q)


def test_shapes_that_contradict_the_config_are_refused(make_llama: MakeModel) -> None:
    folder = make_llama("model")
    edit_config(folder, num_key_value_heads=3)
    reader = ModelReader(open_checkpoint(str(folder)))
    with pytest.raises(
        CheckpointError,
        match=r"k_proj\.weight': its shape \[64, 32\] \(in, out\) contradicts config\.json",
    ):
        reader.read_block(1)


def test_a_missing_tensor_is_named(make_llama: MakeModel) -> None:
    folder = make_llama("model")
    edit_config(folder, num_hidden_layers=5)
    reader = ModelReader(open_checkpoint(str(folder)))
    with pytest.raises(CheckpointError, match=r"no tensor 'model\.layers\.4\."):
        reader.read_block(4)


def test_more_blocks_than_tensors_are_refused(make_llama: MakeModel) -> None:
    folder = make_llama("model")
    edit_config(folder, num_hidden_layers=10**12)
    reader = ModelReader(open_checkpoint(str(folder)))
    with pytest.raises(CheckpointError, match="says 1000000000000 blocks"):
        list(reader.attention_blocks)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_nan_and_infinite_values_are_refused(make_llama: MakeModel, value: float) -> None:
    folder = make_llama("model")
    model = transformers.LlamaForCausalLM.from_pretrained(folder)
    model.model.layers[1].mlp.up_proj.weight.data[3, 3] = value
    model.save_pretrained(folder)
    with pytest.raises(WeightsError, match=r"layers\.1\.mlp\.up_proj\.weight"):
        ModelReader(open_checkpoint(str(folder))).read_block(1)


def edit_config(folder: Path, **changes: object) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))


@pytest.mark.parametrize(
    ("model_type", "layout"),
    [("llama", "llama"), ("qwen3_moe", "llama"), ("gemma2", "gemma2"), ("gpt_neox", "gpt_neox"),
     ("gpt2", "gpt2"), ("opt", "opt"), ("deepseek_v3", "deepseek"), ("starcoder2", "ungated"),
     ("bloom", "bloom"), ("phi", "phi"), ("mpt", "mpt"), ("olmo2", "olmo2"), ("phi3", "llama"),
     ("gemma4_text", "gemma4"), ("cohere2", "cohere")],
)  # fmt: skip
def test_an_unknown_type_works_through_the_layout_that_fits(
    model_type: str, layout: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    build(CASES[model_type]).save_pretrained(tmp_path)
    edit_config(tmp_path, model_type="unknown")
    assert ModelReader(open_checkpoint(str(tmp_path))).layout.name == layout
    assert f"its tensors fit the layout '{layout}', which reads them" in caplog.text


def test_an_ambiguous_type_is_refused(tmp_path: Path) -> None:
    """Gemma stores gain minus one under Llama's names, so the names do not decide."""
    build(CASES["gemma"]).save_pretrained(tmp_path)
    edit_config(tmp_path, model_type="unknown")
    with pytest.raises(UnsupportedModelError, match=r"gemma,.*llama.*differently"):
        ModelReader(open_checkpoint(str(tmp_path)))


def test_an_unknown_tensor_in_a_block_fits_no_layout(tmp_path: Path) -> None:
    model = build(CASES["llama"])
    model.model.layers[1].self_attn.register_parameter("unknown", torch.nn.Parameter(torch.ones(3)))
    model.save_pretrained(tmp_path)
    edit_config(tmp_path, model_type="unknown")
    with pytest.raises(UnsupportedModelError, match="fit no known layout"):
        ModelReader(open_checkpoint(str(tmp_path)))


@pytest.mark.parametrize(
    ("model_type", "reason"), [("mamba", "state-space"), ("bert", "encoder"), ("t5", "encoder-dec")]
)
def test_a_model_that_is_no_decoder_is_refused_with_a_reason(model_type: str, reason: str) -> None:
    with pytest.raises(UnsupportedModelError, match=f"not supported, because.*{reason}"):
        find_layout({"model_type": model_type}, set(), "some/model")


def test_layout_files_are_checked_strictly() -> None:
    folder = resources.files("huref.architecture") / "layouts"
    base = yaml.safe_load((folder / "llama.yaml").read_text("utf-8"))
    assert parse_layout("x", base).experts is not None
    wrong: list[dict[str, Any]] = [
        {"surplus": 1},
        {"attention": {"surplus": []}},
        {"norms": {"kind": "batchnorm"}},
        {"norms": {"offset": 1}},
        {"attention": {"split": "thirds"}},
        {"attention": {"q": "self_attn.q_proj.weight"}},
        {"experts": {"shared": {"surplus": []}}},
    ]
    for changes in wrong:
        with pytest.raises(ValueError, match=r"missing or unknown|none of|not a|is needed here"):
            parse_layout("x", merge(base, changes))
    for key in ("embedding", "norms", "attention", "block"):
        with pytest.raises(ValueError, match="missing or unknown"):
            parse_layout("x", {k: v for k, v in base.items() if k != key})
