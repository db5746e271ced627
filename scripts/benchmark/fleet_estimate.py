"""Estimates requests, bytes and hours to measure many models of the Hub.

The requests for one model are counted on a loopback Hub that redirects to another server, like the
real one. Bytes follow from the shapes of the first three blocks, which `function-1` reads. Two
things are assumed: the distribution of model sizes (MIX), and the Hub's limits, requests in five
minutes from its documentation of September 2025 (LIMITS).

    python -m scripts.benchmark fleet-estimate --models 100000
"""

import json
import os
import tempfile
from pathlib import Path

from scripts import make_parser

SHARDS = 4
WINDOW = 300  # seconds
LIMITS = {"anonymous": (500, 3000), "free token": (1000, 5000), "PRO token": (2500, 12000)}
LINES = {"1 Gbit/s": 125e6, "10 Gbit/s": 1250e6}  # bytes a second
LISTED = 1000  # models per page of the Hub's listing
# Share of the models, width, hidden width, key-value width, representative model.
MIX = (
    (0.35, 896, 4864, 128, "0.5B (Qwen2.5)"),
    (0.25, 3072, 8192, 1024, "3B (Llama 3.2)"),
    (0.30, 4096, 14336, 1024, "8B (Llama 3.1)"),
    (0.07, 5120, 27648, 1024, "32B (Qwen2.5)"),
    (0.03, 8192, 28672, 1024, "70B (Llama 3.1)"),
)
BLOCKS = 3  # that are read
TOKENIZER = 9_000_000  # bytes of a large tokenizer.json
ANCHORS = 512


def bytes_read(width: int, hidden: int, narrow: int) -> int:
    """Bytes of the blocks in 16 bits, the anchors' embeddings and the tokenizer."""
    block = 2 * width * width + 2 * width * narrow + 3 * width * hidden
    return 2 * BLOCKS * block + 2 * ANCHORS * width + TOKENIZER


def count_requests() -> dict[str, int]:
    """Requests for a model in four files: to the Hub's API, for its files, and after redirects."""
    from safetensors.torch import load_file, save_file

    from tests.support.fleet_hub import FleetHub, write_small_llama

    with tempfile.TemporaryDirectory() as temporary:
        folder = write_small_llama(Path(temporary) / "model", 0)
        tensors = load_file(folder / "model.safetensors")
        (folder / "model.safetensors").unlink()
        places: dict[str, str] = {}
        for shard in range(SHARDS):
            file = f"model-{shard + 1:05d}-of-{SHARDS:05d}.safetensors"
            per_shard = -(-len(tensors) // SHARDS)
            names = list(tensors)[shard * per_shard : (shard + 1) * per_shard]
            save_file({name: tensors[name] for name in names}, folder / file)
            places |= dict.fromkeys(names, file)
        index = {"metadata": {"total_size": 0}, "weight_map": places}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
        with FleetHub() as behind, FleetHub(redirect_to=behind.url) as hub:
            for server in (hub, behind):
                server.add("org/model", folder)
            os.environ |= {"HF_ENDPOINT": hub.url, "HF_HOME": temporary}
            from huref.recipe import load_recipe
            from huref.registry.fleet.work import Task, measure_task

            outcome = measure_task(Task("org/model", "default", load_recipe()[0].digest))
            assert outcome.entry is not None, outcome.reason
            api = sum(path.startswith("api/models") for path, _ in hub.requests)
            files = sum("/resolve/" in path for path, _ in hub.requests)
            return {"api": api, "files": files, "elsewhere": len(behind.requests)}


def main() -> None:
    """Print the estimate as a Markdown table."""
    parser = make_parser(__doc__)
    parser.add_argument("--models", type=int, default=100_000)
    count = parser.parse_args().models
    requests = count_requests()
    sizes = [bytes_read(*shape) for _, *shape, _ in MIX]
    mean = sum(share * size for (share, *_), size in zip(MIX, sizes, strict=True))
    print(f"One model in {SHARDS} files: {requests['api']} request to the API, "
          f"{requests['files']} for files, {requests['elsewhere']} or more to the servers "
          f"behind the Hub.\n")  # fmt: skip
    print("| model | share | bytes read |\n| --- | ---: | ---: |")
    for (share, *_, name), size in zip(MIX, sizes, strict=True):
        print(f"| {name} | {share:.0%} | {size / 1e6:,.0f} MB |")
    print(f"| mean | | {mean / 1e6:,.0f} MB |\n")
    api = count * requests["api"] + -(-count // LISTED)
    files = count * requests["files"]
    print(f"{count:,} models: {api:,} requests to the API, {files:,} for files, "
          f"{count * mean / 1e12:,.0f} TB.\n")  # fmt: skip
    print("| limited by | hours |\n| --- | ---: |")
    for name, (of_api, of_files) in LIMITS.items():
        hours = [total / limit * WINDOW / 3600 for total, limit in ((api, of_api),
                                                                   (files, of_files))]  # fmt: skip
        print(f"| {name}: API / files | {hours[0]:.1f} / {hours[1]:.1f} |")
    for name, speed in LINES.items():
        print(f"| a line of {name} | {count * mean / speed / 3600:.0f} |")
