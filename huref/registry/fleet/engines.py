"""Engines that run a fleet's tasks: threads or processes of this machine, or a Ray cluster."""

import multiprocessing
import os
import secrets
import sys
from collections.abc import Callable
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from functools import partial
from pathlib import Path

from huref.errors import FleetError

Engine = Callable[[], Executor]
MOST_THREADS = 16
RAY_TOKEN = Path(".ray") / "auth_token"  # in the user's home, where Ray stores it
UNKNOWN_WINDOW = 64  # tasks submitted ahead to an executor whose number of workers is unknown


def make_engine(name: str, workers: int | None = None) -> tuple[Engine, int]:
    """A function that starts an executor, and the executor's number of workers.

    Args:
        name: "threads"; "processes"; "ray" for a cluster of this machine alone; "ray:auto" or
            "ray:host:6379" for a cluster that this machine is part of; "ray://host:10001" for
            another cluster.
        workers: models measured at a time. None for two threads or one process per core.

    Raises:
        FleetError: there is no engine of that name, or Ray is not installed or does not answer.
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
        elif name == "ray":
            _keep_ray_to_itself()
        from huref.registry.fleet.ray_engine import connect

        return connect(name, workers)
    raise FleetError(
        f"there is no engine '{name}'", advice="use threads, processes, ray or ray://HOST:PORT"
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


def _keep_ray_to_itself() -> None:
    """Have a cluster that this process starts listen on the loopback address, with a token.

    Ray reads both settings when it is imported. Whoever imports it before decides; `connect` then
    refuses a cluster that listens elsewhere.
    """
    if "ray" in sys.modules:
        return
    # The only setting by which Ray takes 127.0.0.1 as a node's address on Linux as well.
    os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
    if not os.environ.keys() & {"RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"}:
        os.environ["RAY_AUTH_MODE"] = "token"
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)


def _start_processes(count: int, threads: int) -> Executor:
    # Torch has threads, and a process forked from one with threads may hang.
    context = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(count, context, initializer=_limit_threads, initargs=(threads,))


def _limit_threads(count: int) -> None:
    import torch

    torch.set_num_threads(count)


class Workers:
    """The executor of a fleet, replaced when it breaks.

    Attributes:
        executor: to which tasks are submitted.
        window: the number of tasks to submit ahead of their results.
    """

    def __init__(self, engine: str, executor: Executor | None, workers: int | None):
        self._start: Engine | None = None
        if executor is None:
            self._start, workers = make_engine(engine, workers)
            executor = self._start()
        self.executor = executor
        self.window = 2 * workers if workers else UNKNOWN_WINDOW

    def replace(self, error: BaseException) -> None:
        """Start a new executor.

        Raises:
            FleetError: the broken executor is the caller's, not one that huref started.
        """
        self.executor.shutdown(wait=False, cancel_futures=True)
        if self._start is None:
            raise FleetError(
                f"the executor is broken ({error}); finished models are in the registry",
                advice="start another executor and call again",
            ) from error
        self.executor = self._start()

    def shutdown(self, wait: bool) -> None:
        """Shut the executor down, unless it is the caller's.

        Args:
            wait: for running tasks.
        """
        if self._start is not None:
            self.executor.shutdown(wait=wait, cancel_futures=True)
