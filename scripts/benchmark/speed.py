"""Measures what huref's commands cost, as ratios within one run.

    python -m scripts.benchmark speed --work /tmp/speed [--only 7b 70b units tiny compare]

The models are made once in --work and kept there:

    7b       a folder of Llama-2-7B's shapes in float16. `huref fingerprint` beside the arithmetic
             of HuRef's published code on the same folder: the recipe `paper`, 4,096 tokens through
             the last two blocks, read by our loader, without its image network.
    70b      a folder of Llama-2-70B's shapes.
    units    the test of one block's hidden units, of two random models of the 7B's shape.
    tiny     a model of the shipped zoo: beside `import torch`; `--help`; a second fingerprint in
             one process.
    compare  models of a 135M shape: `huref compare` of all beside `huref fingerprint` of each.

Every command runs in a process of its own, twice; the faster run counts. Seconds of wall and
processor time and the peak of the resident set are those of the operating system.
"""

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from scripts import ROOT, make_parser
from scripts.benchmark.llama_shapes import (
    FILLED_BLOCKS,
    LLAMA_2_7B,
    LLAMA_2_70B,
    LlamaShape,
    fill,
    write_safetensors,
    write_tokenizer,
)

HUREF = [sys.executable, "-m", "huref"]
TINY = ROOT / "checkpoints" / "zoo" / "llama-a"
MODELS = 20  # of the 135M shape
RUNS = 2
PAPER = "from huref.api.open import open_record; open_record({!r}, 'paper')"
UNITS = """
import time
from huref.api.open import open_record
from huref.lineage.correspondence import compare_blocks
a, b = (open_record(folder) for folder in ({!r}, {!r}))
pair = (a.layers[0], b.layers[0])
times = []
for _ in range(3):
    began = time.perf_counter()
    found = compare_blocks(a, b, [pair])
    times.append(time.perf_counter() - began)
print(min(times), found.units.of)
"""
SECOND = """
import time
from pathlib import Path
from tempfile import mkdtemp
import huref
folder = Path(mkdtemp())
huref.fingerprint({0!r}, folder / "a.png")
began = time.perf_counter()
dog = huref.fingerprint({0!r}, folder / "b.png")
wall = time.perf_counter() - began
print(wall, wall - dog.costs.seconds["terms"])
"""


@dataclass(frozen=True)
class Cost:
    """What one process took.

    Attributes:
        wall: seconds.
        processor: seconds, of the user and the system.
        peak: bytes of the resident set.
        output: what it printed.
    """

    wall: float
    processor: float
    peak: int
    output: str

    def __str__(self) -> str:
        return f"{self.wall:7.2f} s, {self.processor:7.2f} CPU-s, peak {self.peak / 2**30:.2f} GiB"


def run(command: Sequence[str]) -> Cost:
    """Run a command RUNS times and return the cost of the fastest run."""
    return min((_run_once(command) for _ in range(RUNS)), key=lambda cost: cost.wall)


def _run_once(command: Sequence[str]) -> Cost:
    began = time.perf_counter()
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, cwd=ROOT
    )
    assert process.stdout is not None
    output = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    wall = time.perf_counter() - began
    if status:
        raise SystemExit(f"{' '.join(command)} ended with status {status}")
    return Cost(wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024, output)


def measure_7b(work: Path) -> None:
    """A 7B folder beside the published arithmetic."""
    folder = _write_large(work / "7b", LLAMA_2_7B)
    ours = run([*HUREF, "fingerprint", str(folder), "-o", str(work / "7b.png")])
    static = run(
        [*HUREF, "fingerprint", str(folder), "-o", str(work / "s.png"), "--recipe", "static-1"]
    )
    paper = run([sys.executable, "-c", PAPER.format(str(folder))])
    print(f"7b: huref fingerprint     {ours}")
    print(f"7b: by recipe static-1    {static}")
    print(f"7b: published arithmetic  {paper}")
    print(f"7b: published over ours   {paper.wall / ours.wall:.1f} in seconds, "
          f"{ours.peak / paper.peak:.0%} of its memory")  # fmt: skip


