"""The progress of a task as one sentence and one share, from the steps of its parts."""

import time
from collections.abc import Callable

from huref.progress import Step
from huref.serve.task import Advance

READING = 0.9  # share of a task until its pictures are drawn
FIRST = 0.5  # of identify, until the model itself is read
EVERY = 0.15  # seconds between two reports of the same stage


class Stages:
    """Turns steps into advances that never go back.

    Args:
        kind: of the task.
        names: what its models are called.
        tell: takes each advance.
    """

    def __init__(self, kind: str, names: list[str], tell: Callable[[Advance], None]):
        self._kind, self._names, self._tell = kind, names, tell
        self._low, self._high = 0.0, FIRST * READING if kind == "identify" else READING
        self._share = 0.0
        self._last = ("", 0.0)
        self._reading = names[0] if names else ""

    def step(self, step: Step) -> None:
        """A step of a part; a listener for `huref.progress.listening`."""
        share = step.done / step.total if step.total else 0.0
        if step.unit == "B":
            if step.total:
                # The total is an estimate.
                of = f" of {step.total / 1e6:,.1f}" if step.done <= step.total else ""
                size = f"{step.done / 1e6:,.1f}{of} MB"
                self.say(f"Reading {self._reading or step.what}: {size}", self._within(share))
        elif step.what == "models":
            self._model(step)
        elif step.what == "candidates":
            self._candidate(step)
        elif step.what == "dogs":
            self.say(f"Drawing dogs: {step.done} of {step.total}", READING * share)

    def _model(self, step: Step) -> None:
        count = step.total or 1
        self._low, self._high = (READING * (step.done + i) / count for i in (0, 1))
        if step.done < len(self._names):
            self._reading = self._names[step.done]
            self.say(f"Reading {self._reading} ({step.done + 1} of {count})", self._low)
        else:
            self.say("Comparing every pair", READING)

    def _candidate(self, step: Step) -> None:
        count = step.total or 1
        first, rest = FIRST * READING, (1 - FIRST) * READING
        self._low, self._high = (first + rest * (step.done + i) / count for i in (0, 1))
        self._reading = ""
        if step.done < count:
            self.say(f"Comparing with known base {step.done + 1} of {count}", self._low)

    def _within(self, share: float) -> float:
        return self._low + (self._high - self._low) * min(share, 1.0)

    def say(self, stage: str, share: float) -> None:
        """Report a stage, unless the same one was reported a moment ago."""
        head, now = stage.partition(":")[0], time.monotonic()
        if head == self._last[0] and now - self._last[1] < EVERY:
            return
        self._last = (head, now)
        self._share = max(self._share, share)
        self._tell(Advance(stage, round(self._share, 4)))
