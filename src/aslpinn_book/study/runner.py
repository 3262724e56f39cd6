"""Run notebooks side by side, each in a process of its own, and only those that have to run."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import suppress
from pathlib import Path
from threading import Lock
from typing import Any

from .execute import write_atomic
from .forks import FORKS, Forks
from .progress import Progress, progress_for
from .tasks import Task, combined, digests, stem_of


def run_tasks(
    tasks: Sequence[Task], folder: Path, jobs: int = 0, force: bool = False, say: Callable[[str], None] = print
) -> dict[str, dict[str, Any]]:
    """Run the notebooks that have to run, some at a time; returns the state of each, by key.

    A notebook is skipped where its last run had the same hashes and was done, with its report and maps still there, or
    ended because the input is wrong. The longest of the last run start first. Notebooks run in folder; jobs 0 is one
    for each core.
    """
    jobs = jobs or cores()
    states: dict[str, dict[str, Any]] = {}
    waiting: list[tuple[Task, dict[str, Any]]] = []
    last: dict[str, float] = {}
    for task in tasks:
        parts, state = digests(task), read_state(task)
        if not force and is_current(task, state, parts):
            states[task.key] = state
        else:
            waiting.append((task, parts))
            last[task.key] = state.get("seconds") or 0.0
    if states:
        say(f"{len(states)} of {len(tasks)} notebooks are up to date")
    waiting.sort(key=lambda item: -(last[item[0].key] or 1e9))
    pool, running = ThreadPoolExecutor(max_workers=jobs), {}
    processes = _Processes(_environment(jobs), fork=FORKS and len(waiting) > 1)
    shown = progress_for([task for task, _ in waiting], last, jobs, len(tasks), say)
    try:
        for task, parts in waiting:
            running[pool.submit(_run, task, parts, folder, jobs, processes, shown)] = task
        pending: set[Future[dict[str, Any]]] = set(running)
        while pending:
            done, pending = wait(pending, timeout=1.0, return_when=FIRST_COMPLETED)
            for future in done:
                task, state = running[future], future.result()
                states[task.key] = state
                shown.end(task, state)
            shown.tick()
    except BaseException:
        processes.stop()
        pool.shutdown(wait=True, cancel_futures=True)
        raise
    finally:
        shown.close()
        processes.close()
    pool.shutdown()
    return states


def _environment(jobs: int) -> dict[str, str]:
    """This environment, for the notebooks' processes: with so few threads that they do not fight for the cores."""
    environment = dict(os.environ)
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"):
        environment[name] = str(max(1, cores() // jobs))
    environment["JUPYTER_PREFER_ENV_PATH"] = "1"
    return environment


def is_current(task: Task, state: dict[str, Any], parts: dict[str, Any] | None = None) -> bool:
    """Whether a task's last state is what running it again would give."""
    if state.get("hash") != combined(parts or digests(task)):
        return False
    if state.get("state") == "done":
        return _complete(task, state)
    return bool(state.get("input_error"))


def read_state(task: Task) -> dict[str, Any]:
    """The result of a task's last run; empty where there is none that can be read."""
    try:
        state = json.loads(task.state_file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return state if isinstance(state, dict) else {}


def cores() -> int:
    """Logical cores that this process may use; under Slurm those that were asked for."""
    given = os.environ.get("SLURM_CPUS_PER_TASK", "")
    if given.isdigit() and int(given) > 0:
        return int(given)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class _Processes:
    """The notebooks' processes that are running, so that an interrupted study leaves none behind.

    fork: each is a copy of one that has imported everything; otherwise a new interpreter.
    """

    def __init__(self, environment: dict[str, str], fork: bool) -> None:
        self._environment = environment
        self._forks = Forks(environment) if fork else None
        self._lock, self._running, self._stopped = Lock(), set[subprocess.Popen[str]](), False

    def run(self, job: Path, log: Path, hear: Callable[[dict[str, Any]], None]) -> None:
        """Run a job file to the end: hear gets what it tells, the log what was written to stderr."""
        if self._forks is not None:
            if not self._stopped:
                self._forks.run(job, log, hear)
            return
        command = [sys.executable, "-m", "aslpinn_book.study.execute", str(job)]
        with log.open("w", encoding="utf-8") as stderr:
            with self._lock:
                if self._stopped:
                    return
                process = subprocess.Popen(
                    command, env=self._environment, stdout=subprocess.PIPE, stderr=stderr, text=True, errors="replace"
                )
                self._running.add(process)
            assert process.stdout is not None
            for line in process.stdout:
                with suppress(ValueError):  # whatever else a library prints is not for us
                    hear(json.loads(line))
            process.wait()
        with self._lock:
            self._running.discard(process)

    def stop(self) -> None:
        """Ask every process to end."""
        with self._lock:
            self._stopped = True
            for process in self._running:
                process.terminate()
        self.close()

    def close(self) -> None:
        """No process is started any more."""
        self._stopped = True
        if self._forks is not None:
            self._forks.close()


def _run(
    task: Task, parts: dict[str, Any], folder: Path, jobs: int, processes: _Processes, shown: Progress
) -> dict[str, Any]:
    """Run one notebook in a process of its own and keep its state beside the report; a full disk is a failure too."""
    start = time.monotonic()
    shown.start(task)
    try:
        state, log = _in_process(task, folder, processes, shown)
    except OSError as error:
        state, log = _failure(f"{error.strerror or error} (the study's folder or the temporary one)"), ""
    state |= {"seconds": round(time.monotonic() - start, 2), "threads": max(1, cores() // jobs)}
    traceback = state.pop("traceback", None)  # that is in the log
    state |= {"hash": combined(parts), "hashes": parts}
    logfile = task.report.with_name(f"{task.report.stem}.log")
    try:
        state["maps"] = _maps(task)
        if state["state"] == "failed":
            write_atomic(logfile, f"{traceback or state['error']}\n{log}")
        else:
            logfile.unlink(missing_ok=True)
        write_atomic(task.state_file, json.dumps(state, indent=1))
    except OSError as error:  # nothing is kept: the next run does it again
        state |= _failure(f"its result could not be written: {error.strerror}")
    return state


def _in_process(task: Task, folder: Path, processes: _Processes, shown: Progress) -> tuple[dict[str, Any], str]:
    """Run execute.py on a task; what it reports, and what it wrote to stderr."""
    task.report.parent.mkdir(parents=True, exist_ok=True)

    def hear(told: Any) -> None:
        with suppress(KeyError, TypeError):
            shown.stage(task, told["section"], (told["cell"] - 1) / told["cells"])

    with tempfile.TemporaryDirectory(prefix="aslpinn-") as scratch:
        job, result, log = (Path(scratch) / name for name in ("job.json", "result.json", "log.txt"))
        description = {
            "notebook": str(task.notebook),
            "output": str(task.report),
            "parameters": task.parameters,
            "folder": str(folder),
            "result": str(result),
        }
        job.write_text(json.dumps(description), encoding="utf-8")
        processes.run(job, log, hear)
        written = log.read_text(encoding="utf-8", errors="replace") if log.exists() else ""
        try:
            return json.loads(result.read_text(encoding="utf-8")), written
        except (OSError, ValueError):
            told = "No space left on device" if "No space left on device" in written else "out of memory, or stopped"
            return _failure(f"the process that ran the notebook ended early ({told})"), written


def _failure(error: str) -> dict[str, Any]:
    """State of a notebook that the machine, not its input, has ended."""
    return {"state": "failed", "error": error, "input_error": False, "traceback": None, "peak_memory_mb": None}


def _maps(task: Task) -> list[str]:
    """Files that the task wrote below its folder of maps, relative to it."""
    if task.maps is None:
        return []
    folder = task.maps / str(task.parameters["subject"]).split("_")[0]
    own = re.compile(
        re.escape(stem_of(Path(task.series))) + r"_(desc-[A-Za-z0-9]+_)?[A-Za-z0-9]+\.(json|nii|nii\.gz|tsv)"
    )
    return sorted(p.relative_to(task.maps).as_posix() for p in folder.rglob("*") if own.fullmatch(p.name))


def _complete(task: Task, state: dict[str, Any]) -> bool:
    """Whether the report and the maps of the last run are still there."""
    return task.report.is_file() and all(
        task.maps is not None and (task.maps / name).is_file() for name in state.get("maps", [])
    )


def sweep(out: Path) -> None:
    """Remove what a study that was killed left half-written; only while no other study runs in OUT."""
    for path in [*out.glob("derivatives/*/.aslpinn-*"), *out.glob("derivatives/*/*/.aslpinn-*")]:
        shutil.rmtree(path, ignore_errors=True)
    for folder in (".", "group", "chapters", "subjects/*"):
        for path in out.glob(f"{folder}/.*.part*"):
            path.unlink(missing_ok=True)
