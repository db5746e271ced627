"""Small models, indexes, records and lists that try to cost much.

As in `tests.support.hostile_files`, which has the first ones.
"""

import json
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import save_file

from huref.invariants.anchors import Anchors
from huref.invariants.record import DIGEST, digest_of
from scripts.fuzz.folders import safetensors_file
from tests.support.hostile_files import FILES, _gguf, _safetensors, _tensor, _text, hostile
from tests.support.lineage_samples import make_record

INDEX = "model.safetensors.index.json"


def _model(name: str, config: dict[str, object], *tensors: str, file: str = "model") -> None:
    """Register a model with tensors as `scripts.fuzz.folders` lists them."""

    def write(folder: Path) -> Path:
        (folder / "config.json").write_text(json.dumps({"model_type": "llama", **config}))
        path = folder / f"{file}.safetensors"
        path.write_bytes(safetensors_file("\n".join(tensors).encode()))
        return path

    FILES[f"{name}/{file}.safetensors"] = write


def _quantised(name: str, method: dict[str, object], *tensors: str) -> None:
    _model(name, {"quantization_config": method}, *tensors)


_MODULES = [
    line.replace("x.", f"{i:x}.")
    for i in range(300)
    for line in ("x.qweight I32 4,8", "x.qzeros I32 1,1", "x.scales F16 1,8")
]
_quantised("many group sizes", {"quant_method": "gptq", "bits": 4, "dynamic":
           {f"{i:x}": {"group_size": i + 64} for i in range(60_000)}}, *_MODULES)  # fmt: skip
_quantised("many modules", {"quant_method": "gptq", "bits": 4, "dynamic":
           {f"+:(a+)+{i}$": {"bits": 8, "group_size": -1} for i in range(60_000)}},
           *_MODULES)  # fmt: skip
_quantised("deep settings of modules", {"quant_method": "gptq", "bits": 4, "dynamic":
           json.loads('{"a":' * 90 + "1" + "}" * 90)}, *_MODULES)  # fmt: skip
LONG, WIDE = 60_000, 15_000  # bytes of a row, numbers of a column of float32
_quantised("a zero point across a column", {"quant_method": "hqq"}, f"x.W_q U8 {LONG},1",
           f"x.scale F16 {LONG // 4},1", f"x.zero F16 1,{WIDE}", "x.shape I64 2 count",
           "x.axis U8 ")  # fmt: skip
_quantised("a global scale across a column", {"quant_method": "compressed-tensors"},
           f"x.weight_packed U8 {LONG},1", f"x.weight_scale F8_E4M3 {LONG},1",
           f"x.weight_global_scale F32 {WIDE}")  # fmt: skip
_quantised("a second scale of a matrix", {"quant_method": "modelopt", "quant_algo": "NVFP4"},
           f"x.weight U8 1,{LONG}", f"x.weight_scale F8_E4M3 1,{LONG}",
           f"x.weight_scale_2 F32 {WIDE},1")  # fmt: skip
_quantised("a scale of a wrong axis", {"quant_method": "quanto"}, f"x.weight._data I8 {WIDE},1",
           f"x.weight._scale F32 {WIDE},1,1,1")  # fmt: skip
_quantised("scales of many axes", {"quant_method": "bitnet"}, f"x.weight U8 {WIDE},1",
           "x.weight_scale F32 1,1,1,1")  # fmt: skip
_quantised("a zero point of three axes", {"quant_method": "fp8"}, f"x.weight F8_E4M3 {WIDE},1",
           f"x.weight_scale F32 {WIDE},1", f"x.weight_zero_point F32 1,1,{WIDE}")  # fmt: skip
_quantised("columns by the ten thousand", {"quant_method": "gptq", "bits": 4}, "x.qweight I32 1,1",
           "x.qzeros I32 1,1", "x.scales F16 1,1", f"x.g_idx I32 {WIDE}")  # fmt: skip
_quantised("a block of much", {"quant_method": "bitsandbytes"}, "x.weight U8 8,1",
           "x.weight.absmax F32 1", "x.weight.quant_map F32 16",
           "x.weight.quant_state.bitsandbytes__nf4 U8 80 "
           'text:{"blocksize":9223372036854775807,"shape":[4294967296,0,4]}')  # fmt: skip
