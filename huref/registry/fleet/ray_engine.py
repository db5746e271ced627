"""Fleets on Ray: one task per model, and one rate limiter for the workers of all machines.

If a worker dies, Ray runs its task again in another one. A task has no side effects and only the
driver writes to the registry, so a model is never added twice.
"""

import logging
import os
import socket
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Executor, Future
from functools import partial
from typing import Any

from huref.errors import FleetError
from huref.loader.hub.rate import RateLimiter, share
from huref.registry.fleet.work import WorkerDiedError

try:
    import ray
    from ray.exceptions import RayError, RayTaskError
except ImportError as error:
    raise FleetError("this engine needs Ray", advice="pip install 'huref[ray]'") from error

RETRIES = 3  # of a task whose worker died
PATIENCE = 15.0  # seconds for a machine to answer
LOOPBACK = "127.0.0.1"
ATTEMPTS = 3  # to connect through Ray's client
PAUSE = 2.0  # seconds between attempts
LIMIT_HEADERS = ("ratelimit", "ratelimit-policy", "retry-after")


def connect(name: str, workers: int | None) -> tuple[Callable[[], Executor], int]:
    """Join a cluster, or start one on this machine; see `engines.make_engine`.

    Raises:
        FleetError: no cluster answers at that address, or Ray does not start.
    """
    is_own = False
    if not ray.is_initialized():
        is_local = name == "ray"
        # Without "local" Ray would join a cluster that was started on this machine before.
        address = "local" if is_local else name
        if name.startswith("ray:") and not name.startswith("ray://"):
            address = name.removeprefix("ray:")
        _require_listener(name, address)
        count = (workers or os.cpu_count()) if is_local else None
        is_own = True
        _join(
            name,
            address=address,
            num_cpus=count,
            include_dashboard=False if is_local else None,
            log_to_driver=False,
            logging_level=logging.ERROR,
            **({"_node_ip_address": LOOPBACK} if is_local else {}),
        )
        if is_local:
            _require_loopback()
    count = workers or max(int(ray.cluster_resources().get("CPU", 1)), 1)
    return partial(RayExecutor, is_own), count


def _join(name: str, **arguments: Any) -> None:
    """Call ray.init, again if the server for Ray's client dies at its start.

    Ray forks such a server for every client that connects by ray://, and the fork may die if other
    threads are inside gRPC. The refused client has to be disconnected before the next attempt.
    """
    for attempt in range(1, ATTEMPTS + 1):
        try:
            ray.init(**arguments)
            return
        except Exception as error:  # Ray raises bare ones, too, as when a node starts slowly
            lines = [line.strip() for line in str(error).splitlines() if line.strip()]
            if attempt < ATTEMPTS and any("client server failed" in line for line in lines):
                ray.shutdown()
                time.sleep(PAUSE)
                continue
            reason = lines[-1] if lines else type(error).__name__
            if name == "ray":
                raise FleetError(f"Ray does not start on this machine ({reason})") from error
            raise FleetError(
                f"no Ray cluster answers at {name} ({reason})",
                advice="if the cluster needs a token, set RAY_AUTH_TOKEN or write it to "
                "~/.ray/auth_token",
            ) from error


def _require_loopback() -> None:
    """Raise FleetError if the cluster that this process started listens on other addresses."""
    found = ray.util.get_node_ip_address()
    if found != LOOPBACK:
        ray.shutdown()
        raise FleetError(
            f"Ray would listen on {found}, where other machines can reach it",
            advice="set RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER=0 before Ray is imported, or start a "
            "cluster yourself and name it with --engine ray:HOST:PORT",
        )


def _require_listener(name: str, address: str) -> None:
    """Raise FleetError if the port is closed; Ray would retry for minutes and then abort."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if not colon or not port.isdigit():  # local, or auto
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), PATIENCE).close()
    except (OSError, OverflowError) as error:
        raise FleetError(f"no Ray cluster answers at {name} ({error})") from error


class RayExecutor(Executor):
    """Runs functions as Ray tasks.

    Args:
        is_own: whether `connect` called ray.init, so that shutdown disconnects.
    """

    def __init__(self, is_own: bool = False):
        self._is_own = is_own
        # One limiter for all machines. If it dies and is restarted, the headers of the next
        # response tell it what is left of the limits.
        counter = ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)(RateLimiter)
        self._limiter = counter.remote()
        self._task = ray.remote(num_cpus=1, max_retries=RETRIES)(_run)

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> "Future[Any]":
        """See Executor. The future cannot be cancelled."""
        outer: Future[Any] = Future()
        outer.set_running_or_notify_cancel()
        inner = self._task.remote(self._limiter, fn, args, kwargs).future()
        inner.add_done_callback(partial(_pass_on, outer))
        return outer

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """See Executor. A cluster that huref started ends, with the tasks that still run."""
        if self._is_own:
            ray.shutdown()
        else:
            ray.kill(self._limiter)


class RemoteLimiter(RateLimiter):
    """A worker's proxy of the limiter that all workers share."""

    def __init__(self, counter: Any):
        super().__init__()
        self._counter = counter

    def reserve(self, kind: str) -> float:
        """See RateLimiter."""
        return float(ray.get(self._counter.reserve.remote(kind)))

    def learn(self, kind: str, status: int, headers: Mapping[str, str]) -> None:
        """See RateLimiter."""
        limits = {name: value for name, value in headers.items() if name.lower() in LIMIT_HEADERS}
        self._counter.learn.remote(kind, status, limits)


_counter: Any = None  # the limiter that this worker process uses


def _run(counter: Any, fn: Callable[..., Any], args: Any, kwargs: Any) -> Any:
    global _counter
    if _counter != counter:
        _counter = counter
        share(RemoteLimiter(counter))
    return fn(*args, **kwargs)


def _pass_on(outer: "Future[Any]", inner: "Future[Any]") -> None:
    error = inner.exception()
    if error is None:
        outer.set_result(inner.result())
    elif isinstance(error, RayTaskError):
        outer.set_exception(error.cause)
    elif isinstance(error, RayError):
        outer.set_exception(WorkerDiedError(type(error).__name__))
    else:
        outer.set_exception(error)
