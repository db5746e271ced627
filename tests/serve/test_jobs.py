"""Which worker takes a job."""

import time
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from huref.serve import jobs as module
from huref.serve.jobs import Job, Jobs
from huref.serve.settings import Settings
from huref.serve.task import Failure
from huref.serve.worker import Setup

PATIENCE = 30.0  # seconds


class InstantWorker:
    """Stands for a process; every task fails at once, unless `hold` is set."""

    hold = False

    def __init__(self, _: Setup):
        self.is_started = False
        self.pipe, self.process = Pipe()

    def start(self) -> Connection:
        self.is_started = True
        if not self.hold:
            self.process.send(Failure("done"))
        return self.pipe

    def stop(self, *, for_good: bool = False) -> None:
        self.is_started = False


@pytest.fixture
def workers(monkeypatch: pytest.MonkeyPatch) -> list[InstantWorker]:
    made: list[InstantWorker] = []

    def make(setup: Setup) -> InstantWorker:
        made.append(InstantWorker(setup))
        return made[-1]

    monkeypatch.setattr(module, "Worker", make)
    return made


def wait(job: Job, state: str) -> None:
    until = time.monotonic() + PATIENCE
    while job.state != state:
        assert time.monotonic() < until
        time.sleep(0.01)


def test_jobs_one_after_the_other_wait_for_one_process_to_start(
    workers: list[InstantWorker], tmp_path: Path
) -> None:
    jobs = Jobs(Settings((tmp_path,), "", workers=4), Setup(tmp_path, ()))
    jobs.start()
    for _ in range(8):
        wait(jobs.add("map", ()), "failed")
    assert [worker.is_started for worker in workers] == [True, False, False, False]
    jobs.close()


def test_jobs_at_once_are_taken_by_all_workers(
    workers: list[InstantWorker], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(InstantWorker, "hold", True)
    jobs = Jobs(Settings((tmp_path,), "", workers=3), Setup(tmp_path, ()))
    jobs.start()
    added = [jobs.add("map", ()) for _ in range(4)]
    for job in added[:3]:
        wait(job, "running")
    assert all(worker.is_started for worker in workers)
    assert jobs.describe(added[3])["state"] == "queued"
    for worker in workers:
        worker.process.send(Failure("done"))
    wait(added[3], "running")
    jobs.cancel(added[3])
    jobs.close()
