"""Checks the converted models: transformers' own reading of each GGUF file is the oracle.

    python -m scripts.real check [--cache DIR] [--only NAME...]

The logits of the converted folder are held against those of the model that transformers loads from
the GGUF file, on text that the folder's tokenizer cuts; beside them the loss of both on English
prose. The results are kept in a file, for the tables.
"""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"

from scripts.real.catalogue import Cache, cache_parser, read_catalogue
from scripts.zoo.corpus import read_texts

KEPT = "conversion.json"
TEXT = ("docstrings", (0, 10), 0.02)  # kind, buckets and megabytes
WINDOWS, CONTEXT = 4, 128


def check(file: Path, folder: Path) -> dict[str, Any]:
    """The loss in nats per token of both models, and the largest difference of their logits.

    The difference is in units of the logits' standard deviation.
    """
    import torch
    from torch.nn.functional import cross_entropy
    from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    torch.set_num_threads(1)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder, local_files_only=True)
    ids = tokenizer("\n\n".join(read_texts(*TEXT)), add_special_tokens=False)["input_ids"]
    tokens = torch.tensor(ids[: WINDOWS * CONTEXT]).reshape(-1, CONTEXT)
    first = tokenizer.bos_token_id
    if first is not None:
        tokens[:, 0] = first
    logits = []
    for place, options in ((folder, {}), (file.parent, {"gguf_file": file.name})):
        model = AutoModelForCausalLM.from_pretrained(
            place, dtype=torch.float32, local_files_only=True, **options
        ).eval()
        with torch.no_grad():
            logits.append(torch.cat([model(part[None]).logits for part in tokens]))
        del model
    one, other = logits
    losses = [
        float(cross_entropy(each[:, :-1].flatten(0, 1), tokens[:, 1:].flatten())) for each in logits
    ]
    return {
        "tokens": tokens.numel(),
        "characters_a_token": round(len(tokenizer.decode(ids)) / len(ids), 2),
        "loss": round(losses[0], 4),
        "loss_of_gguf": round(losses[1], 4),
        "difference": float((one - other).abs().max() / other.std()),
    }


def conversion_rows(cache: Cache) -> Iterator[str]:
    """The kept results as a table."""
    path = cache.root / KEPT
    if not path.exists():
        yield "Not checked."
        return
    yield (
        "| model | characters a token | loss a token, converted | loss, GGUF read by transformers "
        "| largest difference of logits, in their standard deviation |"
    )
    yield "| --- | ---: | ---: | ---: | ---: |"
    for name, one in json.loads(path.read_text("utf-8")).items():
        yield (
            f"| {name} | {one['characters_a_token']} | {one['loss']:.3f} | "
            f"{one['loss_of_gguf']:.3f} | {one['difference']:.1e} |"
        )


def main() -> None:
    """Check the converted models that the command line names."""
    parser = cache_parser(__doc__)
    parser.add_argument("--only", nargs="+", default=list(read_catalogue()))
    options = parser.parse_args()
    cache = Cache(options.cache)
    path = cache.root / KEPT
    kept: dict[str, Any] = json.loads(path.read_text("utf-8")) if path.exists() else {}
    for name in options.only:
        if not (cache.models / name).exists():
            continue
        kept[name] = check(cache.file(name), cache.models / name)
        print(f"{name}: {kept[name]}", flush=True)
        path.write_text(json.dumps(kept, indent=1), "utf-8")
