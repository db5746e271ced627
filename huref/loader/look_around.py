"""What a folder is that holds no weights which huref reads, and what its user can do."""

import fnmatch
import re
from collections.abc import Callable, Iterable
from contextlib import suppress

from huref.errors import CheckpointError
from huref.loader.repository import Repository

WEIGHT_ENDINGS = (".safetensors", ".bin", ".pt", ".pth", ".gguf")
_ADAPTER = ("adapter_model.safetensors", "adapter_model.bin", "adapters.safetensors")
_SPLIT_BY_HAND = re.compile(
    r"(?P<stem>.+\.gguf)(?:[.-](?:part)?[-_]?(?:\d+of\d+|\d{1,3}|[a-z]{1,2})|-split-?\w{1,2})",
    re.IGNORECASE,
)
_UNFINISHED = re.compile(r"\.(?:incomplete|part|crdownload|aria2|download|tmp)$", re.IGNORECASE)
_ARCHIVE = re.compile(r"\.(?:zip|7z|rar|tar|tar\.\w+|tgz|gz|xz|zst)$", re.IGNORECASE)
_OTHER_FORMATS = {
    "*.ckpt": ("a PyTorch Lightning or TensorFlow checkpoint", "convert it to safetensors"),
    "*.h5": ("a TensorFlow checkpoint", "convert it to safetensors"),
    "*.msgpack": ("a Flax checkpoint", "convert it to safetensors"),
    "*.ckpt.index": ("a TensorFlow checkpoint", "convert it to safetensors"),
    "*.keras": ("a Keras archive", "convert it to safetensors"),
    "imatrix*": ("an importance matrix of llama.cpp", "give the model's own GGUF file"),
    "datasets--*": ("a data set", "give a model"),
    "*.onnx": ("an ONNX graph", "give the model that it was exported from"),
    "*.npz": ("an archive of NumPy arrays, as MLX once wrote", "convert it to safetensors"),
    "*.tflite": ("a TensorFlow Lite graph", "give the model that it was exported from"),
    "*.nemo": ("a NeMo archive", "convert it with NeMo's script to the Hugging Face format"),
    "*.engine": ("a TensorRT-LLM engine", "give the model that it was built from"),
    "*.mlpackage": ("a Core ML package", "give the model that it was exported from"),
    "*.llamafile": ("a llamafile", "extract its GGUF file with 'unzip'"),
    "openvino_*.xml": ("an OpenVINO graph", "give the model that it was exported from"),
    "params_shard_*.bin": ("weights compiled by MLC-LLM", "give the model it was converted from"),
    "*.task": ("a MediaPipe task", "give the model that it was converted from"),
    "*.litertlm": ("a model of LiteRT-LM", "give the model that it was converted from"),
    "*.mlmodel": ("a Core ML model", "give the model that it was exported from"),
    "*.pt2": ("a program that torch.export saved", "give the model that it was exported from"),
    "*.pdparams": ("a PaddlePaddle checkpoint", "convert it to safetensors"),
    "rust_model.ot": ("a checkpoint of rust-bert", "give the model that it was converted from"),
    "*.mar": ("an archive of TorchServe", "unpack it and give the folder of the model's files"),
}

MOST_OF_MODELFILE = 65536  # bytes that are read
Explanation = tuple[str, str]


def explain_no_weights(repository: Repository) -> CheckpointError:
    """The error for a repository without weights at its top: what is there, and the way out."""
    for explain in _EXPLANATIONS:
        if (found := explain(repository)) is not None:
            what, advice = found
            return CheckpointError(what, model=repository.model, advice=advice)
    what = "there are no weights (*.safetensors, *.bin, *.pth or *.gguf)"
    return CheckpointError(
        what, model=repository.model, advice="give the folder that holds the model's files"
    )


def has_explanation(name: str) -> bool:
    """Whether the name of a file says that it is of a form which is not read, but known."""
    patterns = [pattern for pattern in _OTHER_FORMATS if pattern.startswith("*.")]
    by_name = any(fnmatch.fnmatch(name.lower(), pattern) for pattern in patterns)
    return by_name or bool(_ARCHIVE.search(name) or _UNFINISHED.search(name))


def find_split_by_hand(files: Iterable[str]) -> str | None:
    """The name of a GGUF file that was cut into pieces by another tool than llama.cpp's."""
    found = (_SPLIT_BY_HAND.fullmatch(name) for name in sorted(files))
    return next((match["stem"] for match in found if match), None)


