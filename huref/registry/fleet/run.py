"""Thousands of models into a registry: any engine measures, this process alone writes.

What is done is in the registry within half a minute, and what became of every model is in a
journal beside it, so that the same command goes on where it stopped.
"""

import time
from collections import deque
from collections.abc import Iterable, Sequence
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Executor, Future, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from huref.errors import FleetError, one_line
from huref.loader.hub.rate import RateLimiter, share
from huref.registry.fleet import work
from huref.registry.fleet.engines import Crew
from huref.registry.fleet.journal import FAILED, KNOWN, Journal, Line
from huref.registry.fleet.model_list import Listed, ModelList, collect
from huref.registry.fleet.report import FleetReport
from huref.registry.fleet.saver import Saver
from huref.registry.fleet.work import Outcome, Task, WorkerDiedError, measure_task
from huref.registry.store import Store

ATTEMPTS = 3  # for one model, beyond those for each request
UNREACHABLE = 30  # models in a row that cannot be read: the network is gone, not they
TICK = 1.0  # seconds between looks at what is due


@dataclass
class _Job:
    listed: Listed
    task: Task
    attempts: int = 0


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
) -> FleetReport:
    """Measure models and add them to a registry.

    Args:
        models: names, or what `read_list` and `list_hub` return.
        store: where they go; models it holds at the same commit are not read again.
        executor: runs the work; it must reach workers that have huref installed.
        engine: what to start where no executor is given: see `make_engine`.
        workers: models at a time.
        recipe: name or file of the registry's recipe.
        journal: what became of each model; beside a registry that is a folder when None.
        refresh: ask the Hub whether models that were measured have a new commit.
        retry_failed: try models again that failed for good, too.
        measured_by: goes into the entries; the login name when None.

    Raises:
        FleetError: the network is gone, or the executor is broken.
        RegistryError: the registry cannot be written. What was saved before stays.
    """
    listed = models if isinstance(models, ModelList) else collect(Listed(str(m)) for m in models)
    path = Path(journal) if journal else journal_path(store.uri)
    crew = Crew(engine, executor, workers)
    run = _Run(store, Journal(path), crew, recipe, measured_by)
    return run.work(listed, refresh, retry_failed)


def journal_path(uri: str) -> Path:
    """Where a registry's journal is kept: beside it, or here when the registry is not on disk."""
    if "://" in uri:
        return Path("fleet.jsonl")
    path = Path(uri).expanduser()
    return path.with_name(f"{path.name}.fleet.jsonl")


