"""Threads over voxels for compiled loops that release the interpreter's lock."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

CHUNK = 2048  # voxels


def workers() -> int:
    """Threads to use: NUMBA_NUM_THREADS or OMP_NUM_THREADS where set, else the processors this process may use."""
    for name in ("NUMBA_NUM_THREADS", "OMP_NUM_THREADS"):
        if os.environ.get(name, "").isdigit():
            return max(1, int(os.environ[name]))
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def over_voxels(function: Callable[..., None], n: int, *args: Any) -> None:
    """Call function(first, last, *args) for chunks that cover 0 to n; each writes its own voxels, so order is free.

    The first error of a chunk is raised.
    """
    bounds = [(first, min(first + CHUNK, n)) for first in range(0, n, CHUNK)]
    if len(bounds) < 2 or workers() < 2:
        for first, last in bounds:
            function(first, last, *args)
        return
    with ThreadPoolExecutor(workers()) as pool:
        for future in [pool.submit(function, first, last, *args) for first, last in bounds]:
            future.result()
