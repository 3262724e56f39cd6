"""Run notebooks side by side, each in a kernel of its own, and only those that have to run."""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

from aslpinn.files import write_atomic

from .kernels import FORKS, Kernels
from .notebooks import Task, combined, digests, stem_of
from .one_notebook import execute
from .progress import Progress, progress_for


def run_tasks(
    tasks: Sequence[Task], folder: Path, jobs: int = 0, force: bool = False, say: Callable[[str], None] = print
) -> dict[str, dict[str, Any]]:
    """Run the notebooks that have to run, some at a time; returns the state of each, by key.

    A notebook is skipped where its last run had the same hashes and was done, with its report and maps still there, or
    ended because the input is wrong. The longest of the last run start first. One that the machine failed is tried once
    more, when the others have had their turn. Notebooks run in folder; jobs 0 is one for each core.
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
    kernels = Kernels(_environment(jobs), fork=FORKS and len(waiting) > 1)
    shown = progress_for([task for task, _ in waiting], last, jobs, len(tasks), say)
    try:
        for task, parts in waiting:
            running[pool.submit(_run, task, parts, folder, jobs, kernels, shown)] = task
        pending: set[Future[dict[str, Any]]] = set(running)
        again: set[str] = set()
        while pending:
            done, pending = wait(pending, timeout=1.0, return_when=FIRST_COMPLETED)
            for future in done:
                task, state = running[future], future.result()
                if state.get("passing") and task.key not in again:
                    again.add(task.key)
                    shown.retry(task, state)
                    future = pool.submit(_run, task, state["hashes"], folder, jobs, kernels, shown)
                    running[future] = task
                    pending.add(future)
                    continue
                states[task.key] = state
                shown.end(task, state)
            shown.tick()
    except BaseException:
        for future in running:
            future.cancel()
        kernels.stop()
        pool.shutdown(wait=True, cancel_futures=True)
        raise
    finally:
        shown.close()
    pool.shutdown()
    return states


def _environment(jobs: int) -> dict[str, str]:
    """Variables for the notebooks' kernels: so few threads that they do not fight for the cores."""
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")
    return dict.fromkeys(names, str(max(1, cores() // jobs)))


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


def _run(
    task: Task, parts: dict[str, Any], folder: Path, jobs: int, kernels: Kernels, shown: Progress
) -> dict[str, Any]:
    """Run one notebook in a kernel of its own and keep its state beside the report; a full disk is a failure too."""
    start = time.monotonic()
    shown.start(task)
    try:
        state, log = _in_kernel(task, folder, kernels, shown)
    except OSError as error:
        state, log = _failure(f"{error.strerror or error} (the study's folder or the temporary one)"), ""
    if kernels.stopped:  # nothing is kept: the next run does it again
        return state
    state |= {"seconds": round(time.monotonic() - start, 2), "threads": max(1, cores() // jobs)}
    traceback = state.pop("traceback", None)  # that is in the log
    state |= {"hash": combined(parts), "hashes": parts}
    logfile = task.report.with_name(f"{task.report.stem}.log")
    try:
        state["maps"] = _maps(task)
        if task.maps is not None and state["state"] == "done" and not state["maps"]:
            state |= _failure(f"the notebook ended, but left no map named {stem_of(Path(task.series))}_*")
        if state["error"]:
            state["error"] = without_folders(state["error"], task)
        if state["state"] == "failed":
            write_atomic(logfile, f"{traceback or state['error']}\n{log}")
        else:
            logfile.unlink(missing_ok=True)
        write_atomic(task.state_file, json.dumps(state, indent=1))
    except OSError as error:  # nothing is kept: the next run does it again
        state |= _failure(f"its result could not be written: {error.strerror}")
    return state


def _in_kernel(task: Task, folder: Path, kernels: Kernels, shown: Progress) -> tuple[dict[str, Any], str]:
    """Run a task's notebook; what came of it, and what its kernel wrote to stderr."""
    task.report.parent.mkdir(parents=True, exist_ok=True)

    def tell(section: str, cell: int, cells: int) -> None:
        shown.stage(task, section, (cell - 1) / cells)

    with tempfile.TemporaryDirectory(prefix="aslpinn-") as scratch:
        log, usage = Path(scratch) / "log.txt", Path(scratch) / "usage.json"
        manager = kernels.manager(folder, log, usage)
        state = execute(task.notebook, task.report, task.parameters, folder, tell, manager)
        written = log.read_text(encoding="utf-8", errors="replace") if log.exists() else ""
        used = json.loads(usage.read_text(encoding="utf-8")) if usage.exists() else {"peak_memory_mb": None}
    return state | used, written


def without_folders(message: str, task: Task) -> str:
    """A message without the folders of whoever ran it: relative to the data set or the study, else base names."""
    for folder in (task.root, task.report.parents[2]):
        if folder is not None:
            message = message.replace(f"{folder}/", "")
    return re.sub(r"(?<![\w./])/(?:[^\s/:'\"]+/)+(?=[^\s/:'\"])", "", message)


def _failure(error: str) -> dict[str, Any]:
    """State of a notebook that the machine, not its input, has ended."""
    return {"state": "failed", "error": error, "input_error": False, "passing": False, "peak_memory_mb": None}


def _maps(task: Task) -> list[str]:
    """Files that the task wrote below its folder of maps, relative to it."""
    if task.maps is None:
        return []
    own = re.compile(
        re.escape(stem_of(Path(task.series))) + r"_(desc-[A-Za-z0-9]+_)?[A-Za-z0-9]+\.(json|nii|nii\.gz|tsv)"
    )
    return sorted(p.relative_to(task.maps).as_posix() for p in task.maps.rglob("*") if own.fullmatch(p.name))


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
