"""The Ray engine; needs huref[ray]."""

import os
from collections.abc import Iterator
from concurrent.futures import Executor
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("ray")

from huref.loader.hub import rate
from huref.recipe import load_recipe
from huref.registry.fleet.engines import make_engine
from huref.registry.fleet.run import fleet
from huref.registry.fleet.work import WorkerDiedError
from huref.registry.stores import create_store
from tests.support.fleet_hub import write_small_llama
from tests.support.zoo import ROOT

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def executor() -> Iterator[Executor]:
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", path)  # the workers import this file
        # Its own, so that two processes that start Ray at once do not both write ~/.ray/auth_token.
        patch.setenv("RAY_AUTH_TOKEN", "0123456789abcdef" * 4)
        start, workers = make_engine("ray", 1)
        assert workers == 1
        started = start()
        yield started
        started.shutdown()


def die_once(path: Path) -> str:
    if path.exists():
        return "alive"
    path.touch()
    os._exit(1)


def fail() -> None:
    raise ZeroDivisionError("a fault of the task")


def open_window() -> str:
    """Tell the worker's limiter of an API that allows five requests an hour."""
    stated = {
        "RateLimit": '"api";r=5;t=3600',
        "RateLimit-Policy": '"fixed window";"api";q=5;w=3600',
    }
    rate._shared.learn("api", 200, stated | {"X-Other": "x"})
    return type(rate._shared).__name__


def count_admitted(requests: int) -> int:
    """How many of these requests to the API the worker's limiter admits."""
    return sum(rate._shared.reserve("api") == 0 for _ in range(requests))


def test_the_task_of_a_killed_worker_is_repeated(executor: Executor, tmp_path: Path) -> None:
    assert executor.submit(die_once, tmp_path / "died").result() == "alive"


def test_exceptions_of_tasks_are_returned_unchanged(executor: Executor) -> None:
    with pytest.raises(ZeroDivisionError, match="a fault of the task"):
        executor.submit(fail).result()


def test_workers_share_one_limiter(executor: Executor, tmp_path: Path) -> None:
    assert executor.submit(open_window).result() == "RemoteLimiter"
    assert executor.submit(count_admitted, 1).result() == 1
    executor.submit(die_once, tmp_path / "died").result()  # the next task runs in another worker
    assert executor.submit(count_admitted, 9).result() == 5 - rate.MARGIN - 1
    assert executor.submit(count_admitted, 9).result() == 0


def test_a_fleet_on_ray_gives_the_results_of_threads(executor: Executor, tmp_path: Path) -> None:
    folders = [str(write_small_llama(tmp_path / f"model-{i}", i)) for i in range(2)]
    recipe = load_recipe()[0]
    stores = [create_store(str(tmp_path / name), recipe) for name in ("ray", "threads")]
    assert fleet(folders, stores[0], executor=executor, workers=1).count("done") == 2
    assert fleet(folders, stores[1]).count("done") == 2
    on_ray, on_threads = ({e.key: e.latent for e in store.entries()} for store in stores)
    assert on_ray.keys() == on_threads.keys()
    for key, latent in on_ray.items():
        # Another process may sum in another order.
        np.testing.assert_allclose(latent, on_threads[key], atol=1e-3)


def test_a_task_that_always_kills_its_worker_fails(executor: Executor) -> None:
    assert isinstance(executor.submit(os._exit, 1).exception(), WorkerDiedError)
