"""What is fuzzed: a parser for each kind of input, and where there is one the reference reader.

A target reads bytes. It passes when the parser reads them or refuses them with one of its own
errors in one line, and when the reference reader agrees: it reads what the parser read, and reads
the same. `ALLOWED` lists where huref accepts more, with the reason.
"""

import contextlib
import io
import json
import tempfile
import zipfile
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

from huref.bounded_json import JsonError, loads
from huref.errors import HurefError
from huref.loader.ranges import ByteSource, Meter

Target = Callable[[bytes], None]
TARGETS: dict[str, Target] = {}
ALLOWED = {
    "safetensors: types of unknown names": "a newer package writes them; reading one is refused",
    "gguf: names that are not UTF-8": "they are read as surrogates; no name of a model has them",
    "gguf: alignment": "the package ignores an alignment of a type other than uint32",
    "tokenizer: further keys and components of unknown type": "a newer library may write them",
    "tokenizer: a key twice": "the last one counts; the library refuses it in some places only",
    "torch: checksums in a zip": "tensors are read in part",
    "torch: objects": "huref reads tensors and drops what torch.load would build beside them",
}


class DisagreementError(AssertionError):
    """huref and the reference reader do not agree about an input."""


class Memory(ByteSource):
    """Bytes in memory as a file."""

    merge_gap = 0

    def __init__(self, data: bytes, name: str):
        self.name, self.size, self._data = name, len(data), data

    def read_into(self, start: int, view: memoryview) -> None:
        """See ByteSource."""
        view[:] = self._data[start : start + len(view)]


def target(parse: Target) -> Target:
    """Register a parser under the name of its function; its own errors are no failures."""

    def run(data: bytes) -> None:
        try:
            parse(data)
        except (HurefError, JsonError) as error:
            if "\n" in str(error) and "\n" not in data.decode("latin-1"):
                raise DisagreementError(f"an error of several lines: {error}") from error

    TARGETS[parse.__name__] = run
    return parse


@lru_cache(maxsize=1)
def _folder() -> Path:
    return Path(tempfile.mkdtemp(prefix="huref-fuzz-"))


def _file(data: bytes, name: str) -> Path:
    path = _folder() / name
    path.write_bytes(data)
    return path


@target
def safetensors(data: bytes) -> None:
    """Headers of safetensors, beside the safetensors package."""
    import safetensors as package

    from huref.loader.formats.safetensors import read_header

    found = read_header(Memory(data, "a.safetensors"))
    try:
        read: Callable[[bytes], list[tuple[str, Any]]] = package.deserialize
        reference = dict(read(data))
    except package.SafetensorError as error:
        if "unknown variant" in str(error):
            return  # see ALLOWED
        raise DisagreementError(f"the reference refuses it: {error}") from error
    if set(reference) != set(found):
        raise DisagreementError("other names")
    for name, entry in found.items():
        if tuple(reference[name]["shape"]) != entry.shape:
            raise DisagreementError(f"another shape of {name!r}")
        if bytes(reference[name]["data"]) != data[entry.start : entry.stop]:
            raise DisagreementError(f"other bytes of {name!r}")


@target
def gguf(data: bytes) -> None:
    """Headers of GGUF and their vocabulary, beside the gguf package."""
    from gguf import GGUFReader

    from huref.loader.formats.gguf import read_header
    from huref.loader.vocabulary.gguf import parse_gguf_vocabulary

    header = read_header(Memory(data, "a.gguf"))
    if "tokenizer.ggml.tokens" in header.metadata:
        parse_gguf_vocabulary(header.metadata)
    try:
        reader = GGUFReader(_file(data, "a.gguf"))
        reference = {t.name: (tuple(map(int, reversed(t.shape))), int(t.data_offset))
                     for t in reader.tensors}  # fmt: skip
    except Exception:  # listed in ALLOWED: the package checks less and fails in other places
        return
    for name, (shape, offset) in reference.items():
        entry = header.tensors.get(name)
        if entry is not None and entry.ggml_type is None and entry.nbytes:
            if entry.shape != shape:
                raise DisagreementError(f"another shape of {name!r}")
            if entry.start != offset and _has_plain_alignment(header.metadata):
                raise DisagreementError(f"another place of {name!r}")


def _has_plain_alignment(metadata: dict[str, object]) -> bool:
    return metadata.get("general.alignment", 32) == 32


