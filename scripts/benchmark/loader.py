"""Measures the cost to fingerprint a 7B model on a Hub: bytes, requests, seconds and memory.

Another process serves a repository of Llama-2-7B's shapes in float16 from the loopback address,
with a given latency for each request. The files have their full size; the blocks and the embedding
that a fingerprint may read hold random numbers, and the rest are holes of a sparse file.

    python -m scripts.benchmark loader --form meta --latency 0.05
    python -m scripts.benchmark loader --form safetensors --work /tmp/benchmark
"""

import multiprocessing
import multiprocessing.connection
import os
import resource
import tempfile
import time
from pathlib import Path
from urllib.request import Request, urlopen

from scripts import make_parser
from scripts.benchmark.llama_shapes import (
    LLAMA_2_7B,
    PUBLISHED,
    fill,
    int_product,
    write_meta,
    write_safetensors,
    write_tokenizer,
)

REPOSITORY = "meta-llama/Llama-2-7b"


def serve(folder: Path, latency: float, pipe: multiprocessing.connection.Connection) -> None:
    """Serve the folder: send the address, then the counts on request, until "end" is received."""
    from tests.support.hub_server import LoopbackHub

    with LoopbackHub(latency=latency) as hub:
        hub.add(REPOSITORY, folder)
        pipe.send(hub.url)
        while pipe.recv() == "counts":
            files = [path for path, _ in hub.requests if "/resolve/" in path]
            pipe.send((hub.bytes_sent, len(files), len(hub.requests)))


def fingerprint(url: str, pipe: multiprocessing.connection.Connection) -> None:
    """Run `huref.fingerprint` and send its costs, with the peak memory of this process."""
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
        for name in PUBLISHED
    ]
    needed = 2 * sum(int_product(shape) for shape in blocks)
    needed += 2 * LLAMA_2_7B.width * len(dog.record.anchors.filled)
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
    """Seconds to download the same number of bytes in one request."""
    request = Request(f"{url}/{REPOSITORY}/resolve/{commit}/{file.name}")
    request.add_header("Range", f"bytes=0-{count - 1}")
    began = time.perf_counter()
    with urlopen(request) as response:
        while response.read(1024 * 1024):
            pass
    return time.perf_counter() - began


def main() -> None:
    """Measure and print one line per figure."""
    parser = make_parser(__doc__)
    parser.add_argument("--form", choices=("meta", "safetensors"), default="meta")
    parser.add_argument("--latency", type=float, default=0.0, help="seconds before each answer")
    parser.add_argument("--work", type=Path, help="folder for the repository; default: temporary")
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
    """Run the Hub and the client in separate processes and print the figures."""
    context = multiprocessing.get_context("spawn")
    hub, hub_end = context.Pipe()
    server = context.Process(target=serve, args=(folder, latency, hub_end))
    server.start()
    url = hub.recv()
    results = []
    for _ in range(2):  # the second run finds headers in the cache
        client, client_end = context.Pipe()
        process = context.Process(target=fingerprint, args=(url, client_end))
        process.start()
        client_end.close()  # so that recv() raises if the client dies
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
    print(f"bytes sent         {sent:,} = {sent / first['needed']:.4f} of the bytes needed")
    print(f"of the repository  {100 * sent / first['total']:.2f} %")
    print(f"requests           {files} for files")
    print(f"second run         {results[1]['counts'][0] - sent:,} bytes, "
          f"{results[1]['counts'][1] - files} requests")  # fmt: skip
    stages = ", ".join(f"{stage} {taken:.1f} s" for stage, taken in first["seconds"].items())
    print(f"wall               {first['wall_seconds']:.1f} s: {stages}")
    print(f"pure transfer      {pure:.1f} s for the same number of bytes in one request")
    print(f"peak memory        {first['peak'] / 2**30:.2f} GiB, encoder and decoder included")
