"""How far a long task is, on stderr: a bar on a terminal, lines elsewhere; and durations in words."""

from __future__ import annotations

import os
import sys
import time
from typing import Any


def say(line: str) -> None:
    """A line on stderr, where it can be written: what is lost there is no reason to stop."""
    try:
        print(line, file=sys.stderr, flush=True)
    except (OSError, ValueError):  # a full disk, a closed terminal
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115 (the interpreter flushes it at its end)


class ProgressReport:
    """Progress of a fit on stderr: a bar with the time left on a terminal, a line at each tenth elsewhere."""

    def __init__(self) -> None:
        self.bar: Any = None
        self.tenth = -1
        self.begun = time.perf_counter()
        self.told = False  # how long it will take

    def __enter__(self) -> ProgressReport:
        return self

    def __exit__(self, *error: object) -> None:
        if self.bar is not None:
            self.bar.close()

    def __call__(self, done: int, total: int, message: str = "") -> None:
        """Show that `done` of `total` steps are done."""
        if not sys.stderr.isatty():
            tenth, left = 10 * done // max(total, 1), self._left(done, total)
            if tenth > self.tenth or (left and not self.told):  # the time left is said once the first step is done
                say(f"  {100 * done // max(total, 1):3d} % {message}{left}")
                self.told = self.told or bool(left)
            self.tenth = tenth
            return
        if self.bar is None or self.bar.total != total:
            from tqdm import tqdm

            if self.bar is not None:
                self.bar.close()
            self.bar = tqdm(total=total, file=sys.stderr, leave=False)
        self.bar.set_description_str(message, refresh=False)
        self.bar.update(done - self.bar.n)

    def _left(self, done: int, total: int) -> str:
        """Time left in words, where it is long enough to be told and a step is done to tell it from."""
        passed = time.perf_counter() - self.begun
        left = passed * (total - done) / max(done, 1)
        return f", about {in_words(left)} left" if done and passed > 2 and left > 5 else ""


def in_words(seconds: float) -> str:
    """A duration as one says it: 8 s, 3 min, 2.5 h."""
    if seconds < 100:
        return f"{max(1, round(seconds))} s"
    return f"{round(seconds / 60)} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