@target
def torch_file(data: bytes) -> None:
    """Torch files, zipped and legacy; the places in a zip beside the zipfile module."""
    from huref.loader.formats import torch_zip
    from huref.loader.stored_tensors import read_index

    source = Memory(data, "a.bin")
    read_index(source)
    if data[:4] == torch_zip.MAGIC:
        _, places = torch_zip.read_contents(source)
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            for info in archive.infolist():
                key = info.filename.rpartition("/data/")[2]
                if "/data/" in info.filename and key in places:
                    start, stop, header = places[key]
                    if header is not None:
                        head = source.read(header, header + torch_zip.LOCAL_HEADER)
                        torch_zip.require_header(head, (header, start), source.name)
                    try:
                        expected = archive.read(info)
                    except (zipfile.BadZipFile, ValueError, RuntimeError, EOFError):
                        continue  # see ALLOWED
                    if data[start:stop] != expected:
                        raise DisagreementError(f"other bytes of {info.filename!r}")


@target
def pickled(data: bytes) -> None:
    """The pickle machine alone, beside Python's own for plain values."""
    from huref.loader.formats.pickle_machine import EndOfPickleError
    from huref.loader.formats.unpickle import unpickle

    try:
        unpickle(data, "a.pkl")
    except EndOfPickleError:
        return


@target
def nvidia(data: bytes) -> None:
    """NVIDIA's network pickles, and the other files of generators."""
    from huref.decoder.network_files import open_network

    open_network(_file(data, "a.pkl"))


@target
def tokenizer(data: bytes) -> None:
    """tokenizer.json, beside the tokenizers library."""
    from tokenizers import Tokenizer

    from huref.loader.vocabulary.tokenizer_json import parse_tokenizer_json

    found = {token.id: token for token in parse_tokenizer_json(data)}
    content = loads(data)
    if _has_unknown_parts(content):
        return
    try:
        reference = Tokenizer.from_str(data.decode())
    except Exception as error:
        if _has_a_key_twice(data):
            return  # see ALLOWED
        raise DisagreementError(f"the reference refuses it: {error}") from error
    except BaseException:  # the library panics at some vocabularies
        return
    vocabulary = set(reference.get_vocab(with_added_tokens=False).values())
    if missing := vocabulary - set(found):
        raise DisagreementError(f"the ids {sorted(missing)[:5]} are missing")


def _has_a_key_twice(data: bytes) -> bool:
    try:
        loads(data, unique=True)
    except JsonError as error:
        return "a key twice" in str(error)
    return False


def _has_unknown_parts(content: dict[str, object]) -> bool:
    """Whether a tokenizer has keys or components that ALLOWED lists."""
    from huref.loader.vocabulary.tokenizer_parts import PARTS, SEQUENCES

    known = {"version", "truncation", "padding", "added_tokens", "model", *SEQUENCES}
    waiting: list[tuple[str, object]] = [(place, content.get(place)) for place in SEQUENCES]
    while waiting:
        place, part = waiting.pop()
        if isinstance(part, dict):
            if part.get("type") == "Sequence":
                waiting += [(place, child) for child in part[SEQUENCES[place]]]
            elif part.get("type") not in PARTS[place]:
                return True
    truncated = content.get("truncation") is not None or content.get("padding") is not None
    return bool(set(content) - known) or truncated


@target
def sentencepiece(data: bytes) -> None:
    """tokenizer.model."""
    from huref.loader.vocabulary.sentencepiece import parse_sentencepiece

    parse_sentencepiece(data)


@target
def vocabularies(data: bytes) -> None:
    """The other vocabulary files, chosen by the first byte."""
    from huref.loader.vocabulary.bpe_files import added_tokens, parse_vocab_json, parse_vocab_txt
    from huref.loader.vocabulary.tiktoken import parse_tekken, parse_tiktoken

    kind, rest = data[:1], data[1:]
    if kind == b"t":
        parse_tiktoken(rest)
    elif kind == b"k":
        parse_tekken(rest)
    elif kind == b"x":
        parse_vocab_txt(rest)
    elif kind == b"a":
        side = loads(rest, constants=True)
        if isinstance(side, dict):
            added_tokens({"tokenizer_config.json": side})
            added_tokens({"special_tokens_map.json": side, "added_tokens.json": side})
    else:
        parse_vocab_json(rest, {})


@target
def bounded_json(data: bytes) -> None:
    """The bounded reader of JSON, beside Python's own."""
    found = loads(data, constants=True)
    if json.dumps(found) != json.dumps(json.loads(data.decode())):
        raise DisagreementError("another value")


@target
def answer(data: bytes) -> None:
    """Answers of endpoints."""
    from huref.blackbox.answers import parse_answer
    from huref.blackbox.client import count_tokens

    payload = loads(data, constants=True)
    count_tokens(payload)
    parse_answer(payload)


@target
def description(data: bytes) -> None:
    """The Hub's description of a model."""
    from huref.loader.hub.repository import _parse_description

    _parse_description(data, "main")


@target
def picture(data: bytes) -> None:
    """Fingerprint pictures, which Pillow reads."""
    from huref.api.open import read_picture

    read_picture(_file(data, "a.png"))


