"""Write the seeds of tests/fuzz/seeds again: one small valid input of each kind and form."""

import base64
import io
import json
import pickle
import struct
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from scripts import make_parser
from scripts.fuzz.inputs import STORED
from scripts.fuzz.whole_seeds import folders, hubs

SENTENCEPIECE = b"\x0a\x09\x0a\x05<unk>\x18\x02\x0a\x0a\x0a\x03\xe2\x96\x81\x15\0\0\0\0"


def main() -> None:
    """Run the command."""
    make_parser(__doc__).parse_args()
    for name, number, data in _seeds():
        path = STORED / "seeds" / name / str(number)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


def _seeds() -> Iterator[tuple[str, int, bytes]]:
    for name, made in (
        ("safetensors", _safetensors()), ("gguf", _gguf()), ("torch_file", _torch()),
        ("pickled", _pickles()), ("tokenizer", _tokenizers()),
        ("sentencepiece", [SENTENCEPIECE]),
        ("vocabularies", _vocabularies()), ("bounded_json", _json()), ("answer", _answers()),
        ("description", _descriptions()), ("picture", _pictures()), ("export", _exports()),
        ("config", _configs()), ("record", _safetensors()), ("nvidia", _pickles()),
        ("attestation", _attestations()), ("statement", [_statement()]), ("token", [_token()]),
        ("key", _keys()), ("recipe", _recipes()), ("patterns", _patterns()), ("names", _names()),
        ("pairs", _lists()), ("folder", folders()), ("hub", hubs()),
    ):  # fmt: skip
        for number, data in enumerate(made):
            yield name, number, data


def _safetensors() -> Iterator[bytes]:
    from safetensors.torch import save

    yield save({"a": torch.ones(2, 3), "b": torch.zeros(1, dtype=torch.bfloat16)})
    yield save({"a": torch.ones(0)}, {"k": "v"})


def _gguf() -> Iterator[bytes]:
    from gguf import GGUFWriter

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.gguf"
        writer = GGUFWriter(path, "llama")
        writer.add_block_count(1)
        writer.add_token_list(["a", "b"])
        writer.add_token_types([1, 3])
        writer.add_tensor("blk.0.ffn_up_exps.weight", np.ones((2, 3, 32), np.float32))
        writer.add_tensor("output.weight", np.ones((2, 32), np.float16))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        yield path.read_bytes()
    yield b"GGUF" + struct.pack("<IQQ", 3, 0, 0) + bytes(8)


def _torch() -> Iterator[bytes]:
    for zipped in (True, False):
        buffer = io.BytesIO()
        state = {"a": torch.ones(2, 3), "b": torch.ones(4).view(2, 2).T}
        torch.save(state, buffer, _use_new_zipfile_serialization=zipped)
        yield buffer.getvalue()


def _pickles() -> Iterator[bytes]:
    for protocol in (2, 4):
        yield pickle.dumps({"a": [1, 2.5, None, True, ("x", b"y")], 7: {"b": 2**70}}, protocol)


def _tokenizers() -> Iterator[bytes]:
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers

    for model in (
        models.BPE({"a": 0, "b": 1, "ab": 2}, [("a", "b")]),
        models.Unigram([("<unk>", 0.0), ("a", -1.5)], 0),
        models.WordPiece({"a": 0, "##b": 1}, unk_token="a"),
        models.WordLevel({"a": 0}, unk_token="a"),
    ):
        tokenizer = Tokenizer(model)
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.ByteLevel(), pre_tokenizers.Metaspace(), pre_tokenizers.Digits()]
        )
        tokenizer.normalizer = normalizers.Replace("a", "b")
        tokenizer.decoder = decoders.ByteLevel()
        tokenizer.add_special_tokens(["<s>"])
        yield json.dumps(json.loads(tokenizer.to_str())).encode()