_quantised("groups of nothing", {"bits": 4, "group_size": 10**18}, "x.weight U32 4,0",
           "x.scales F16 4,0", "x.biases F16 4,0")  # fmt: skip


def _packed(columns: int) -> Callable[[Path], Path]:
    """A matrix of 3 bits whose stored shape is far larger than it."""

    def write(folder: Path) -> Path:
        groups = {"g": {"weights": {"num_bits": 3}}}
        settings = {"quant_method": "compressed-tensors", "config_groups": groups}
        config = {"model_type": "llama", "quantization_config": settings}
        (folder / "config.json").write_text(json.dumps(config))
        shape = struct.pack("<2q", 1, columns).decode("latin-1")
        lines = ["x.weight_packed I32 1,3", "x.weight_scale F32 1,1",
                 f"x.weight_shape I64 2 text:{shape}"]  # fmt: skip
        path = folder / "model.safetensors"
        path.write_bytes(safetensors_file("\n".join(lines).encode("latin-1")))
        return path

    return write


FILES["a stored shape of much/model.safetensors"] = _packed(2**33 + 1)


def _empty_rows(folder: Path) -> Path:
    """Rows without numbers, of which Meta's and llama.cpp's order would need 16 GB."""
    (folder / "params.json").write_text('{"dim": 8, "n_layers": 1, "n_heads": 2}')
    name = "layers.0.attention.wq.weight"
    header = {name: {"dtype": "F32", "shape": [2**31, 0], "data_offsets": [0, 0]}}
    path = folder / "consolidated.safetensors"
    path.write_bytes(_safetensors(json.dumps(header).encode()))
    return path


FILES["rows of nothing/consolidated.safetensors"] = _empty_rows


@hostile("rows of nothing/model.gguf")
def _() -> bytes:
    values = [_text(b"general.architecture") + struct.pack("<I", 8) + _text(b"llama")]
    for key in (b"block_count", b"attention.head_count", b"embedding_length"):
        values.append(_text(b"llama." + key) + struct.pack("<II", 4, 2))
    names = (b"blk.0.attn_q.weight", b"blk.0.attn_k.weight")
    tensors = b"".join(_tensor(name, (0, 2**31)) for name in names)
    return _gguf(b"".join(values), 4, tensors, 2) + bytes(64)


def _adapter(name: str, settings: dict[str, object], *tensors: str) -> None:
    def write(folder: Path) -> Path:
        base = folder / "base"
        base.mkdir()
        (base / "config.json").write_text('{"model_type": "llama"}')
        matrix = f"model.layers.0.self_attn.q_proj.weight F32 1,{WIDE}"
        (base / "model.safetensors").write_bytes(safetensors_file(matrix.encode()))
        (folder / "adapter_config.json").write_text(json.dumps(settings))
        path = folder / ("adapters.safetensors" if "fine_tune_type" in settings
                         else "adapter_model.safetensors")  # fmt: skip
        path.write_bytes(safetensors_file("\n".join(tensors).encode()))
        return path

    FILES[name] = write


_Q = "model.layers.0.self_attn.q_proj"
_adapter("a magnitude across a row/adapter_model.safetensors", {"use_dora": True},
         f"base_model.model.{_Q}.lora_A.weight F32 1,{WIDE}",
         f"base_model.model.{_Q}.lora_B.weight F32 1,1",
         f"base_model.model.{_Q}.lora_magnitude_vector F32 {WIDE}")  # fmt: skip
_adapter("many trained modules/adapter_model.safetensors",
         {"target_modules": [f"{i:x}.q_proj" for i in range(200_000)]},
         *(f"base_model.model.model.layers.{i}.self_attn.q_proj.lora_{ab} F32 {shape}"
           for i in range(1000) for ab, shape in (("A", "1,8"), ("B", "8,1"))))  # fmt: skip
_adapter("names of dots/adapter_model.safetensors", {"target_modules": ["." * 100_000]},
         f"base_model.model.{'.a' * 100_000}.lora_A.weight F32 1,8",
         f"base_model.model.{'.a' * 100_000}.lora_B.weight F32 8,1")  # fmt: skip
