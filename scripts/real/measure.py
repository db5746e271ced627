"""Measures the public models, their children, the strangers and the ladder, each once.

    python -m scripts.real measure [--cache DIR] [--recipe NAME...] [--only NAME...] [--minutes N]

Each public model is read by `huref fingerprint` in a process of its own, whose peak memory is
noted; the others are read here. Records and costs are kept by recipe, so a stopped run can be
continued and another recipe needs only its own run.
"""

import json
import math
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from huref.api.open import measure, read_on
from huref.errors import HurefError, one_line
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


def measure_apart(path: Path, record: Path, recipe: str) -> dict[str, Any]:
    """Write a record by the command line; the costs of that process, or `error`."""
    picture = record.with_suffix(".png")
    command = [sys.executable, "-m", "huref", "fingerprint", str(path), "--json"]
    command += ["-o", str(picture), "--record", str(record), "--recipe", recipe]
    began = time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stderr is not None
    output, message = process.stdout.read(), process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    picture.unlink(missing_ok=True)
    costs = {
        "seconds": round(time.monotonic() - began, 1),
        "processor_seconds": round(usage.ru_utime + usage.ru_stime, 1),
        "peak_bytes": usage.ru_maxrss * KILOBYTE,
    }
    if process.returncode:
        return costs | {"error": message.strip() or f"exit code {process.returncode}"}
    data = json.loads(output)
    return costs | {key: data[key] for key in ("bytes_read", "bytes_total", "anchors")}


def measure_here(path: Path, record: Path, recipe: str) -> dict[str, Any]:
    """As `measure_apart`, in this process: faster, and without the peak memory.

    Where the record shows a sign of disguise, all blocks are read, as `huref compare` does.
    """
    began = time.process_time()
    try:
        first, costs = measure(str(path), recipe)
        seconds = time.process_time() - began
        whole = read_on(first, recipe, model=str(path))
    except HurefError as error:
        return {"error": one_line(error)}
    whole.save(record)
    found: dict[str, Any] = {
        "processor_seconds": round(seconds, 1),
        "bytes_read": costs.bytes_read,
        "bytes_total": costs.bytes_total,
    }
    if whole is not first:
        found["processor_seconds_at_full_depth"] = round(time.process_time() - began - seconds, 1)
    return found


def main() -> None:
    """Measure the models that have no record yet; those that failed are tried again."""
    parser = cache_parser(__doc__)
    parser.add_argument("--recipe", nargs="+", default=["default"], metavar="NAME")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="these models")
    parser.add_argument("--minutes", type=float, default=math.inf, help="start none afterwards")
    options = parser.parse_args()
    cache = Cache(options.cache)
    last = time.monotonic() + 60 * options.minutes
    for name, path in models_of(cache).items():
        for recipe in options.recipe:
            folder = cache.records(recipe)
            folder.mkdir(parents=True, exist_ok=True)
            record = folder / f"{name}.safetensors"
            unwanted = options.only is not None and name not in options.only
            if unwanted or record.exists() or time.monotonic() > last:
                continue
            partial = folder / f".{name}.safetensors"
            apart = name.removesuffix(CONVERTED) in read_catalogue()
            costs = (measure_apart if apart else measure_here)(path, partial, recipe)
            if "error" not in costs:
                partial.replace(record)
            record.with_suffix(".json").write_text(json.dumps(costs, indent=1), "utf-8")
            print(f"{name}, {recipe}: {costs.get('error') or costs}", flush=True)