def _vocabularies() -> Iterator[bytes]:
    yield b"tYQ== 0\nYg== 1\n"
    entry = {"rank": 0, "token_bytes": base64.b64encode(b"a").decode()}
    settings = {"default_num_special_tokens": 1, "default_vocab_size": 2}
    yield b"k" + json.dumps({"config": settings, "vocab": [entry]}).encode()
    yield b"x[UNK]\na\n##b\r\n"
    decoder = {"0": {"content": "<s>", "special": True}}
    yield b"a" + json.dumps({"added_tokens_decoder": decoder, "bos_token": "<s>"}).encode()
    yield b"j" + json.dumps({"a": 0, "\u0120b": 1, "<0x0A>": 2}).encode()


def _json() -> Iterator[bytes]:
    yield b'{"a": [1, -2.5e3, "\\u00e9\\ud83d\\ude00\\\\\\"", true, null, {}]}'
    yield b"[NaN, Infinity]"


def _answers() -> Iterator[bytes]:
    top = [{"token": "token_id:5", "logprob": -2.0, "bytes": [97]}]
    entry = {"token": "a", "logprob": -1.0, "id": 4, "top_logprobs": top}
    chat = {"message": {"content": "a"}, "logprobs": {"content": [entry]}}
    yield json.dumps({"choices": [chat], "usage": {"total_tokens": 3}}).encode()
    plain = {"tokens": ["a"], "token_logprobs": [-1.0], "top_logprobs": [{"token_id:7": -1.0}]}
    yield json.dumps({"choices": [{"text": "a", "logprobs": plain}]}).encode()


def _descriptions() -> Iterator[bytes]:
    files = [{"rfilename": "config.json", "size": 3}, {"rfilename": "a.bin"}]
    card = {"base_model": ["org/base"]}
    yield json.dumps({"id": "a/b", "sha": "0" * 40, "siblings": files, "cardData": card}).encode()


def _pictures() -> Iterator[bytes]:
    from PIL import Image, PngImagePlugin

    from huref.recipe import load_recipe

    recipe = load_recipe()[0]
    chunks = PngImagePlugin.PngInfo()
    latent = base64.b64encode(bytes(2048)).decode()
    texts = {"model": "a", "revision": "", "recipe": recipe.picture_digest,
             "recipe.json": recipe.to_json(), "latent": latent}  # fmt: skip
    for key, value in texts.items():
        chunks.add_text(f"huref:{key}", value)
    buffer = io.BytesIO()
    Image.new("RGB", (4, 4)).save(buffer, "PNG", pnginfo=chunks)
    yield buffer.getvalue()


def _exports() -> Iterator[bytes]:
    from dataclasses import asdict

    from huref.recipe import load_recipe
    from huref.registry.sketch import VERSION

    recipe = load_recipe()[0]
    head = {"huref": "registry", "recipe": asdict(recipe), "sketch": VERSION}
    texts = {"model": "a", "revision": None, "recipe": recipe.digest, "base": None,
             "measured_at": "2026-01-01", "measured_by": "x"}  # fmt: skip
    arrays = {"latent": "AAAA", "sketch": "AAAA", "anchors": "AAAA"}
    yield f"{json.dumps(head)}\n{json.dumps(texts | arrays)}\n".encode()


def _statement() -> bytes:
    from datetime import UTC, datetime

    from huref.evidence.model_files import Subject
    from huref.evidence.statement import Statement
    from huref.recipe import load_recipe

    pair = {"base": "b", "verdict": "descends", "why": "x"}
    latent = np.zeros(512, np.float32)
    made = Statement((Subject("a", "0" * 64, 1),), "m", None, load_recipe()[0], latent, "0" * 64,
                     datetime(2026, 1, 1, tzinfo=UTC), None, (pair,), None, {})  # fmt: skip
    return made.to_payload()


def _attestations() -> Iterator[bytes]:
    kind, payload = "application/vnd.in-toto+json", base64.b64encode(_statement()).decode()
    signature = {"sig": "AAAA", "timestamps": [{"type": "rfc3161", "data": "AAAA"}]}
    yield json.dumps({"payloadType": kind, "payload": payload, "signatures": [signature]}).encode()
    envelope = {"payloadType": kind, "payload": "AAAA", "signatures": [{"sig": "AAAA"}]}
    media = "application/vnd.dev.sigstore.bundle.v0.3+json"
    yield json.dumps({"mediaType": media, "dsseEnvelope": envelope}).encode()


