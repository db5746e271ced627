"""Measures the public models, their children, the strangers and the ladder, each once.

    python -m scripts.real measure [--cache DIR] [--minutes N]

Each model is read by `huref fingerprint` in a process of its own, whose peak memory is noted. Its
record and its costs are kept, so a stopped run can be continued.
"""

import json
import math
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from scripts.real.catalogue import Cache, cache_parser, read_catalogue

CONVERTED = "-converted"
KILOBYTE = 1024  # ru_maxrss is in these


def models_of(cache: Cache) -> dict[str, Path]:
    """Names and paths of all models that are there."""
    found = {}
    for name in read_catalogue():
        found[name] = cache.file(name)
        found[name + CONVERTED] = cache.models / name
    for folder in (cache.children, cache.ladder):
        if folder.is_dir():
            paths = sorted(path for path in folder.iterdir() if path.is_dir())
            found |= {path.name: path for path in paths if not path.name.startswith(".")}
    return {name: path for name, path in found.items() if path.exists()}


def measure(path: Path, record: Path) -> dict[str, Any]:
    """Write a model's record and return its costs, or its `error`."""
    picture = record.with_suffix(".png")
    command = [sys.executable, "-m", "huref", "fingerprint", str(path), "--json"]
    command += ["-o", str(picture), "--record", str(record)]
    began = time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stderr is not None
    output, message = process.stdout.read(), process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    costs = {
        "seconds": round(time.monotonic() - began, 1),
        "processor_seconds": round(usage.ru_utime + usage.ru_stime, 1),
        "peak_bytes": usage.ru_maxrss * KILOBYTE,
    }
    if process.returncode:
        return costs | {"error": message.strip()}
    data = json.loads(output)
    return costs | {key: data[key] for key in ("bytes_read", "bytes_total", "anchors")}


def main() -> None:
    """Measure the models that have no record yet."""
    parser = cache_parser(__doc__)
    parser.add_argument("--minutes", type=float, default=math.inf, help="start none afterwards")
    options = parser.parse_args()
    cache = Cache(options.cache)
    cache.records.mkdir(parents=True, exist_ok=True)
    last = time.monotonic() + 60 * options.minutes
    for name, path in models_of(cache).items():
        record = cache.records / f"{name}.safetensors"
        if record.exists() or time.monotonic() > last:
            continue
        costs = measure(path, record)
        record.with_suffix(".json").write_text(json.dumps(costs, indent=1), "utf-8")
        print(f"{name}: {costs.get('error') or costs}", flush=True)
