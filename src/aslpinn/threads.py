"""One pool of threads for loops that release the interpreter's lock, and how many there are."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from .errors import InputError

CHUNK = 2048  # voxels

_chosen: int | None = None
_pools: dict[tuple[int, int], ThreadPoolExecutor] = {}


def workers() -> int:
    """Threads to use: as `set_threads` said, else by NUMBA_NUM_THREADS or OMP_NUM_THREADS, else all processors."""
    if _chosen is not None:
        return _chosen
    for name in ("NUMBA_NUM_THREADS", "OMP_NUM_THREADS"):
        if os.environ.get(name, "").isdigit():
            return max(1, int(os.environ[name]))
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def set_threads(count: int) -> None:
    """Let PyTorch and the compiled loops use `count` threads each; results do not depend on it.

    Raises InputError where the count is not a positive integer.
    """
    global _chosen
    if isinstance(count, bool) or not isinstance(count, int) or count < 1:
        raise InputError(f"threads: found {count!r}, expected a positive integer")
    import torch

    torch.set_num_threads(count)
    _chosen = count


def _submit(threads: int, call: Callable[..., Any], *arguments: Any) -> Future[Any]:
    key = (os.getpid(), threads)  # threads do not live on in a forked process
    if key not in _pools:
        _pools[key] = ThreadPoolExecutor(threads, thread_name_prefix="aslpinn")
    return _pools[key].submit(call, *arguments)


def on_threads(threads: int, kernel: Callable[..., None], *arguments: Any) -> None:
    """Call kernel(thread, threads, *arguments) on every one of so many threads, this one being the first.

    They wait without spinning, compile faster than Numba's own parallel loops, and may be called from several threads.
    The first error of a thread is raised.
    """
    others = [_submit(threads, kernel, thread, threads, *arguments) for thread in range(1, threads)]
    try:
        kernel(0, threads, *arguments)
    finally:
        for other in others:
            other.result()


def over_voxels(function: Callable[..., None], n: int, *arguments: Any) -> None:
    """Call function(first, last, *arguments) for chunks that cover 0 to n; each writes its own voxels.

    The first error of a chunk is raised.
    """
    bounds = [(first, min(first + CHUNK, n)) for first in range(0, n, CHUNK)]
    threads = min(workers(), len(bounds))
    if threads < 2:
        for first, last in bounds:
            function(first, last, *arguments)
        return
    for future in [_submit(workers(), function, first, last, *arguments) for first, last in bounds]:
        future.result()


def together(task: Callable[[Any], Any], items: Sequence[Any], threads: int) -> list[Any]:
    """The results of a task for each item, in order, on so many threads; the first error of an item is raised."""
    if threads < 2 or len(items) < 2:
        return [task(item) for item in items]
    return [future.result() for future in [_submit(threads, task, item) for item in items]]
