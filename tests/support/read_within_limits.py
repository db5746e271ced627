"""Run in a process of its own: reads hostile files and measures what each of them costs.

    python -m tests.support.read_within_limits FILE...

Prints a JSON line for each file: its size, the outcome ("read", "refused" or the name of an
exception), the growth of the peak of memory in bytes, and CPU seconds. Each file is read in a fork,
so that the imports are paid once and the peak is the file's own. The fork has limits of address
space and CPU time somewhat above the promise, so that a failure ends early.
"""

import json
import os
import resource
import sys
from pathlib import Path

import huref.api.open  # noqa: F401  every import is paid here, before the forks
from huref.api.pairs_file import read_pairs
from huref.api.verify import verify
from huref.blackbox.baseline import load_baseline
from huref.blackbox.signature import load_signature
from huref.bounded_json import loads
from huref.decoder.network_files import open_network
from huref.errors import HurefError
from huref.evidence.keys import load_public_key, load_signer, parse_public_key
from huref.evidence.timestamp import load_certificates, read_timestamp
from huref.invariants.record import load_record
from huref.loader.checkpoint import open_checkpoint
from huref.loader.declarations import read_declarations
from huref.loader.formats.gguf import read_header
from huref.loader.hub.repository import _parse_description
from huref.loader.ollama import is_manifest, model_of_manifest
from huref.loader.ranges import LocalFile, Meter
from huref.loader.repository import LocalFolder, read_json
from huref.loader.sources.adapter_settings import PeftSettings
from huref.loader.stored_tensors import read_index
from huref.loader.vocabulary.encoder import TextEncoder
from huref.loader.vocabulary.files import open_encoder, open_vocabulary
from huref.loader.vocabulary.gguf import gguf_encoder, parse_gguf_vocabulary
from huref.loader.vocabulary.spelling import Token
from huref.loader.weight_files import open_stored
from huref.recipe import load_recipe
from huref.registry.exchange import read_jsonl
from huref.registry.fleet.journal import Journal
from huref.registry.fleet.model_list import read_list

LONG_NAME = "a" * 200  # of a module
MODELS = ("model.safetensors", "consolidated.safetensors", "adapter_model.safetensors",
          "adapters.safetensors", "model.gguf")  # fmt: skip
BESIDE = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "merges.txt")
VOCABULARIES = (
    "tekken.json",
    "tokenizer.json",
    "vocab.json",
    "vocab.txt",
    "tokenizer.model",
    "a.tiktoken",
)


def read_file(path: Path) -> None:
    """Run the parser of a file, by its name."""
    from huref.api.open import read_picture
    from huref.blackbox.answers import parse_answer

    source = LocalFile(path, path.name, Meter())
    folder = LocalFolder(path.parent, str(path.parent), Meter())
    if path.name in MODELS:
        read_model(path)
    elif path.name == "record.safetensors":
        load_record(path)
    elif path.name == "model.safetensors.index.json":
        _ = open_stored(folder).names
    elif path.name in ("README.md", "mergekit_config.yml"):
        read_declarations(folder)
    elif path.name == "recipe.yaml":
        load_recipe(str(path))
    elif path.suffix == ".attestation":
        verify(path)
    elif path.suffix == ".tsv":
        read_pairs(path)
    elif path.name == "adapter_config.json":
        settings = PeftSettings(read_json(folder, path.name))
        for _ in range(1000):
            settings.scale(LONG_NAME, 8)
    elif path.name in VOCABULARIES or path.name in BESIDE:
        if path.name in BESIDE:
            (path.parent / "vocab.json").write_text('{"a": 0, "b": 1, "ab": 2}')
            folder = LocalFolder(path.parent, str(path.parent), Meter())
        tokens = open_vocabulary(folder)
        _run(tokens, open_encoder(folder, 0, tokens))
    elif path.name == "pytorch_model.bin.index.json":
        _ = open_stored(folder).names
    elif path.name == "params.json":
        open_checkpoint(str(path.parent))
    elif path.suffix == ".json":
        read_json(folder, path.name)
    elif path.name == "models.txt":
        read_list(path)
    elif path.name == "journal":
        Journal(path)
    elif path.suffix == ".pem":
        read_key(path)
    elif path.suffix == ".tst":
        read_timestamp(path.read_bytes(), b"signed", [])
    elif path.suffix == ".baseline":
        load_baseline(path)
    elif path.name == "signature.safetensors":
        load_signature(path)
    elif path.name == "manifest":
        if is_manifest(path):
            model_of_manifest(path, "a")
    elif path.name == "vocabulary.gguf":
        metadata = read_header(source).metadata
        _run(parse_gguf_vocabulary(metadata), gguf_encoder(metadata))
    elif path.suffix == ".gguf":
        read_header(source)
    elif path.suffix in (".pkl", ".pt"):
        open_network(path)
    elif path.suffix == ".png":
        read_picture(path)
    elif path.suffix == ".jsonl":
        list(read_jsonl(path)[1])
    elif path.suffix == ".answer":
        parse_answer(loads(path.read_bytes()))
    elif path.suffix == ".description":
        _parse_description(path.read_bytes(), "main")
    else:
        read_index(source)