def _token() -> bytes:
    """A token that openssl makes over other bytes."""
    from tests.support.timestamp_server import TimestampAuthority, openssl

    with tempfile.TemporaryDirectory() as name:
        authority = TimestampAuthority(Path(name) / "keys")
        query = openssl("ts", "-query", "-digest", "0" * 64, "-sha256", "-cert")
        return authority.reply(query)


def _keys() -> Iterator[bytes]:
    from tests.support.timestamp_server import openssl

    private = openssl("genpkey", "-algorithm", "ed25519")
    yield openssl("pkey", "-pubout", data=private)  # a private one would alarm scanners
    der = openssl("pkey", "-pubout", "-outform", "DER", data=private)
    yield base64.b64encode(der)
    request = ("req", "-x509", "-newkey", "ed25519", "-nodes", "-keyout", "/dev/null")
    yield openssl(*request, "-subj", "/CN=a", "-days", "1")


def _recipes() -> Iterator[bytes]:
    from huref.assets import locate

    yield locate("configs/recipes/default.yaml").read_bytes()
    yield b"name: &a x\nlayers: [1, *a]\nmore: {<<: {b: 0x1f}, c: 1.5, d: 2026-01-01, e: null}\n"


def _names() -> Iterator[bytes]:
    yield b"plain\nplain/config.json\n./plain/model.safetensors\nfile://plain\n'plain'\nplain\\config.json"
    yield b"many\nmany:Q4_K_M\nmany/a-Q8_0.gguf\nmany:latest\nmany:Q9\nmany:q8_0"
    yield b"ollama:tiny\nollama:hf.co/org/tiny:Q4_K_M\nollama run tiny\nhttps://ollama.com/library/tiny"
    yield b"store\nstore/manifests/registry.ollama.ai/library/tiny/latest\nollama:other\nollama:.."
    yield b"org/tiny\norg/tiny@main\nmodels--org--tiny\norg/tiny:Q4_K_M\norg/tiny/a.safetensors\n."
    yield (
        b"https://huggingface.co/org/tiny/tree/main\nhf.co/org/tiny/blob/refs%2Fpr%2F1/a.gguf\n"
        b"hf://org/tiny\nhttps://huggingface.co/datasets/a/b\nhttps://hf.co/org/tiny/discussions\n"
        b"https://huggingface.co/org/tiny/resolve/refs/pr/1/model.safetensors?download=true"
    )
    yield (
        b"hf download org/tiny --revision main\ngit clone https://huggingface.co/org/tiny.git\n"
        b"vllm serve org/tiny\nhttp://127.0.0.1:8000/v1\ns3://bucket/model\n\xff\xfe"
    )


def _patterns() -> Iterator[bytes]:
    yield b"q_proj\nlayers.0.q_proj\nq_proj"
    yield rb"layers\.(0|1)\..*[kq]_proj" + b"\nmodel.layers.0.self_attn.k_proj\nlayers.2.q_proj"


def _lists() -> Iterator[bytes]:
    yield b"id_a\tid_b\trelation\texpected\trivals\na/b\tc/d\tx\tdescends\tA=1; B\n"
    yield b"# models\norg/a\nhttps://huggingface.co/org/b@main # comment\n"
    layer = {"mediaType": "application/vnd.ollama.image.model", "digest": "sha256:" + "0" * 64}
    yield json.dumps({"layers": [layer]}).encode()


def _configs() -> Iterator[bytes]:
    yield b'{"model_type": "llama", "text_config": {"hidden_size": 8}, "_name_or_path": "a/b"}'
    yield b'{"base_model_name_or_path": "a/b", "alpha_pattern": {"q": 1}, "lora_alpha": 8}'
    yield b"---\nbase_model:\n- a/b\nbase_model_relation: merge\n---\ntext\n"
    yield b"models:\n- model: a/b\n- model: {path: c/d}\nbase_model: e/f\n"
