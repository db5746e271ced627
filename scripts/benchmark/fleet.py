"""Runs `huref fleet` against a Hub with latency, limits and faults, and kills some workers.

Another process serves small models from the loopback address. Requests have a given latency and
limits like the Hub's, scaled to seconds; a share of the answers is 429, 503 or cut short. The
results are compared with those measured from the same folders without a network.

    python -m scripts.benchmark fleet --models 50 --engine threads --workers 1
    python -m scripts.benchmark fleet --models 200 --engine threads --workers 12
    python -m scripts.benchmark fleet --models 200 --engine ray --workers 6 --kill 2
"""

import argparse
import multiprocessing
import multiprocessing.connection
import os
import shutil
import signal
import tempfile
import threading
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from scripts import make_parser

LIMITS = {"api": (80, 10), "resolvers": (1200, 10)}  # requests, seconds
ROUNDING = 1e-3  # allowed error of latents and share of sketch bits: summation order varies
SAMPLED = 2.0  # seconds between samples of the workers' processor time
FAULTS = {"429": 0.01, "503": 0.01, "cut": 0.02}  # shares of answers


def serve(
    folders: dict[str, Path], latency: float, pipe: multiprocessing.connection.Connection
) -> None:
    """Serve the folders: send the address, and on "end" the counts of requests and faults."""
    from tests.support.fleet_hub import FleetHub

    with FleetHub(latency=latency, limits=LIMITS, faults=FAULTS) as hub:
        for name, folder in folders.items():
            hub.add(name, folder)
        pipe.send(hub.url)
        pipe.recv()
        pipe.send((len(hub.requests), hub.bytes_sent, hub.seen))


def measure_truth(folders: dict[str, Path], kept: Path) -> dict[str, np.ndarray]:
    """By name, latent and sketch measured without a network; cached in the folder `kept`."""
    from huref.recipe import load_recipe
    from huref.registry.fleet.work import Task, measure_task

    digest = load_recipe()[0].digest
    path = kept / f"truth-{digest}.npz"
    truth: dict[str, np.ndarray] = {}
    if path.is_file():
        with np.load(path) as file:
            truth = dict(zip(file["names"].tolist(), file["values"], strict=True))
    for number, (name, folder) in enumerate(folders.items(), 1):
        if name not in truth:
            outcome = measure_task(Task(str(folder), "default", digest))
            assert outcome.entry is not None, outcome.reason
            entry = outcome.entry
            truth[name] = np.concatenate([entry.latent, entry.sketch.ravel()])
            if number % 20 == 0 or number == len(folders):
                np.savez(path, names=list(truth), values=list(truth.values()))
    return {name: truth[name] for name in folders}


def difference(truth: np.ndarray, latent: np.ndarray, sketch: np.ndarray) -> float:
    """The larger of the greatest error of a latent and the share of sketch bits that differ."""
    bits = np.unpackbits(truth[len(latent) :].astype(np.uint8) ^ sketch.ravel())
    return float(max(np.abs(truth[: len(latent)] - latent).max(), bits.mean()))


@dataclass(frozen=True)
class Process:
    """A running process."""

    title: bytes
    seconds: float  # of processor time so far


def own_processes() -> dict[int, Process]:
    """This process and its descendants, by process id."""
    parents, found = {}, {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                stat = (entry / "stat").read_text().rpartition(")")[2].split()
                title = (entry / "cmdline").read_bytes()
            except OSError:
                continue
            ticks = int(stat[11]) + int(stat[12])
            parents[int(entry.name)] = int(stat[1])
            found[int(entry.name)] = Process(title, ticks / os.sysconf("SC_CLK_TCK"))

    def is_own(pid: int) -> bool:
        while pid > 1 and pid != os.getpid():
            pid = parents.get(pid, 0)
        return pid == os.getpid()

    return {pid: process for pid, process in found.items() if is_own(pid)}


def own_workers() -> list[int]:
    """Process ids of busy Ray workers that descend from this process."""
    return [pid for pid, p in own_processes().items() if p.title.startswith(b"ray::_run")]


class Clock:
    """Processor time of this process and its descendants, and the machine's mean load."""

    def __init__(self, without: int):
        self._without = without  # process id of the Hub
        self._seconds: dict[int, float] = {}
        self._loads: list[float] = []
        self._before = self._sample()
        threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self) -> None:
        while True:
            self._sample()
            self._loads.append(os.getloadavg()[0])
            time.sleep(SAMPLED)

    def _sample(self) -> float:
        self._seconds |= {pid: process.seconds for pid, process in own_processes().items()}
        return sum(s for pid, s in self._seconds.items() if pid != self._without)

    def read(self) -> tuple[float, float]:
        """Processor seconds since construction, and the mean load."""
        return self._sample() - self._before, sum(self._loads) / max(len(self._loads), 1)


