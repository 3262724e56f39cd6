"""Run notebooks side by side, each in a process of its own, and only those that have to run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path
from threading import Lock
from typing import Any

from .execute import write_atomic
from .tasks import Task, digest


def run_tasks(
    tasks: Sequence[Task], folder: Path, jobs: int = 0, force: bool = False, say: Callable[[str], None] = print
) -> dict[str, dict[str, Any]]:
    """Run the notebooks that have to run, some at a time; returns the state of each, by key.

    A notebook is skipped where its last run was done with the same hash and its report and maps are still there.
    The longest of the last run start first. Notebooks run in folder; jobs 0 is one for each core.
    """
    jobs = jobs or cores()
    states: dict[str, dict[str, Any]] = {}
    waiting: list[tuple[float, Task, str]] = []
    for task in tasks:
        wanted, last = digest(task), read_state(task)
        if not force and last.get("state") == "done" and last.get("hash") == wanted and _complete(task, last):
            states[task.key] = last
        else:
            waiting.append((last.get("seconds") or 1e9, task, wanted))
    if states:
        say(f"{len(states)} of {len(tasks)} notebooks are up to date")
    waiting.sort(key=lambda item: -item[0])
    pool, running = ThreadPoolExecutor(max_workers=jobs), {}
    processes = _Processes()
    try:
        for _, task, wanted in waiting:
            running[pool.submit(_run, task, wanted, folder, jobs, processes)] = task
        pending: set[Future[dict[str, Any]]] = set(running)
        while pending:
            done, pending = wait(pending, return_when=FIRST_COMPLETED)
            for future in done:
                task, state = running[future], future.result()
                states[task.key] = state
                count = len(tasks) - len(pending)
                note = "" if state["state"] == "done" else f": {state['error']}"
                say(f"[{count}/{len(tasks)}] {task.title} {state['state']} in {state['seconds']:.0f} s{note}")
    except BaseException:
        processes.stop()
        pool.shutdown(wait=False, cancel_futures=True)
        raise
    pool.shutdown()
    return states


def read_state(task: Task) -> dict[str, Any]:
    """The result of a task's last run; empty where there is none that can be read."""
    try:
        state = json.loads(task.state_file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return state if isinstance(state, dict) else {}


def cores() -> int:
    """Logical cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class _Processes:
    """The notebooks' processes that are running, so that an interrupted study leaves none behind."""

    def __init__(self) -> None:
        self._lock, self._running, self._stopped = Lock(), set[subprocess.Popen[str]](), False

    def run(self, command: list[str], environment: dict[str, str]) -> str:
        """Run to the end; returns what was written to stderr."""
        with self._lock:
            if self._stopped:
                return "stopped"
            process = subprocess.Popen(
                command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, errors="replace"
            )
            self._running.add(process)
        _, stderr = process.communicate()
        with self._lock:
            self._running.discard(process)
        return stderr

    def stop(self) -> None:
        """Ask every process to end."""
        with self._lock:
            self._stopped = True
            for process in self._running:
                process.terminate()


def _run(task: Task, wanted: str, folder: Path, jobs: int, processes: _Processes) -> dict[str, Any]:
    """Run one notebook in a process of its own and keep its state beside the report."""
    start = time.monotonic()
    environment = dict(os.environ)
    threads = str(max(1, cores() // jobs))  # so that the notebooks do not fight for the cores
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"):
        environment[name] = threads
    environment["JUPYTER_PREFER_ENV_PATH"] = "1"
    task.report.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="aslpinn-") as scratch:
        job, result = Path(scratch) / "job.json", Path(scratch) / "result.json"
        description = {
            "notebook": str(task.notebook),
            "output": str(task.report),
            "parameters": task.parameters,
            "folder": str(folder),
            "result": str(result),
        }
        job.write_text(json.dumps(description), encoding="utf-8")
        log = processes.run([sys.executable, "-m", "aslpinn.report.execute", str(job)], environment)
        try:
            state: dict[str, Any] = json.loads(result.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            state = {
                "state": "failed",
                "seconds": round(time.monotonic() - start, 2),
                "error": "the process that ran the notebook ended early (out of memory, or stopped from outside)",
                "input_error": False,
                "traceback": None,
                "peak_memory_mb": None,
            }
    logfile = task.report.with_name(f"{task.report.stem}.log")
    if state["state"] == "failed":
        write_atomic(logfile, f"{state.get('traceback') or state['error']}\n{log}")
    else:
        logfile.unlink(missing_ok=True)
    state = {name: value for name, value in state.items() if name != "traceback"}  # that is in the log
    state |= {"hash": wanted, "maps": _maps(task)}
    write_atomic(task.state_file, json.dumps(state, indent=1))
    return state


def _maps(task: Task) -> list[str]:
    """Files that the task wrote below its folder of maps, relative to it."""
    if task.maps is None:
        return []
    folder = task.maps / str(task.parameters["subject"]).split("_")[0]
    return sorted(path.relative_to(task.maps).as_posix() for path in folder.rglob("*") if path.is_file())


def _complete(task: Task, state: dict[str, Any]) -> bool:
    """Whether the report and the maps of the last run are still there."""
    return task.report.is_file() and all(
        task.maps is not None and (task.maps / name).is_file() for name in state.get("maps", [])
    )
