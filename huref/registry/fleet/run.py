"""Measures thousands of models into a registry: workers measure, only this process writes.

Results are in the registry within half a minute, and a journal beside it has a line for each model.
So the same command continues where it stopped.
"""

import time
from collections import deque
from collections.abc import Iterable
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Executor, Future, wait
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from huref.errors import FleetError, one_line
from huref.evidence.keys import Signer
from huref.files import as_path
from huref.loader.hub.rate import RateLimiter, share
from huref.progress import is_hidden
from huref.registry.fleet import work
from huref.registry.fleet.engines import Workers
from huref.registry.fleet.journal import (
    FAILED,
    NETWORK_ERROR,
    WORKER_DIED,
    Journal,
    JournalLine,
)
from huref.registry.fleet.model_list import ListedModel, ModelList, collect
from huref.registry.fleet.plan import Job, make_plan
from huref.registry.fleet.report import FleetReport
from huref.registry.fleet.saver import Saver
from huref.registry.fleet.work import Outcome, WorkerDiedError, measure_task
from huref.registry.store import Store

ATTEMPTS = 3  # per model; each request has retries of its own
UNREACHABLE = 30  # models in a row with network errors, after which the fleet stops
TICK = 1.0  # seconds between checks whether results are to be saved


def fleet(
    models: Iterable[str] | ModelList,
    store: Store,
    *,
    executor: Executor | None = None,
    engine: str = "threads",
    workers: int | None = None,
    recipe: str = "default",
    journal: str | Path | None = None,
    refresh: bool = False,
    retry_failed: bool = False,
    measured_by: str | None = None,
    signer: Signer | None = None,
) -> FleetReport:
    """Measure models and add them to a registry.

    Args:
        models: names, or the result of `read_list` or `list_hub`.
        store: the registry. Models that it has at the same commit are not read again.
        executor: runs the tasks; its workers need huref.
        engine: started if no executor is given; see `make_engine`.
        workers: the number of models measured at a time.
        recipe: name or file of the registry's recipe.
        journal: its file; see `journal_path` for the default.
        refresh: check the Hub for new commits of measured models.
        retry_failed: also try models again that failed for permanent reasons.
        measured_by: see `Entry`; empty when None.
        signer: signs the entries, in this process.

    Raises:
        FleetError: the network is down, the executor is broken, or the registry cannot be written.
            What was saved before stays.
    """
    if not isinstance(models, ModelList):
        models = collect(ListedModel(str(model)) for model in models)
    history = Journal(Path(journal) if journal else journal_path(store.uri))
    plan = make_plan(
        models.models,
        store,
        history,
        recipe=recipe,
        refresh=refresh,
        retry_failed=retry_failed,
        measured_by=measured_by,
    )
    run = _Run(store, history, Workers(engine, executor, workers), plan.finished, signer)
    return run.work(plan.jobs, models.duplicates)


def journal_path(uri: str) -> Path:
    """The default journal: beside the registry, or in the current folder if it is not on disk."""
    if "://" in uri:
        return Path("fleet.jsonl")
    path = as_path(uri)
    return path.with_name(f"{path.name}.fleet.jsonl")


