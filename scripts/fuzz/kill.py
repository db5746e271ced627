"""Kill huref at random moments, as often as wanted, and look for anything lost or half-made.

    python -m scripts.fuzz kill --times 200

Each time two fleets on one registry, an identification and a fingerprint are started and killed
with SIGKILL. What a journal says is measured must be in the registry; the registry must open and
pass its checks; outputs are absent or whole; at the end a fleet that is left alone finishes.
"""

import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from huref.decoder.picture import read_png_text
from huref.errors import HurefError
from huref.registry.stores import open_store
from scripts import ROOT, make_parser

ZOO = ROOT / "checkpoints" / "zoo"
MODELS = ("llama-a", "llama-a-finetune", "llama-b", "qwen-c")
LONGEST_RUN = 12.0  # seconds until a process is killed at the latest


@dataclass
class Result:
    """What the kills left."""

    kills: int = 0
    acknowledged: int = 0
    lost: int = 0
    half_made: int = 0
    damaged: int = 0

    @property
    def is_clean(self) -> bool:
        """Whether nothing was lost, half-made or damaged."""
        return not (self.lost or self.half_made or self.damaged)


def kill_at_random(times: int, folder: Path, longest: float = LONGEST_RUN, seed: int = 0) -> Result:
    """Kill processes that share a registry in a folder, and check what they leave."""
    chance = random.Random(seed)
    result = Result()
    registry = folder / "bases"
    models = folder / "models.txt"
    models.write_text("".join(f"{ZOO / name}\n" for name in MODELS))
    for number in range(times):
        journals = [folder / f"journal-{number}-{i}" for i in range(2)]
        picture = folder / f"dog-{number}.png"
        started = [
            *(_start(folder, "fleet", models, "-o", registry, "--journal", journal,
                     "--engine", "threads", "--workers", 1) for journal in journals),
            _start(folder, "fingerprint", ZOO / "llama-b", "-o", picture),
            _start(folder, "identify", ZOO / "qwen-c", "--registry", registry, "--no-cache"),
        ]  # fmt: skip
        for process in started:
            time.sleep(chance.uniform(0, longest) / len(started))
            process.send_signal(signal.SIGKILL)
            process.wait()
            result.kills += 1
        _check(result, registry, journals, picture)
    return result


def _start(folder: Path, *words: object) -> "subprocess.Popen[bytes]":
    environment = {**os.environ, "HUREF_HOME": str(folder / "home"), "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        [sys.executable, "-m", "huref", *map(str, words)],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def _check(result: Result, registry: Path, journals: list[Path], picture: Path) -> None:
    acknowledged = {
        line["model"]
        for journal in journals
        if journal.exists()
        for line in _lines(journal)
        if line["status"] in ("done", "known")
    }
    result.acknowledged += len(acknowledged)
    if (registry / "registry.sqlite").exists():
        try:
            found = [entry.model for entry in open_store(str(registry)).entries()]
        except HurefError as error:
            if acknowledged or "there is no registry" not in str(error):
                result.damaged += 1
                print(error, file=sys.stderr)
            found = []
        result.lost += len(acknowledged - set(found))
        result.damaged += len(found) - len(set(found))
    else:
        result.lost += len(acknowledged)
    if picture.exists():
        try:
            assert read_png_text(picture)["huref:latent"]
        except (HurefError, KeyError, AssertionError):
            result.half_made += 1


def _lines(journal: Path) -> list[dict[str, str]]:
    lines = []
    for text in journal.read_text("utf-8").splitlines():
        try:
            lines.append(json.loads(text))
        except ValueError:  # the last one, cut short
            continue
    return lines


def finish(folder: Path) -> int:
    """Run a fleet to its end, and return how many of its models the registry has."""
    process = _start(folder, "fleet", folder / "models.txt", "-o", folder / "bases",
                     "--journal", folder / "last", "--engine", "threads")  # fmt: skip
    if process.wait():
        return 0
    return len(open_store(str(folder / "bases")))


def main() -> None:
    """Run the command."""
    parser = make_parser(__doc__)
    parser.add_argument("--times", type=int, default=50, help="rounds of four kills (default: 50)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="huref-kill-") as name:
        folder = Path(name)
        result = kill_at_random(arguments.times, folder)
        measured = finish(folder)
    print(result)
    print(f"afterwards {measured} of {len(MODELS)} models were measured")
    if not result.is_clean or measured != len(MODELS):
        sys.exit(1)


if __name__ == "__main__":
    main()
