"""What a study shows while it runs: a table on a terminal, a line for each notebook elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TextIO

from aslpinn.progress import in_words

from .notebooks import Task


@dataclass
class _Running:
    title: str
    begun: float
    section: str = ""
    share: float = 0.0


class Progress:
    """Counts notebooks and says how long the rest will take.

    The expected time of a notebook is that of its last run, else the mean of those of its kind that are done, else
    what its own progress promises. Notebooks begin and tell their sections from threads of their own while one reads:
    what is gone through is a copy.
    """

    def __init__(
        self, tasks: Sequence[Task], last: dict[str, float], jobs: int, total: int, say: Callable[[str], None]
    ) -> None:
        self.waiting = {task.key: task for task in tasks}
        self.last, self.jobs, self.total, self.say = last, jobs, total, say
        self.finished = total - len(tasks)
        self.running: dict[str, _Running] = {}
        self.seconds: dict[str, list[float]] = {}

    def start(self, task: Task) -> None:
        """A notebook begins."""
        self.waiting.pop(task.key, None)
        self.running[task.key] = _Running(task.title, time.monotonic())

    def stage(self, task: Task, section: str, share: float) -> None:
        """A section of a running notebook begins; share of its cells that lie behind."""
        entry = self.running.get(task.key)
        if entry is not None:
            entry.section, entry.share = section, share

    def end(self, task: Task, state: dict[str, Any]) -> None:
        """A notebook is done or failed."""
        self.running.pop(task.key, None)
        self.waiting.pop(task.key, None)
        self.finished += 1
        if state["state"] == "done":
            self.seconds.setdefault(task.kind, []).append(state["seconds"])
        note = "" if state["state"] == "done" else f": {state['error']}"
        left = self.remaining()
        eta = f", about {in_words(left)} left" if left and (self.waiting or self.running) else ""
        count = f"[{self.finished}/{self.total}]"
        self.line(f"{count} {task.title} {state['state']} in {state['seconds']:.0f} s{eta}{note}")

    def retry(self, task: Task, state: dict[str, Any]) -> None:
        """A notebook that the machine failed is tried once more."""
        self.running.pop(task.key, None)
        self.waiting[task.key] = task
        self.line(f"{task.title} will be tried once more: {state['error']}")

    def line(self, text: str) -> None:
        """One line that stays."""
        self.say(text)

    def tick(self) -> None:
        """Called about once a second."""

    def close(self) -> None:
        """Nothing more comes."""

    def expected(self, key: str, kind: str) -> float | None:
        """Seconds that a notebook will take in all, where anything is known."""
        done = self.seconds.get(kind)
        return self.last.get(key) or (sum(done) / len(done) if done else None)

    def remaining(self) -> float | None:
        """Seconds until all are done; None before anything is known."""
        now, total = time.monotonic(), 0.0
        for key, entry in list(self.running.items()):
            passed = now - entry.begun
            full = self.expected(key, "subject") or (passed / entry.share if entry.share > 0.1 else None)
            if full is None:
                return None
            total += max(full - passed, 0.0)
        for key, task in list(self.waiting.items()):
            full = self.expected(key, task.kind)
            if full is None:
                return None
            total += full
        return total / max(1, min(self.jobs, len(self.running) + len(self.waiting)))


class Table(Progress):
    """The same on a terminal: under the lines a row for each notebook that runs, and one for all."""

    def __init__(self, *args: Any, stream: TextIO = sys.stdout) -> None:
        from tqdm import tqdm

        super().__init__(*args)
        self.stream, self.rows = stream, dict[str, Any]()
        self._row = partial(tqdm, file=stream, leave=False, dynamic_ncols=True)
        self.all = self._row(bar_format="{desc}", desc=self._count())

    def start(self, task: Task) -> None:
        """A notebook begins."""
        super().start(task)
        self.rows[task.key] = self._row(total=100, bar_format="{desc} {percentage:>3.0f}% {elapsed}")
        self.stage(task, "", 0.0)

    def stage(self, task: Task, section: str, share: float) -> None:
        """A section of a running notebook begins."""
        super().stage(task, section, share)
        row = self.rows.get(task.key)
        if row is not None:
            row.n = round(100 * share)
            row.set_description_str(f"{task.title[:28]:<28} {section[:34]:<34}")

    def end(self, task: Task, state: dict[str, Any]) -> None:
        """A notebook is done or failed."""
        row = self.rows.pop(task.key, None)
        if row is not None:
            row.close()
        super().end(task, state)

    def line(self, text: str) -> None:
        """One line above the rows."""
        with self.all.external_write_mode(file=self.stream):
            self.say(text)

    def tick(self) -> None:
        """Draw the rows anew."""
        for row in list(self.rows.values()):
            row.refresh()
        self.all.set_description_str(self._count())

    def close(self) -> None:
        """Take the rows away."""
        for row in [*self.rows.values(), self.all]:
            row.close()

    def _count(self) -> str:
        left = self.remaining()
        rest = f", about {in_words(left)} left" if left is not None else ""
        return f"{self.finished} of {self.total} done, {len(self.waiting)} waiting{rest}"


def progress_for(
    tasks: Sequence[Task], last: dict[str, float], jobs: int, total: int, say: Callable[[str], None]
) -> Progress:
    """A table where stdout is a terminal, lines elsewhere."""
    kind = Table if sys.stdout.isatty() else Progress
    return kind(tasks, last, jobs, total, say)