_adapter("a text many times/adapters.safetensors",
         {"fine_tune_type": "lora", "lora_parameters": {"scale": 10**9, "alpha": "aaaa"}},
         f"{_Q}.lora_a F32 {WIDE},1", f"{_Q}.lora_b F32 1,1")  # fmt: skip


# Indexes of shards.


def _index(map_: object) -> bytes:
    return json.dumps({"weight_map": map_}, separators=(",", ":")).encode()


_MAPS: dict[str, object] = {
    "short names": {f"{i:x}": "a" for i in range(120_000)},
    "a file for each": {f"{i:x}": f"{i:x}.safetensors" for i in range(90_000)},
    "long names": {"a" * 400_000 + str(i): "b" * 400_000 for i in range(5)},
    "files that are numbers": {f"{i:x}": i for i in range(100_000)},
    "files that are lists": {"a": [[]] * 300_000},
    "files outside": {f"{i:x}": "../" * 40 + "etc/passwd" for i in range(20_000)},
    "no map": None,
    "a map that is a list": [["a", "b"]] * 100_000,
    "wide names": {"😀" * 200_000: "model.safetensors"},
    "the index itself": dict.fromkeys(map(str, range(60_000)), INDEX),
}
for _name, _map in _MAPS.items():
    hostile(f"{_name}/{INDEX}")(lambda map_=_map: _index(map_))  # type: ignore[misc]


# Records: the metadata of a valid one, with one text in another's place.


def _record(key: str, value: str) -> Callable[[Path], Path]:
    """A record whose digest fits what it holds, as everybody can make one."""

    def write(folder: Path) -> Path:
        plain = make_record("a")
        recipe = replace(plain.recipe, m=64)
        anchors = Anchors(tuple(b"%d" % i for i in range(64)), tuple(range(64)))
        terms = torch.zeros(len(recipe.layers), 3, 64, 64)
        whole = replace(plain, recipe=recipe, layers=(1, 2), anchors=anchors, terms=terms)
        tensors, metadata = whole.contents()
        del metadata[DIGEST]
        metadata[key] = value
        path = folder / "record.safetensors"
        save_file(tensors, path, metadata | {DIGEST: digest_of(tensors, metadata)})
        return path

    return write


_TEXTS: dict[str, tuple[str, str]] = {
    "deep layers": ("layers", "[" * 200_000),
    "many layers": ("layers", "[" + "1," * 500_000 + "1]"),
    "lists of layers": ("layers", "[" + "[]," * 600_000 + "0]"),
    "long numbers of layers": ("layers", "[" + "9" * 4000 + "]"),
    "many anchors": ("anchors", "[" + '"a",' * 300_000 + '"b"]'),
    "deep anchors": ("anchors", '{"a":' * 100_000),
    "a large recipe": ("recipe", '{"m":' + "9" * 300_000 + "}"),
    "lists in the recipe": ("recipe", '{"a":[' + "[]," * 500_000 + "0]}"),
    "a long model": ("model", "a" * 3_000_000),
    "many files": ("files", "{" + ",".join(f'"{i:x}":{{}}' for i in range(100_000)) + "}"),
    "deep traits": ("traits", '{"a":[' * 50_000),
}
for _name, (_key, _value) in _TEXTS.items():
    FILES[f"{_name}/record.safetensors"] = _record(_key, _value)


# Lists of pairs.

_HEAD = b"id_a\tid_b\texpected\n"
_LISTS: dict[str, bytes] = {
    "one long cell": _HEAD + b"a" * 5_000_000 + b"\tb\tdescends\n",
    "quotes": _HEAD + b'"' * 1_000_000 + b"\n",
    "rows of tabs": _HEAD + b"\t" * 3_000_000,
    "empty rows": _HEAD + b"\n" * 2_000_000,
    "returns": _HEAD + b"\r" * 2_000_000,
    "one header over and over": b"id_a\t" * 300_000 + b"id_b\texpected\n",
    "wide letters": _HEAD + "😀\t".encode() * 300_000,
    "zeros": _HEAD + bytes(2_000_000),
    "comments": b"#\n" * 1_000_000 + _HEAD,
    "rows of one pair": _HEAD + b"a\tb\tdescends\n" * 100_000,
}
for _name, _data in _LISTS.items():
    hostile(f"{_name}/pairs.tsv")(lambda data=_data: data)  # type: ignore[misc]
