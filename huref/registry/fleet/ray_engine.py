"""Fleets on Ray: one task a model, a limiter that all machines share, and results to the driver.

Ray runs a task again whose worker died, on another one. A task has no effect but its answer, and
only the driver writes to the registry, so whatever dies, a model is counted once.
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
    raise FleetError("this engine needs Ray: pip install 'huref[ray]'") from error

RETRIES = 3  # of a task whose worker died
PATIENCE = 15.0  # seconds for a machine to answer
ATTEMPTS = 3  # to have a client server started
PAUSE = 2.0  # seconds between them
STATED = ("ratelimit", "ratelimit-policy", "retry-after")  # headers that the limiter reads


def connect(name: str, workers: int | None) -> tuple[Callable[[], Executor], int]:
    """Join a cluster, or start one on this machine; see `engines.make_engine`.

    Raises:
        FleetError: there is no cluster at that address.
    """
    is_own = False
    if not ray.is_initialized():
        is_local = name == "ray"
        # Without "local" Ray would join whatever cluster was started on this machine before.
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
        )
    count = workers or max(int(ray.cluster_resources().get("CPU", 1)), 1)
    return partial(RayExecutor, is_own), count


def _join(name: str, **arguments: Any) -> None:
    """Call ray.init. A client server that dies while it starts is asked for again.

    Ray forks such a server for every client that comes by ray://, which it may not survive while
    other threads are in gRPC; the client that was refused has to be disconnected before the next
    try.
    """
    for left in reversed(range(ATTEMPTS)):
        try:
            ray.init(**arguments)
            return
        except (ConnectionError, RuntimeError, ValueError) as error:
            lines = [line.strip() for line in str(error).splitlines() if line.strip()]
            if left and any("client server failed" in line for line in lines):
                ray.shutdown()
                time.sleep(PAUSE)
                continue
            raise FleetError(
                f"no Ray cluster answers at {name} ({lines[-1] if lines else type(error).__name__}"
                "); it may want a token that is not here (RAY_AUTH_TOKEN, or ~/.ray/auth_token)"
            ) from error


def _require_listener(name: str, address: str) -> None:
    """Raise FleetError where nobody listens; Ray itself would try for minutes and then abort."""
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
        is_own: whether to leave the cluster when this executor is shut down.
    """

    def __init__(self, is_own: bool = False):
        self._is_own = is_own
        # One place counts for all machines. Should it die, its next life learns from the first
        # answer what was used up.
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
        """See Executor. What runs on a cluster of our own ends with it."""
        if self._is_own:
            ray.shutdown()
        else:
            ray.kill(self._limiter)


class RemoteLimiter(RateLimiter):
    """A worker's view of the limiter that all workers share."""

    def __init__(self, counter: Any):
        super().__init__()
        self._counter = counter

    def reserve(self, kind: str) -> float:
        """See RateLimiter."""
        return float(ray.get(self._counter.reserve.remote(kind)))

    def learn(self, kind: str, status: int, headers: Mapping[str, str]) -> None:
        """See RateLimiter."""
        stated = {name: value for name, value in headers.items() if name.lower() in STATED}
        self._counter.learn.remote(kind, status, stated)


_counter: Any = None  # whose view this worker process has


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
