"""What goes on side by side in a study: notebooks that begin while time is reckoned."""

from __future__ import annotations

from pathlib import Path

import pytest
from nbclient.exceptions import CellTimeoutError, DeadKernelError

from aslpinn_book.study.kernels import Kernel
from aslpinn_book.study.notebooks import Task
from aslpinn_book.study.one_notebook import execute
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


def test_waiting_for_a_kernel_or_an_output_bears_a_machine_ten_times_slower(tmp_path, monkeypatch) -> None:
    given: dict[str, object] = {}
    monkeypatch.setattr("papermill.execute_notebook", lambda *_, **options: given.update(options))
    notebook = tmp_path / "one.md"
    notebook.write_text("---\nkernelspec: {display_name: Python 3, language: python, name: python3}\n---\n\n# One\n")
    execute(notebook, tmp_path / "one.ipynb", {}, tmp_path)
    assert min(given["start_timeout"], given["iopub_timeout"]) >= 600  # s; what both default to failed at a load of 12
    assert given.get("execution_timeout") is None, "a cell takes as long as it needs"


@pytest.mark.parametrize(
    ("failure", "again"),
    [
        (RuntimeError("Kernel didn't respond in 600 seconds"), True),
        (DeadKernelError("Kernel died"), True),
        (CellTimeoutError("A cell timed out"), True),
        (OSError(28, "No space left on device"), False),
        (FileNotFoundError("one.md"), False),
        (ValueError("not a notebook"), False),
    ],
)
def test_what_time_may_mend_is_tried_once_more_and_nothing_else(tmp_path, monkeypatch, failure, again) -> None:
    def fails(*_: object, **__: object) -> None:
        raise failure

    monkeypatch.setattr("papermill.execute_notebook", fails)
    notebook = tmp_path / "one.md"
    notebook.write_text("# One\n")
    state = execute(notebook, tmp_path / "one.ipynb", {}, tmp_path)
    assert state["state"] == "failed"
    assert state["passing"] is again
    assert not state["input_error"]


def test_a_kernel_that_has_ended_holds_no_file_of_this_process() -> None:
    class Ended:
        pid, exitcode, closed = 1, 3, 0

        def close(self) -> None:
            self.closed += 1

    process = Ended()
    kernel = Kernel(process)
    assert (kernel.poll(), kernel.wait(), kernel.returncode) == (3, 3, 3)
    assert process.closed == 1, "of thousands of subjects each would keep two"
