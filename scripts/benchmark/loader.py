"""What it costs to fingerprint a 7B model that lies on a Hub: bytes, requests, seconds, memory.

A repository of Llama-2-7B's shapes in float16 is served from the loopback address, by another
process, with a latency of its own for each request. Its files have their full size; the blocks
and the embedding that a fingerprint may read hold random numbers, the others are holes on the
disk, which nobody reads.

    python -m scripts.benchmark loader --form meta --latency 0.05
    python -m scripts.benchmark loader --form safetensors --work /tmp/benchmark
"""

import argparse
import base64
import itertools
import json
import multiprocessing
import multiprocessing.connection
import os
import resource
import tempfile
import time
from pathlib import Path
from urllib.request import Request, urlopen

WIDTH, HIDDEN, BLOCKS, HEADS, VOCABULARY = 4096, 11008, 32, 32, 32000
FILLED_BLOCKS = 4  # the first ones hold numbers
REPOSITORY = "meta-llama/Llama-2-7b"
META = {
    "attention.wq.weight": (WIDTH, WIDTH),
    "attention.wk.weight": (WIDTH, WIDTH),
    "attention.wv.weight": (WIDTH, WIDTH),
    "attention.wo.weight": (WIDTH, WIDTH),
    "feed_forward.w1.weight": (HIDDEN, WIDTH),
    "feed_forward.w2.weight": (WIDTH, HIDDEN),
    "feed_forward.w3.weight": (HIDDEN, WIDTH),
    "attention_norm.weight": (WIDTH,),
    "ffn_norm.weight": (WIDTH,),
}
PUBLISHED = {
    "attention.wq.weight": "self_attn.q_proj.weight",
    "attention.wk.weight": "self_attn.k_proj.weight",
    "attention.wv.weight": "self_attn.v_proj.weight",
    "attention.wo.weight": "self_attn.o_proj.weight",
    "feed_forward.w1.weight": "mlp.gate_proj.weight",
    "feed_forward.w2.weight": "mlp.down_proj.weight",
    "feed_forward.w3.weight": "mlp.up_proj.weight",
    "attention_norm.weight": "input_layernorm.weight",
    "ffn_norm.weight": "post_attention_layernorm.weight",
}
OUTER = {
    "tok_embeddings.weight": ("model.embed_tokens.weight", (VOCABULARY, WIDTH)),
    "norm.weight": ("model.norm.weight", (WIDTH,)),
    "output.weight": ("lm_head.weight", (VOCABULARY, WIDTH)),
}


def write_meta(folder: Path) -> list[Path]:
    """One consolidated.00.pth, written by torch with its data left out."""
    import torch
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode():
        tensors = {"tok_embeddings.weight": torch.empty(VOCABULARY, WIDTH, dtype=torch.float16)}
        for block, (name, shape) in itertools.product(range(BLOCKS), META.items()):
            tensors[f"layers.{block}.{name}"] = torch.empty(shape, dtype=torch.float16)
        tensors |= {
            name: torch.empty(shape, dtype=torch.float16)
            for name, (_, shape) in OUTER.items()
            if name not in tensors
        }
    with torch.serialization.skip_data(materialize_fake_tensors=True):
        torch.save(tensors, folder / "consolidated.00.pth")
    params: dict[str, float] = {
        "dim": WIDTH,
        "multiple_of": 256,
        "n_heads": HEADS,
        "n_layers": BLOCKS,
    }
    params |= {"norm_eps": 1e-5, "vocab_size": -1}
    (folder / "params.json").write_text(json.dumps(params))
    return [folder / "consolidated.00.pth"]