def _inside(repository: Repository, folder: str) -> str:
    return f"{repository.model.rstrip('/')}/{folder}"


def _folders(files: Iterable[str], *wanted: str) -> list[str]:
    """The folders below the top that hold a file matching one of some patterns."""
    found = {
        name.rpartition("/")[0]
        for name in files
        if "/" in name
        and any(fnmatch.fnmatch(name.rpartition("/")[2], pattern) for pattern in wanted)
    }
    return sorted(found, key=_natural)


def _natural(name: str) -> list[tuple[int, str]]:
    return [(int(p or 0), "") if p.isdigit() else (0, p) for p in re.split(r"(\d+)", name)]


def _zero(repository: Repository) -> Explanation | None:
    shards = [n for n in repository.files if re.search(r"(?:^|/)(?:bf16_)?zero_pp_rank_", n)]
    if not shards:
        return None
    return (
        "its weights are DeepSpeed ZeRO shards, which hold pieces of flattened parameters",
        "join them with 'python zero_to_fp32.py . OUT' in that folder and give OUT, with "
        "config.json and the tokenizer beside it",
    )


def _distcp(repository: Repository) -> Explanation | None:
    shards = [n for n in repository.files if n.endswith(".distcp")]
    if not shards:
        return None
    folder = shards[0].rpartition("/")[0] or "."
    return (
        f"its weights are shards of torch.distributed.checkpoint (in '{folder}')",
        f"join them with 'accelerate merge-weights {folder} OUT', or with 'python -m "
        f"torch.distributed.checkpoint.format_utils dcp_to_torch {folder} OUT.pt'",
    )


def _megatron(repository: Repository) -> Explanation | None:
    if not any(re.search(r"(?:^|/)mp_rank_\d+", n) for n in repository.files):
        return None
    return (
        "it is a Megatron checkpoint, split by tensor and pipeline parallelism",
        "convert it to the Hugging Face format with Megatron's tools",
    )


def _pipeline(repository: Repository) -> Explanation | None:
    if "model_index.json" not in repository.files:
        return None
    encoders = [f for f in _folders(repository.files, "config.json") if "text_encoder" in f]
    where = f" such as {_inside(repository, encoders[0])}" if encoders else ""
    return (
        "it is a diffusers pipeline of several models, not a language model",
        f"give a language model inside it{where}, if it has one",
    )


def _below(repository: Repository) -> Explanation | None:
    """Models, checkpoints of a training run or adapters in folders below."""
    files = repository.files
    adapters = [
        folder for folder in _folders(files, *_ADAPTER) if f"{folder}/adapter_config.json" in files
    ]
    metas = _folders(files, "params.json")
    models = [
        folder
        for folder in _folders(files, "config.json", "params.json")
        if any(
            n.startswith(f"{folder}/")
            and n.endswith(WEIGHT_ENDINGS)
            and n.count("/") == folder.count("/") + 1
            for n in files
        )
    ]
    ggufs = _folders(files, "*.gguf")
    folders = list(dict.fromkeys([*models, *adapters, *ggufs]))
    folders = [f for f in folders if not f.split("/")[-1].startswith(".")]
    if not folders:
        return None
    folders.sort(key=_natural)
    named = ", ".join(folders[:4]) + (f" and {len(folders) - 4} more" if len(folders) > 4 else "")
    last = folders[-1]
    if all(folder in metas and "original" in folder for folder in folders):
        kind = "its weights are Meta's own release"
    elif all(re.search(r"(?:checkpoint|step|epoch|iter)[-_]?\d+$", f) for f in folders):
        kind = "it is the folder of a training run, whose models lie"
    elif set(folders) <= set(adapters):
        kind = "its adapters lie in folders of their own,"
    else:
        kind = "its models lie in folders below,"
    which = "one of them, such as " if len(folders) > 1 else ""
    return f"{kind} in {named}", f"give {which}{_inside(repository, last)}"


def _split_gguf(repository: Repository) -> Explanation | None:
    stem = find_split_by_hand(repository.files)
    if stem is None:
        return None
    return (
        f"'{stem}' was split into pieces by hand",
        f"join them in order, as with 'cat {stem}* > {stem}', and give that file",
    )


def _adapter_without_config(repository: Repository) -> Explanation | None:
    weights = next((name for name in _ADAPTER if name in repository.files), None)
    if weights is None or "adapter_config.json" in repository.files:
        return None
    return (
        f"'{weights}' is an adapter, but there is no adapter_config.json beside it",
        "download adapter_config.json, too",
    )


