"""What goes on side by side in a study: notebooks that begin while time is reckoned."""

from __future__ import annotations

from pathlib import Path

from aslpinn_book.study.notebooks import Task
from aslpinn_book.study.progress import Progress


def task(key: str) -> Task:
    return Task(key=key, kind="subject", notebook=Path(key), report=Path(key), parameters={}, title=key)


def test_a_notebook_may_begin_while_the_remaining_time_is_reckoned() -> None:
    tasks = [task(f"sub-{number}") for number in range(6)]

    class Interleaved(Progress):
        """Another thread gets its turn between any two lines: here whenever the time of a notebook is asked for."""

        def expected(self, key: str, kind: str) -> float | None:
            if self.waiting:
                self.start(next(iter(self.waiting.values())))
            return super().expected(key, kind)

    shown = Interleaved(tasks, {one.key: 10.0 for one in tasks}, 2, len(tasks), lambda text: None)
    shown.start(tasks[0])
    assert 0 < (shown.remaining() or 0) <= 6 * 10 / 2
    assert not shown.waiting
