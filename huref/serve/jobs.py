"""The queue of measurements: one at a time for each worker process, in the order they came."""

import multiprocessing
import secrets
import threading
from collections import OrderedDict, deque
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from typing import Any, Literal

from huref.errors import HurefError
from huref.serve.names import Named
from huref.serve.settings import MOST_KEPT, MOST_WAITING, Settings, count_cores
from huref.serve.task import Advance, Answer, Failure, Kind, Result, Task
from huref.serve.worker import GRACE, Setup, run_worker
from huref.version import SCHEMA, __version__

State = Literal["queued", "running", "done", "failed"]
CANCELLED = "cancelled"
PATIENCE = 0.1  # seconds until a job is noticed that was cancelled
AGAIN = 0.5  # seconds between looks at the queue
DIED = "the process that measured it died, perhaps for want of memory; try it again"


class BusyError(HurefError):
    """Too many jobs wait already."""


@dataclass
class Job:
    """A measurement that somebody asked for.

    Attributes:
        task: what is measured.
        state: where it is.
        advance: how far it is.
        result: what was found, once it is done.
        error: why there is no result, once it failed.
    """

    task: Task
    state: State = "queued"
    advance: Advance = field(default_factory=lambda: Advance("Waiting", 0.0))
    result: Result | None = None
    error: str | None = None

    @property
    def id(self) -> str:
        """Random letters that cannot be guessed."""
        return self.task.job

    def to_json(self, ahead: int) -> dict[str, Any]:
        """What GET /api/jobs/ID answers; `ahead` is the number of jobs that come before it."""
        return {
            "huref": __version__,
            "schema": SCHEMA,
            "job": self.id,
            "kind": self.task.kind,
            "models": [model.text for model in self.task.models],
            "state": self.state,
            "progress": 1.0 if self.state == "done" else self.advance.share,
            "stage": self.advance.stage,
            "ahead": ahead,
            "cancelled": self.error == CANCELLED,
            "error": self.error,
            "pages": sorted(self.result.pages) if self.result else [],
            "result": self.result.data if self.result else None,
        }


class Worker:
    """A worker process, started again after each time that it ends."""

    def __init__(self, setup: Setup):
        self._setup = setup
        self._lock = threading.Lock()
        self._closed = False
        self._process: SpawnProcess | None = None
        self._pipe: Connection | None = None

    @property
    def is_started(self) -> bool:
        """Whether it need not be started first, which takes seconds."""
        return self._process is not None

    def start(self) -> Connection:
        """The pipe to the process, which is started where it does not run."""
        with self._lock:
            if self._closed:
                raise EOFError
            if self._process is None or self._pipe is None or not self._process.is_alive():
                context = multiprocessing.get_context("spawn")
                self._pipe, theirs = context.Pipe()
                self._process = context.Process(target=run_worker, args=(theirs, self._setup))
                self._process.daemon = True
                self._process.start()
                theirs.close()
            return self._pipe

    def stop(self, *, for_good: bool = False) -> None:
        """End the process, whatever it does."""
        with self._lock:
            self._closed = self._closed or for_good
            process = self._process
            if process is None:
                return
            process.terminate()
            process.join(GRACE)
            if process.is_alive():
                process.kill()
                process.join()
            self._process = None


class Jobs:
    """All jobs of a page: waiting, running, and the last ones that ended.

    Args:
        settings: the operator's.
        setup: for the workers.
    """

    def __init__(self, settings: Settings, setup: Setup):
        self._settings = settings
        self._changed = threading.Condition()
        self._jobs: OrderedDict[str, Job] = OrderedDict()
        self._waiting: deque[Job] = deque()
        self._closed = False
        self._running = 0
        self._workers = [Worker(setup) for _ in range(settings.workers)]
        self._idle = list(self._workers)
        self._threads = [
            threading.Thread(target=self._serve, args=(worker,), daemon=True)
            for worker in self._workers
        ]

    def start(self) -> None:
        """Start the queue, and one process ahead of the first job."""
        for thread in self._threads:
            thread.start()
        threading.Thread(target=self._workers[0].start, daemon=True).start()

    def add(self, kind: Kind, models: tuple[Named, ...]) -> Job:
        """Queue a measurement.

        Raises:
            BusyError: too many wait.
        """
        task = Task(secrets.token_urlsafe(16), kind, models, self._settings.registry)
        with self._changed:
            if len(self._waiting) >= MOST_WAITING:
                raise BusyError(f"{MOST_WAITING} jobs wait already", advice="try again later")
            job = Job(task)
            self._jobs[job.id] = job
            self._waiting.append(job)
            self._forget()
            self._changed.notify_all()
        return job

    def _forget(self) -> None:
        """Drop the oldest results, so that a page that runs for weeks needs no more memory."""
        ended = [job.id for job in self._jobs.values() if job.state in ("done", "failed")]
        for old in ended[: max(len(ended) - MOST_KEPT, 0)]:
            del self._jobs[old]

    def find(self, job: str) -> Job | None:
        """A job by its id, or None where there is no such job any more."""
        with self._changed:
            return self._jobs.get(job)

    def describe(self, job: Job) -> dict[str, Any]:
        """A job as JSON."""
        with self._changed:
            ahead = self._waiting.index(job) if job in self._waiting else 0
            return job.to_json(ahead)

    def cancel(self, job: Job) -> None:
        """Take a job out of the queue, or have the process ended that works on it."""
        with self._changed:
            if job.state not in ("queued", "running"):
                return
            if job in self._waiting:
                self._waiting.remove(job)
            job.state, job.error = "failed", CANCELLED  # its thread then ends its process

    def close(self) -> None:
        """End all processes; what runs or waits is lost."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        for worker in self._workers:
            worker.stop(for_good=True)

    def _serve(self, worker: Worker) -> None:
        while (job := self._next(worker)) is not None:
            answer = self._do(job, worker)
            with self._changed:
                self._running -= 1
                self._idle.append(worker)
                self._changed.notify_all()  # which worker is preferred may have changed
                if job.state != "running":
                    continue  # cancelled
                if isinstance(answer, Result):
                    job.state, job.result = "done", answer
                else:
                    job.state, job.error = "failed", answer.why

    def _next(self, worker: Worker) -> Job | None:
        with self._changed:
            # Looked at again without a notice, too: processes start and end without one.
            while not (self._closed or (self._waiting and self._preferred() is worker)):
                self._changed.wait(AGAIN)
            if self._closed:
                return None
            self._idle.remove(worker)
            self._changed.notify_all()  # more may wait, for the worker that is preferred now
            job = self._waiting.popleft()
            job.state, job.advance = "running", Advance("Starting", 0.0)
            self._running += 1
            return job

    def _preferred(self) -> Worker:
        """The idle worker that takes the next job: one that runs already, if there is one."""
        return max(self._idle, key=lambda worker: worker.is_started)

    def _do(self, job: Job, worker: Worker) -> Result | Failure:
        threads = max(1, count_cores() // max(self._running, 1))
        try:
            pipe = worker.start()
            pipe.send(replace(job.task, threads=threads))
            while job.state == "running":
                if not pipe.poll(PATIENCE):
                    continue
                answer: Answer = pipe.recv()
                if not isinstance(answer, Advance):
                    return answer
                with self._changed:
                    job.advance = answer
        except (EOFError, OSError):
            worker.stop()
            return Failure(DIED)
        worker.stop()
        return Failure(CANCELLED)