def _config_alone(repository: Repository) -> Explanation | None:
    if "adapter_config.json" not in repository.files:
        return None
    return (
        "there is an adapter_config.json, but no adapter_model.safetensors beside it",
        "download the adapter's weights, too",
    )


def _unfinished(repository: Repository) -> Explanation | None:
    """A file whose download did not finish, by the ending that downloaders give it."""
    found = [n for n in sorted(repository.files) if _UNFINISHED.search(n)]
    if not found:
        return None
    return (
        f"'{found[0]}' is a download that did not finish",
        "finish the download, as with 'hf download', which goes on where it stopped",
    )


def _archive(repository: Repository) -> Explanation | None:
    found = [n for n in sorted(repository.files) if _ARCHIVE.search(n)]
    if not found:
        return None
    return (
        f"there are no weights that huref reads; '{found[0]}' is an archive",
        "unpack it and give the folder that holds the model's files",
    )


def _of_jax(repository: Repository) -> Explanation | None:
    names = {n.rpartition("/")[2] for n in repository.files}
    if not names & {"_METADATA", "_CHECKPOINT_METADATA", "manifest.ocdbt"}:
        return None
    return (
        "it is an Orbax checkpoint of JAX",
        "convert it to the Hugging Face format with the scripts of the model's own code",
    )


def _core_ml(repository: Repository) -> Explanation | None:
    if not any(re.search(r"\.mlpackage/|\.mlmodelc/", n) for n in repository.files):
        return None
    return "it is a Core ML package", "give the model that it was exported from"


def _modelfile(repository: Repository) -> Explanation | None:
    if "Modelfile" not in repository.files:
        return None
    text = ""
    with suppress(CheckpointError):
        source = repository.open("Modelfile")
        text = bytes(source.read(0, min(source.size, MOST_OF_MODELFILE))).decode("utf-8", "replace")
    found = re.search(r"^\s*FROM\s+(\S.*?)\s*$", text, re.IGNORECASE | re.MULTILINE)
    named = found[1][:200] if found else ""
    return (
        "there are no weights, but a Modelfile of Ollama" + (f" from '{named}'" if named else ""),
        "give the model that its FROM line names: a file of weights, or ollama:NAME",
    )


def _other_format(repository: Repository) -> Explanation | None:
    for pattern, (kind, advice) in _OTHER_FORMATS.items():
        found = sorted(
            n
            for n in repository.files
            if any(fnmatch.fnmatch(part.lower(), pattern) for part in n.split("/"))
        )
        if found:
            return f"there are no weights that huref reads; '{found[0]}' is {kind}", advice
    return None


def _meta_in_part(repository: Repository) -> Explanation | None:
    """One half of a release in Meta's or Mistral's format."""
    top = [name for name in repository.files if "/" not in name]
    weights = [name for name in top if name.startswith("consolidated")]
    if weights:
        what = "is a file of Meta's or Mistral's release, but there is no params.json beside it"
        return f"'{weights[0]}' {what}", "put the release's params.json and tokenizer beside it"
    if "params.json" in top:
        return (
            "there is the params.json of a release by Meta or Mistral, but no weights beside it",
            "put the release's consolidated files beside it",
        )
    return None


def _config_without_weights(repository: Repository) -> Explanation | None:
    if "config.json" not in repository.files:
        return None
    return (
        "there is a config.json, but no weights beside it (*.safetensors, *.bin, *.pth or *.gguf)",
        "download the model's weights, too",
    )


def _training_state(repository: Repository) -> Explanation | None:
    names = {n.rpartition("/")[2] for n in repository.files}
    kinds = ("optimizer*", "rng_state*", "training_args*", "trainer_state*")
    if not any(fnmatch.fnmatch(n, kind) for n in names for kind in kinds):
        return None
    return (
        "there is a training state (optimizer, random numbers, arguments) but no model",
        "give the folder to which the model was saved",
    )


_EXPLANATIONS: tuple[Callable[[Repository], Explanation | None], ...] = (
    _pipeline, _zero, _distcp, _megatron, _split_gguf, _below, _adapter_without_config,
    _config_alone, _modelfile, _unfinished, _other_format, _core_ml, _of_jax, _archive,
    _meta_in_part, _training_state, _config_without_weights,
)  # fmt: skip