class _Run:
    """One call of `fleet`."""

    def __init__(
        self, store: Store, journal: Journal, crew: Crew, recipe: str, measured_by: str | None
    ):
        self.store = store
        self.digest = store.recipe.digest
        self.crew = crew
        self.recipe = recipe
        self.measured_by = measured_by
        self.journal = journal
        self.saver = Saver(store, journal)
        self.lines: list[Line] = []
        self._failed = 0
        self._unreachable = 0
        self._in_flight: dict[Future[Outcome], _Job] = {}

    def work(self, models: ModelList, refresh: bool, retry_failed: bool) -> FleetReport:
        began = time.perf_counter()
        limiter = RateLimiter()
        before = share(limiter)
        whole = False
        try:
            jobs = self._sort_out(models.models, refresh, retry_failed)
            with tqdm(
                desc="models", total=len(jobs), unit="model", smoothing=0.02, disable=None
            ) as bar:
                self._measure(jobs, bar)
            whole = True
        finally:
            if not whole:
                work.stop_threads()
                limiter.close()
                for future in self._in_flight:
                    future.cancel()
            self.crew.dismiss(wait=whole)
            share(before)
            self.saver.close()
        seconds = time.perf_counter() - began
        return FleetReport(
            self.lines, models.duplicates, seconds, limiter.requests, limiter.seconds_waited
        )

    def _sort_out(self, models: Sequence[Listed], refresh: bool, retry_failed: bool) -> list[_Job]:
        """What is left to do, without asking the Hub."""
        commits: dict[str, set[str]] = {}
        for chunk in self.store.chunks():
            for labels in chunk.labels:
                # The Hub does not tell upper from lower case; folders on a disk may.
                name = labels.model.lower() if labels.revision else labels.model
                commits.setdefault(name, set()).add(labels.revision or "")
        jobs = []
        for listed in models:
            name = listed.name.partition("@")[0]
            known = commits.get(name.lower(), set()) | commits.get(name, set())
            before = self.journal.find(listed.name, self.digest)
            if before is not None and listed.commit not in (None, before.revision):
                before = None  # that was about another commit
            is_known = (listed.commit or "") in known
            if before is not None and before.status != FAILED and not refresh:
                is_known |= self.store.has(before.model, before.revision, self.digest)
                name = before.model
            if is_known:
                self.lines.append(Line(listed.name, name, listed.commit, self.digest, KNOWN))
            elif (
                before is not None
                and before.status == FAILED
                and not (before.may_pass or retry_failed)
            ):
                self.lines.append(before)
            else:
                pinned = listed.name
                if listed.commit and "@" not in pinned:
                    pinned = f"{pinned}@{listed.commit}"
                task = Task(pinned, self.recipe, self.digest, frozenset(known), self.measured_by)
                jobs.append(_Job(listed, task))
        return jobs

    def _measure(self, jobs: list[_Job], bar: "tqdm[Any]") -> None:
        queue, died, failed = deque(jobs), deque[_Job](), deque[_Job]()
        while queue or died or failed:
            if queue:
                self._drain(queue, self.crew.window, died, failed, bar)
            elif died:  # one at a time, so that whoever kills its worker takes nobody along
                queue, died = died, deque()
                self._drain(queue, 1, died, failed, bar)
            else:
                queue, failed = failed, deque()

    def _drain(
        self,
        queue: deque[_Job],
        window: int,
        died: deque[_Job],
        failed: deque[_Job],
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
                    (died if line.kind == "WorkerDied" else failed).append(job)
                else:
                    self._finish(line, outcome, bar)
            self.saver.save_if_due()

    def _submit(self, job: _Job) -> None:
        job.attempts += 1
        try:
            future = self.crew.executor.submit(measure_task, job.task)
        except BrokenExecutor as error:
            # What was in flight is broken, too, and comes back by itself.
            self.crew.replace(error)
            future = self.crew.executor.submit(measure_task, job.task)
        self._in_flight[future] = job

    def _line(self, job: _Job, outcome: Outcome) -> Line:
        return Line(
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

    def _finish(self, line: Line, outcome: Outcome, bar: "tqdm[Any]") -> None:
        self.lines.append(line)
        self.saver.put(line, outcome.entry)
        self._failed += line.status == FAILED
        bar.update()
        bar.set_postfix(failed=self._failed)

    def _give_up_when_unreachable(self, line: Line) -> None:
        self._unreachable = self._unreachable + 1 if line.kind == "NetworkError" else 0
        if self._unreachable >= UNREACHABLE:
            raise FleetError(
                f"{UNREACHABLE} models in a row could not be reached, last: {line.reason}; what "
                "was measured is in the registry; run the same command again later"
            )


def _outcome_of(future: "Future[Outcome]", job: _Job) -> Outcome:
    """The answer of a worker, or what its end without one means."""
    error = None if future.cancelled() else future.exception()
    if error is None and not future.cancelled():
        return future.result()
    lost = future.cancelled() or isinstance(error, BrokenExecutor | WorkerDiedError)
    kind = "WorkerDied" if lost else type(error).__name__
    reason = f"the worker died {job.attempts} times, perhaps for want of memory"
    if not lost:
        reason = f"an error in huref, please report it: {one_line(error)[:300]}"
    return Outcome(job.task.name.partition("@")[0], None, FAILED, kind=kind, reason=reason)