@target
def record(data: bytes) -> None:
    """Records and signatures, which the safetensors package reads."""
    from huref.blackbox.signature import load_signature
    from huref.invariants.record import load_record

    path = _file(data, "a.safetensors")
    for load in (load_record, load_signature):
        try:
            load(path)
        except HurefError:
            continue


@target
def export(data: bytes) -> None:
    """Exports of registries, journals and baselines."""
    from huref.blackbox.baseline import load_baseline
    from huref.registry.exchange import read_jsonl
    from huref.registry.fleet.journal import Journal

    path = _file(data, "a.jsonl")
    Journal(path)
    with contextlib.suppress(HurefError):
        load_baseline(path)
    list(read_jsonl(path)[1])


@target
def config(data: bytes) -> None:
    """Configurations: of models, adapters, quantisation; and what a card declares."""
    from huref.loader.declarations import read_declarations
    from huref.loader.repository import LocalFolder, read_json
    from huref.loader.sources.wrappers import is_wrapper, language_config

    folder = _folder() / "model"
    folder.mkdir(exist_ok=True)
    for name in ("config.json", "adapter_config.json", "README.md", "mergekit_config.yml"):
        (folder / name).write_bytes(data)
    repository = LocalFolder(folder, "model", Meter())
    read_declarations(repository)
    content = read_json(repository, "config.json")
    is_wrapper(content)
    language_config(content)


@target
def attestation(data: bytes) -> None:
    """Statements and sigstore bundles, as `huref verify` reads them."""
    from huref.api.verify import verify

    verify(_file(data, "a.json"))


@target
def statement(data: bytes) -> None:
    """The payload of an envelope."""
    from huref.api.verify import _check_verdicts
    from huref.evidence.statement import parse_statement

    list(_check_verdicts(parse_statement(data)))


@target
def token(data: bytes) -> None:
    """RFC 3161 timestamps, which rfc3161-client reads."""
    from huref.evidence.timestamp import read_timestamp

    read_timestamp(data, b"signed", [])


@target
def key(data: bytes) -> None:
    """Keys and certificates in PEM, and the keys of pictures, which cryptography reads."""
    from huref.evidence.keys import load_public_key, load_signer, parse_public_key
    from huref.evidence.timestamp import load_certificates

    path = _file(data, "a.pem")
    parse_public_key(data.decode("latin-1"))
    for load in (load_public_key, load_signer, load_certificates):
        with contextlib.suppress(HurefError):
            load(path)


@target
def recipe(data: bytes) -> None:
    """Recipes, beside PyYAML without bounds; its C parser, which takes a tab before a comment."""
    import yaml

    from huref.bounded_yaml import YamlError
    from huref.bounded_yaml import loads as loads_yaml
    from huref.recipe import load_recipe

    with contextlib.suppress(HurefError):
        load_recipe(str(_file(data, "a.yaml")))
    try:
        text = data.decode()
        found = loads_yaml(text)
    except (YamlError, UnicodeDecodeError):
        return
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    if repr(found) != repr(yaml.load(text, Loader=loader)):
        raise DisagreementError("another value")


@target
def patterns(data: bytes) -> None:
    """Patterns of an adapter's modules, beside `re`: a pattern, then names, a line each."""
    import re

    from huref.loader.sources.name_patterns import NamePatterns, PatternError

    pattern, *names = data.decode("latin-1").split("\n")
    if len(pattern) > 40 or len(re.findall(r"[*+?{|]", pattern)) > 2:
        return  # `re` might not end
    try:
        found = NamePatterns({pattern: 1})
    except PatternError:
        return
    for name in names[:8]:
        expected = re.match(rf"(.*\.)?({pattern})$", name[:60]) is not None
        if bool(found.find(name[:60], 0)) != expected:
            raise DisagreementError(f"{pattern!r} and {name!r}")


@target
def pairs(data: bytes) -> None:
    """Lists of pairs and of models, and manifests of Ollama."""
    from huref.api.pairs_file import read_pairs
    from huref.loader.ollama import is_manifest, model_of_manifest
    from huref.registry.fleet.model_list import read_list

    for name in ("a.tsv", "a.csv"):
        with contextlib.suppress(HurefError):
            read_pairs(_file(data, name))
    path = _file(data, "a.txt")
    with contextlib.suppress(HurefError):
        read_list(path)
    if is_manifest(path):
        model_of_manifest(path, "a")


@target
def folder(data: bytes) -> None:
    """A whole model: its files, its adapter and base, its tokenizer and all of its tensors."""
    from scripts.fuzz.whole_models import read_folder

    read_folder(data, _folder() / "whole")


@target
def hub(data: bytes) -> None:
    """A repository of a Hub that answers as the input says."""
    from scripts.fuzz.whole_models import read_hub

    read_hub(data, _folder() / "hub")


@target
def names(data: bytes) -> None:
    """What a user types or pastes as a model's name."""
    from scripts.fuzz.typed_names import look_up

    look_up(data, _folder() / "names")