class _Run:
    """One call of `fleet`."""

    def __init__(
        self,
        store: Store,
        journal: Journal,
        workers: Workers,
        finished: list[JournalLine],
        signer: Signer | None = None,
    ):
        self.digest = store.recipe.digest
        self.workers = workers
        self.saver = Saver(store, journal, signer)
        self.lines = finished
        self._failed = 0
        self._unreachable = 0
        self._in_flight: dict[Future[Outcome], Job] = {}

    def work(self, jobs: list[Job], duplicates: int) -> FleetReport:
        """Run jobs. On an exception, too, it saves finished results and shuts the workers down."""
        began = time.perf_counter()
        limiter = RateLimiter()
        before = share(limiter)
        whole = False
        try:
            with tqdm(
                desc="models", total=len(jobs), unit="model", smoothing=0.02, disable=is_hidden()
            ) as bar:
                self._measure(jobs, bar)
            whole = True
        finally:
            if not whole:
                work.stop_threads()
                limiter.close()
                for future in self._in_flight:
                    future.cancel()
            self.workers.shutdown(wait=whole)
            share(before)
            self.saver.close()
        seconds = time.perf_counter() - began
        return FleetReport(
            self.lines, duplicates, seconds, limiter.requests, limiter.seconds_waited
        )

    def _measure(self, jobs: list[Job], bar: "tqdm[Any]") -> None:
        queue, died, failed = deque(jobs), deque[Job](), deque[Job]()
        while queue or died or failed:
            if queue:
                self._drain(queue, self.workers.window, died, failed, bar)
            elif died:  # one at a time, so that a model that kills its worker ends no other task
                queue, died = died, deque()
                self._drain(queue, 1, died, failed, bar)
            else:
                queue, failed = failed, deque()

    def _drain(
        self,
        queue: deque[Job],
        window: int,
        died: deque[Job],
        failed: deque[Job],
        bar: "tqdm[Any]",
    ) -> None:
        while queue or self._in_flight:
            while queue and len(self._in_flight) < window:
                self._submit(queue.popleft())
            finished, _ = wait(self._in_flight, TICK, FIRST_COMPLETED)
            for future in finished:
                job = self._in_flight.pop(future)
                outcome = _outcome_of(future, job)
                line = self._line(job, outcome)
                self._give_up_when_unreachable(line)
                if line.may_pass and job.attempts < ATTEMPTS:
                    (died if line.kind == WORKER_DIED else failed).append(job)
                else:
                    self._finish(line, outcome, bar)
            self.saver.save_if_due()

    def _submit(self, job: Job) -> None:
        job.attempts += 1
        try:
            future = self.workers.executor.submit(measure_task, job.task)
        except BrokenExecutor as error:
            # The futures in flight fail as well, and their jobs are tried again.
            self.workers.replace(error)
            future = self.workers.executor.submit(measure_task, job.task)
        self._in_flight[future] = job

    def _line(self, job: Job, outcome: Outcome) -> JournalLine:
        return JournalLine(
            listed=job.listed.name,
            model=outcome.model,
            revision=outcome.revision,
            recipe=self.digest,
            status=outcome.status,
            kind=outcome.kind,
            reason=outcome.reason,
            seconds=round(outcome.seconds, 3),
            bytes_read=outcome.bytes_read,
            attempts=job.attempts,
        )

    def _finish(self, line: JournalLine, outcome: Outcome, bar: "tqdm[Any]") -> None:
        self.lines.append(line)
        self.saver.put(line, outcome.entry)
        self._failed += line.status == FAILED
        bar.update()
        bar.set_postfix(failed=self._failed)

    def _give_up_when_unreachable(self, line: JournalLine) -> None:
        self._unreachable = self._unreachable + 1 if line.kind == NETWORK_ERROR else 0
        if self._unreachable >= UNREACHABLE:
            raise FleetError(
                f"{UNREACHABLE} models in a row could not be reached, the last one was "
                f"{line.listed}: {line.reason}; finished models are in the registry",
                advice="run the same command again later",
            )


def _outcome_of(future: "Future[Outcome]", job: Job) -> Outcome:
    """The outcome that a worker returned, or the failure that its exception stands for."""
    error = None if future.cancelled() else future.exception()
    if error is None and not future.cancelled():
        return future.result()
    lost = future.cancelled() or isinstance(error, BrokenExecutor | WorkerDiedError)
    kind = WORKER_DIED if lost else type(error).__name__
    reason = f"the worker died {job.attempts} times, perhaps out of memory"
    if not lost:
        reason = f"an error in huref, please report it: {one_line(error)[:300]}"
    return Outcome(job.task.name.partition("@")[0], None, FAILED, kind=kind, reason=reason)
