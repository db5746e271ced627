"""Measures the public models, their children, the strangers and the ladder, each once.

    python -m scripts.real measure [--cache DIR] [--recipe NAME...] [--only NAME...] [--whole]
                                   [--minutes N]

Each public model is read by `huref fingerprint` in a process of its own, whose peak memory is
noted; the others are read here. Records and costs are kept by recipe, so a stopped run can be
continued and another recipe needs only its own run.
"""

import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Container, Iterable
from pathlib import Path
from typing import Any

from huref.api.cache import cache_path, keep
from huref.api.open import measure, open_record, read_on
from huref.errors import HurefError, one_line
from huref.invariants.record import load_record
from huref.loader.checkpoint import open_checkpoint
from huref.recipe import load_recipe
from scripts.real.catalogue import Cache, cache_parser, open_cache, read_catalogue

CONVERTED = "-converted"
KILOBYTE = 1024
# huref, and the peak of its memory after it; getrusage would count the process that started it.
WITH_PEAK = """
import sys
from pathlib import Path
from huref.cli import main
try:
    main()
finally:
    status = Path("/proc/self/status").read_text()
    print(status.partition("VmHWM:")[2].split()[0], file=sys.stderr)
"""


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


def measure_apart(path: Path, recipe: str) -> dict[str, Any]:
    """The costs of `huref fingerprint` in a process of its own, or its `error`."""
    with tempfile.TemporaryDirectory() as temporary:
        record = Path(temporary) / "record.safetensors"
        command = [sys.executable, "-c", WITH_PEAK, "fingerprint", str(path), "--json"]
        command += ["-o", f"{temporary}/dog.png", "--record", str(record), "--recipe", recipe]
        began = time.monotonic()
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        assert process.stderr is not None
        output, message = process.stdout.read(), process.stderr.read()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        message, _, peak = message.strip().rpartition("\n")
        costs: dict[str, Any] = {
            "seconds": round(time.monotonic() - began, 1),
            "processor_seconds": round(usage.ru_utime + usage.ru_stime, 1),
        }
        if process.returncode:
            return costs | {"error": message or f"exit code {process.returncode}"}
        costs["peak_bytes"] = int(peak) * KILOBYTE
        place = cache_path(open_checkpoint(str(path)), load_recipe(recipe)[0], "recipe")
        assert place is not None
        keep(place, load_record(record))
    data = json.loads(output)
    return costs | {key: data[key] for key in ("bytes_read", "bytes_total", "anchors")}


def measure_here(path: Path, recipe: str) -> dict[str, Any]:
    """As `measure_apart`, in this process: faster, and without the peak memory.

    Where the record shows a sign of disguise, all blocks are read, as `huref compare` does.
    """
    began = time.process_time()
    try:
        first, costs = measure(str(path), recipe, cache=True)
        seconds = time.process_time() - began
        whole = read_on(first, recipe, cache=True, model=str(path))
    except (HurefError, OSError) as error:
        return {"error": one_line(error)}
    found: dict[str, Any] = {
        "processor_seconds": round(seconds, 1),
        "bytes_read": costs.bytes_read,
        "bytes_total": costs.bytes_total,
    }
    if whole is not first:
        found["processor_seconds_at_full_depth"] = round(time.process_time() - began - seconds, 1)
    if first.function is not None and first.function.signs:
        found["signs"] = [sign.words for sign in first.function.signs]
    return found


def measure_missing(
    cache: Cache, names: Container[str], recipes: Iterable[str], until: float = math.inf
) -> None:
    """Measure the named models that were not measured yet; those that failed are tried again.

    Args:
        cache: of the models.
        names: of models.
        recipes: by which they are measured.
        until: none is started after `time.monotonic` has this value.
    """
    for name, path in models_of(cache).items():
        for recipe in recipes if name in names else ():
            file = cache.costs(recipe) / f"{name}.json"
            if time.monotonic() > until or (file.exists() and "error" not in read_costs(file)):
                continue
            apart = name.removesuffix(CONVERTED) in read_catalogue()
            costs = (measure_apart if apart else measure_here)(path, recipe)
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(json.dumps(costs, indent=1), "utf-8")
            print(f"{name}, {recipe}: {costs.get('error') or costs}", flush=True)


def read_costs(file: Path) -> dict[str, Any]:
    """What measuring a model cost, or its `error`."""
    if not file.exists():
        return {"error": "not measured"}
    costs: dict[str, Any] = json.loads(file.read_text("utf-8"))
    return costs


def measured_by(cache: Cache, recipe: str) -> dict[str, Path]:
    """The models that a recipe measured; children may have been removed since, to save space."""
    found, here = {}, models_of(cache)
    for file in sorted(cache.costs(recipe).glob("*.json")):
        if "error" not in read_costs(file):
            found[file.stem] = here.get(file.stem, cache.children / file.stem)
    return found


def main() -> None:
    """Measure the models that the command line names."""
    parser = cache_parser(__doc__)
    parser.add_argument("--recipe", nargs="+", default=["default"], metavar="NAME")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="these models")
    parser.add_argument("--whole", action="store_true", help="read all blocks of them, too")
    parser.add_argument("--minutes", type=float, default=math.inf, help="start none afterwards")
    options = parser.parse_args()
    cache = open_cache(options.cache)
    until = time.monotonic() + 60 * options.minutes
    names = options.only or list(models_of(cache))
    measure_missing(cache, names, options.recipe, until)
    if options.whole:
        for recipe in options.recipe:
            for name in names:
                open_record(str(models_of(cache)[name]), recipe, depth="full", cache=True)
                print(f"{name}, {recipe}: all blocks", flush=True)