def read_model(path: Path) -> None:
    """Read the model of a file, and all of its tensors."""
    base = path.parent / "base"
    checkpoint = open_checkpoint(str(path.parent), str(base) if base.is_dir() else "")
    for name in checkpoint.names:
        checkpoint.read([name])


def read_key(path: Path) -> None:
    """Read a file as every kind of key and as certificates."""
    refused: HurefError | None = None
    for load in (load_public_key, load_signer, load_certificates):
        try:
            load(path)
        except HurefError as error:
            refused = error
    parse_public_key(path.read_text("latin-1"))
    if refused is not None:
        raise refused


def _run(tokens: list[Token], encoder: TextEncoder | None) -> None:
    """Run a tokenizer as a measurement does: over strings of its vocabulary, then over a text."""
    if encoder is not None:
        for token in (*tokens[:1000], *tokens[-1000:]):
            encoder.emits(token)
        encoder.encode("A text of some length. " * 50)


def allowed(size: int) -> tuple[int, float]:
    """The promise for a file of a size: bytes of memory, seconds of CPU time."""
    return (64 << 20) + 32 * size, max(2.0, size / 1e6)


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _measure(path: Path) -> dict[str, object]:
    """Read a file in this process, which is a fork made for it."""
    memory, seconds = allowed(path.stat().st_size)
    status = Path("/proc/self/status").read_text()
    pages = next(line for line in status.splitlines() if line.startswith("VmSize")).split()[1]
    resource.setrlimit(resource.RLIMIT_AS, (int(pages) * 1024 + 3 * memory,) * 2)
    resource.setrlimit(resource.RLIMIT_CPU, (int(3 * seconds) + 5,) * 2)
    before, began = _resident(), resource.getrusage(resource.RUSAGE_SELF)
    try:
        read_file(path)
        outcome, message = "read", ""
    except HurefError as error:
        outcome, message = "refused", str(error)
    except ValueError as error:
        outcome = "refused" if type(error).__name__ == "JsonError" else "ValueError"
        message = str(error)
    except BaseException as error:  # reported as a failure
        outcome, message = type(error).__name__, str(error)
    after = resource.getrusage(resource.RUSAGE_SELF)
    spent = after.ru_utime + after.ru_stime - began.ru_utime - began.ru_stime
    return {
        "size": path.stat().st_size,
        "outcome": outcome,
        "memory": max(_peak() - before, 0),
        "cpu": spent,
        "message": message[:300],
    }


def _resident() -> int:
    """Bytes in memory now, which is the peak of a process that was just forked."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def main(paths: list[Path]) -> None:
    for path in paths:
        sys.stdout.flush()
        child = os.fork()
        if child == 0:
            print(json.dumps({"path": str(path), **_measure(path)}), flush=True)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        if status:
            died = {"path": str(path), "size": path.stat().st_size, "outcome": f"died: {status}",
                    "memory": 0, "cpu": 0.0, "message": ""}  # fmt: skip
            print(json.dumps(died), flush=True)


if __name__ == "__main__":
    main([Path(word) for word in sys.argv[1:]])