def kill_some(count: int, interval: float, killed: list[int]) -> None:
    """Kill `count` busy workers, one every `interval` seconds."""
    while len(killed) < count:
        time.sleep(interval)
        workers = [pid for pid in own_workers() if pid not in killed]
        if workers:
            os.kill(workers[0], signal.SIGKILL)
            killed.append(workers[0])


def main() -> None:
    """Measure and print one line per figure."""
    parser = make_parser(__doc__)
    parser.add_argument("--models", type=int, default=200)
    parser.add_argument(
        "--engine",
        default="threads",
        help="as for huref fleet; none: only measure without a network",
    )
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--kill", type=int, default=0, help="number of Ray workers to kill")
    parser.add_argument("--latency", type=float, default=0.1, help="seconds before each answer")
    parser.add_argument("--registry", type=Path, help="registry that is kept, to continue a run")
    parser.add_argument("--work", type=Path, help="folder for the models; default: temporary")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        work = arguments.work or Path(temporary)
        folders = make_models(work, arguments.models)
        context = multiprocessing.get_context("spawn")
        pipe, end = context.Pipe()
        server = context.Process(target=serve, args=(folders, arguments.latency, end))
        server.start()
        end.close()  # so that recv() raises if the Hub dies
        os.environ |= {
            "HF_ENDPOINT": pipe.recv(),
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HOME": str(Path(temporary) / "home"),
        }
        try:
            truth = measure_truth(folders, work)
            if arguments.engine != "none":
                run(folders, arguments, Path(temporary), truth, Clock(server.pid or 0))
        except BaseException:
            server.terminate()  # Ray may have ended it already
            raise
        try:
            pipe.send("end")
            requests, sent, seen = pipe.recv()
            print(f"hub         {requests:,} requests, {sent:,} bytes sent; faults {seen}")
        except (EOFError, BrokenPipeError):
            print("hub         ended early: no counts")
        server.join()


def make_models(work: Path, count: int) -> dict[str, Path]:
    """Write small models and return their folders by name; existing ones are reused."""
    from tests.support.fleet_hub import write_small_llama

    folders = {f"fleet/model-{i:03d}": work / f"model-{i:03d}" for i in range(count)}
    for seed, folder in enumerate(folders.values()):
        if not (folder / "tokenizer.json").is_file():
            shutil.rmtree(folder, ignore_errors=True)
            write_small_llama(folder, seed)
    return folders


def run(
    folders: dict[str, Path],
    arguments: argparse.Namespace,
    temporary: Path,
    truth: dict[str, np.ndarray],
    clock: Clock,
) -> None:
    """Run one fleet, compare its results with the truth, and print the figures."""
    from huref.recipe import load_recipe
    from huref.registry.fleet.run import fleet
    from huref.registry.stores import create_store, open_store

    path = arguments.registry or temporary / "registry"
    store = open_store(str(path)) if path.exists() else create_store(str(path), load_recipe()[0])
    killed: list[int] = []
    if arguments.kill:
        threading.Thread(target=kill_some, args=(arguments.kill, 15.0, killed), daemon=True).start()
    report = fleet(folders, store, engine=arguments.engine, workers=arguments.workers)
    busy, load = clock.read()
    entries = list(store.entries())
    names = Counter(entry.model for entry in entries)
    errors = [difference(truth[e.model], e.latent, e.sketch) for e in entries]
    right = sum(error <= ROUNDING for error in errors)
    done = [line.listed for line in report.lines if line.status == "done"]
    print(f"fleet       {arguments.engine}, {arguments.workers} workers, latency "
          f"{arguments.latency} s, {len(killed)} workers killed")  # fmt: skip
    print(f"result      {len(entries)} of {len(folders)} in the registry, {right} right, "
          f"{sum(n > 1 for n in names.values())} twice, {len(done) - len(set(done))} counted "
          f"twice, {len(report.failures)} failed, {report.count('known')} known")  # fmt: skip
    for line in report.failures:
        print(f"failed      {line.listed}: {line.reason}")
    print(
        f"differs     at most {max(errors, default=0):.1e} from the measurement without a network"
    )
    print(f"throughput  {len(done) / report.seconds:.2f} models a second, "
          f"{report.seconds:.0f} s in all, load {load:.1f}")  # fmt: skip
    print(f"processor   {busy:.0f} s, {busy / max(len(done), 1):.2f} s a model, including the "
          "driver and the start of workers")  # fmt: skip
    print(f"repeated    {sum(line.attempts - 1 for line in report.lines)} models by the driver")