def measure_70b(work: Path) -> None:
    """A 70B folder: eight key-value heads, 8,192 wide."""
    folder = _write_large(work / "70b", LLAMA_2_70B)
    ours = run([*HUREF, "fingerprint", str(folder), "-o", str(work / "70b.png")])
    print(f"70b: huref fingerprint    {ours}")


def measure_units(work: Path) -> None:
    """The unit test of one pair of blocks of a 7B."""
    folders = [
        _write_large(work / f"7b{end}", LLAMA_2_7B, seed) for seed, end in enumerate(("", "-other"))
    ]
    seconds, of = _run_once([sys.executable, "-c", UNITS.format(*map(str, folders))]).output.split()
    print(f"units: one pair of blocks {float(seconds):7.2f} s, {of} units of {LLAMA_2_7B.hidden}")


def _write_large(folder: Path, shape: LlamaShape, seed: int = 0) -> Path:
    """A random model of a shape; of its blocks the first hold numbers, and a 7B's last two."""
    if (folder / "tokenizer.model").exists():
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    last = range(shape.blocks - 2, shape.blocks) if shape == LLAMA_2_7B else ()
    fill(write_safetensors(folder, shape), [*range(FILLED_BLOCKS), *last], seed)
    write_tokenizer(folder)
    return folder


def measure_tiny(work: Path) -> None:
    """A tiny model beside the import of torch."""
    torch = run([sys.executable, "-c", "import torch"])
    ours = run([*HUREF, "fingerprint", str(TINY), "-o", str(work / "tiny.png")])
    usage = run([*HUREF, "--help"])
    second = run([sys.executable, "-c", SECOND.format(str(TINY))])
    wall, beyond = map(float, second.output.split())
    print(f"tiny: huref fingerprint   {ours}")
    print(f"tiny: import torch        {torch}")
    print(f"tiny: ratio               {ours.processor / torch.processor:.2f} in CPU-s")
    print(f"tiny: --help              {usage}")
    print(f"tiny: second fingerprint  {wall:.2f} s, {beyond:.2f} s beyond reading and products")


def measure_compare(work: Path) -> None:
    """A table of models of a 135M shape beside their fingerprints."""
    folders = [_write_135m(work / f"135m-{seed}", seed) for seed in range(MODELS)]
    one = run([*HUREF, "fingerprint", str(folders[0]), "-o", str(work / "135m.png")])
    table = _run_once([*HUREF, "compare", "--no-cache", *map(str, folders)])
    print(f"compare: one fingerprint  {one}")
    print(f"compare: {MODELS} models       {table}")
    print(f"compare: over {MODELS} times   {table.wall / (MODELS * one.wall):.2f} in seconds")


def _write_135m(folder: Path, seed: int) -> Path:
    """A random model of SmolLM2-135M's shape, in bfloat16."""
    if (folder / "tokenizer.model").exists():
        return folder
    import torch
    import transformers

    torch.manual_seed(seed)
    config = transformers.LlamaConfig(
        vocab_size=32000, hidden_size=576, intermediate_size=1536, num_hidden_layers=30,
        num_attention_heads=9, num_key_value_heads=3, tie_word_embeddings=True,
    )  # fmt: skip
    transformers.LlamaForCausalLM(config).bfloat16().save_pretrained(folder)
    write_tokenizer(folder)
    return folder


PARTS = {
    "7b": measure_7b,
    "70b": measure_70b,
    "units": measure_units,
    "tiny": measure_tiny,
    "compare": measure_compare,
}


def main() -> None:
    """Measure and print one line per figure."""
    parser = make_parser(__doc__)
    parser.add_argument("--work", type=Path, required=True, help="folder for the models, 35 GB")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    for part in options.only:
        PARTS[part](options.work.resolve())
