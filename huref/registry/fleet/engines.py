"""Where a fleet's work is done: threads or processes of this machine, or a Ray cluster."""

import multiprocessing
import os
import sys
from collections.abc import Callable
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from functools import partial
from pathlib import Path

from huref.errors import FleetError

Engine = Callable[[], Executor]
MOST_THREADS = 16
RAY_TOKEN = Path(".ray") / "auth_token"  # where Ray keeps it, in the user's home
UNKNOWN_WINDOW = 64  # somebody else's executor has any number of workers; a queue costs nothing


def make_engine(name: str, workers: int | None = None) -> tuple[Engine, int]:
    """What starts the workers, and how many there will be.

    Args:
        name: "threads", "processes", "ray" for a cluster of this machine alone, "ray:auto" or
            "ray:host:6379" for one that this machine is part of, "ray://host:10001" for another.
        workers: models measured at a time; None for twice the cores, or one a core for processes.

    Raises:
        FleetError: an engine of another name, or Ray is not installed or not reached.
    """
    cores = os.cpu_count() or 1
    if name == "threads":
        count = workers or min(2 * cores, MOST_THREADS)
        return partial(ThreadPoolExecutor, count, thread_name_prefix="fleet"), count
    if name == "processes":
        count = workers or cores
        return partial(_start_processes, count, max(cores // count, 1)), count
    if name == "ray" or name.startswith(("ray:", "ray://")):
        if name.startswith("ray://"):
            _let_ray_authenticate()
        from huref.registry.fleet.ray_engine import connect

        return connect(name, workers)
    raise FleetError(
        f"there is no engine '{name}'; known: threads, processes, ray, ray://HOST:PORT"
    )


def _let_ray_authenticate() -> None:
    """Have Ray's client send the cluster's token if there is one.

    Ray does so by default for every other kind of address. A client that sends no token is refused
    without a message and waits until it times out.

    Ray reads the mode once, when it is imported. Set after that, it would reach the servers of a
    cluster that this process starts, but not this process: they would refuse it for sending no
    token.
    """
    token = os.environ.get("RAY_AUTH_TOKEN") or os.environ.get("RAY_AUTH_TOKEN_PATH")
    has_token = bool(token) or (Path.home() / RAY_TOKEN).is_file()
    if has_token and "ray" not in sys.modules and "RAY_AUTH_MODE" not in os.environ:
        os.environ["RAY_AUTH_MODE"] = "token"


def _start_processes(count: int, threads: int) -> Executor:
    # A fork of a process with threads, as torch has, may hang.
    context = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(count, context, initializer=_limit_threads, initargs=(threads,))


def _limit_threads(count: int) -> None:
    import torch

    torch.set_num_threads(count)


class Crew:
    """The workers of a fleet, replaced when they break.

    Attributes:
        executor: what work is submitted to.
        window: models to submit ahead of their results.
    """

    def __init__(self, engine: str, executor: Executor | None, workers: int | None):
        self._start: Engine | None = None
        if executor is None:
            self._start, workers = make_engine(engine, workers)
            executor = self._start()
        self.executor = executor
        self.window = 2 * workers if workers else UNKNOWN_WINDOW

    def replace(self, error: BaseException) -> None:
        """Start new workers. Raises FleetError when they are somebody else's."""
        self.executor.shutdown(wait=False, cancel_futures=True)
        if self._start is None:
            raise FleetError(
                f"the executor is broken ({error}); what was measured so far is in the registry; "
                "start another one and call again"
            ) from error
        self.executor = self._start()

    def dismiss(self, wait: bool) -> None:
        """End the workers, unless they are somebody else's; `wait` for what they are at."""
        if self._start is not None:
            self.executor.shutdown(wait=wait, cancel_futures=True)