def write_safetensors(folder: Path) -> list[Path]:
    """Two shards as transformers cuts them, 24 blocks in the first."""
    shards: list[dict[str, tuple[int, ...]]] = [{}, {}]
    for block, (name, shape) in itertools.product(range(BLOCKS), META.items()):
        shards[block >= 24][f"model.layers.{block}.{PUBLISHED[name]}"] = shape
    for name, shape in OUTER.values():
        shards[name != "model.embed_tokens.weight"][name] = shape
    weight_map, paths = {}, []
    for number, tensors in enumerate(shards, 1):
        path = folder / f"model-{number:05d}-of-00002.safetensors"
        header, end = {}, 0
        for name in sorted(tensors):
            begin, end = end, end + 2 * int_product(tensors[name])
            header[name] = {
                "dtype": "F16", "shape": list(tensors[name]), "data_offsets": [begin, end],
            }  # fmt: skip
            weight_map[name] = path.name
        text = json.dumps(header).encode()
        path.write_bytes(len(text).to_bytes(8, "little") + text)
        os.truncate(path, 8 + len(text) + end)
        paths.append(path)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    config = {
        "model_type": "llama", "hidden_size": WIDTH, "intermediate_size": HIDDEN,
        "num_hidden_layers": BLOCKS, "num_attention_heads": HEADS, "vocab_size": VOCABULARY,
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    return paths


def int_product(shape: tuple[int, ...]) -> int:
    """Number of elements."""
    return shape[0] * (shape[1] if len(shape) > 1 else 1)


def fill(paths: list[Path]) -> None:
    """Random numbers where a fingerprint may read."""
    import torch

    from huref.loader.ranges import LocalFile, Meter
    from huref.loader.stored_tensors import read_index

    torch.manual_seed(0)
    for path in paths:
        entries = read_index(LocalFile(path, path.name, Meter()))
        with path.open("r+b") as file:
            for name, entry in entries.items():
                words = name.removeprefix("model.").split(".")
                is_block = words[0] == "layers" and int(words[1]) < FILLED_BLOCKS
                if is_block or "embed" in name:
                    scale = 1.0 if "norm" in name else 0.02
                    values = (torch.randn(entry.shape) * scale).half()
                    file.seek(entry.start)
                    file.write(values.numpy().tobytes())


def write_tokenizer(folder: Path) -> None:
    """A tiktoken file of 32,000 made-up words."""
    syllables = [c + v for c in "bcdfghklmnprstvz" for v in "aeiou"]
    words = (
        " " * (i % 2) + "".join(w) for i, w in enumerate(itertools.product(syllables, repeat=3))
    )
    lines = [
        base64.b64encode(word.encode()) + b" %d\n" % number
        for number, word in enumerate(itertools.islice(words, VOCABULARY))
    ]
    (folder / "tokenizer.model").write_bytes(b"".join(lines))


def serve(folder: Path, latency: float, pipe: multiprocessing.connection.Connection) -> None:
    """The hub's process: says where it listens, then answers "counts" until it is told to end."""
    from tests.support.hub_server import LoopbackHub

    with LoopbackHub(latency=latency) as hub:
        hub.add(REPOSITORY, folder)
        pipe.send(hub.url)
        while pipe.recv() == "counts":
            files = [path for path, _ in hub.requests if "/resolve/" in path]
            pipe.send((hub.bytes_sent, len(files), len(hub.requests)))


def fingerprint(url: str, pipe: multiprocessing.connection.Connection) -> None:
    """The client's process: the whole of `huref fingerprint`, with its own peak memory."""
    os.environ |= {"HF_ENDPOINT": url, "HF_HUB_DISABLE_TELEMETRY": "1"}
    import huref
    from huref.loader.checkpoint import open_checkpoint

    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        dog = huref.fingerprint(REPOSITORY, Path(folder) / "dog.png")
    wall = time.perf_counter() - began
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    assert dog.record.layers is not None
    assert dog.record.anchors is not None
    checkpoint = open_checkpoint(REPOSITORY)
    blocks = [
        checkpoint.entry(f"model.layers.{i}.{name}").shape
        for i in dog.record.layers
        for name in PUBLISHED.values()
    ]
    needed = 2 * sum(int_product(shape) for shape in blocks)
    needed += 2 * WIDTH * len(dog.record.anchors.filled)
    needed += sum(s for n, s in checkpoint.repository.files.items() if s < 10_000_000)
    pipe.send(
        {
            "needed": needed,
            "total": dog.costs.bytes_total,
            "sent": dog.costs.bytes_read,
            "seconds": dog.costs.seconds,
            "wall_seconds": wall,
            "peak": peak,
        }
    )


def transfer_seconds(url: str, file: Path, commit: str, count: int) -> float:
    """How long the same number of bytes takes in one plain request, thrown away."""
    request = Request(f"{url}/{REPOSITORY}/resolve/{commit}/{file.name}")
    request.add_header("Range", f"bytes=0-{count - 1}")
    began = time.perf_counter()
    with urlopen(request) as response:
        while response.read(1024 * 1024):
            pass
    return time.perf_counter() - began


def main() -> None:
    """Measure and print one line for each figure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--form", choices=("meta", "safetensors"), default="meta")
    parser.add_argument("--latency", type=float, default=0.0, help="seconds before each answer")
    parser.add_argument("--work", type=Path, help="where the repository goes; kept if given")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = (arguments.work or Path(temporary)) / arguments.form
        if not (folder / "tokenizer.model").is_file():
            folder.mkdir(parents=True, exist_ok=True)
            paths = (write_meta if arguments.form == "meta" else write_safetensors)(folder)
            fill(paths)
            write_tokenizer(folder)
        os.environ["HF_HOME"] = str(Path(temporary) / "home")
        measure(folder, arguments.latency)


def measure(folder: Path, latency: float) -> None:
    """Run the hub and the client, each in a process of its own."""
    context = multiprocessing.get_context("spawn")
    hub, hub_end = context.Pipe()
    server = context.Process(target=serve, args=(folder, latency, hub_end))
    server.start()
    url = hub.recv()
    results = []
    for _ in range(2):  # the second time, headers are remembered
        client, client_end = context.Pipe()
        process = context.Process(target=fingerprint, args=(url, client_end))
        process.start()
        client_end.close()  # so that the client's end ends the wait, too
        results.append(client.recv())
        process.join()
        hub.send("counts")
        results[-1]["counts"] = hub.recv()
    sent, files, _ = results[0]["counts"]
    from tests.support.hub_server import HostedRepository

    largest = max(folder.iterdir(), key=lambda path: path.stat().st_size)
    pure = transfer_seconds(url, largest, HostedRepository(folder).commit, sent)
    hub.send("end")
    server.join()
    first = results[0]
    print(f"form               {folder.name}, {first['total']:,} bytes, latency {latency} s")
    print(f"bytes needed       {first['needed']:,}")
    print(f"bytes on the wire  {sent:,} = {sent / first['needed']:.4f} of those needed")
    print(f"of the repository  {100 * sent / first['total']:.2f} %")
    print(f"requests           {files} for files")
    print(f"second time        {results[1]['counts'][0] - sent:,} bytes, "
          f"{results[1]['counts'][1] - files} requests")  # fmt: skip
    stages = ", ".join(f"{stage} {taken:.1f} s" for stage, taken in first["seconds"].items())
    print(f"wall               {first['wall_seconds']:.1f} s: {stages}")
    print(f"pure transfer      {pure:.1f} s for as many bytes in one request")
    print(f"peak memory        {first['peak'] / 2**30:.2f} GiB, encoder and decoder included")
