"""The number of CPU threads, set in one place for PyTorch and Numba."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from ..errors import InputError


def set_threads(count: int) -> None:
    """Let PyTorch and Numba use `count` threads each; results do not depend on it.

    Numba cannot use more threads than it was started with (the machine's cores, or NUMBA_NUM_THREADS): a larger
    count gives it that maximum. Raises InputError where the count is not a positive integer.
    """
    import torch
    from numba import config, set_num_threads

    if isinstance(count, bool) or not isinstance(count, int) or count < 1:
        raise InputError(f"threads: found {count!r}, expected a positive integer")
    torch.set_num_threads(count)
    set_num_threads(min(count, config.NUMBA_NUM_THREADS))  # type: ignore[attr-defined]


def get_threads() -> tuple[int, int]:
    """Return the threads in use now, as (PyTorch's, Numba's)."""
    import numba
    import torch

    return torch.get_num_threads(), numba.get_num_threads()


_pools: dict[tuple[int, int], ThreadPoolExecutor] = {}


def on_threads(kernel: Callable[..., None], *arguments: Any) -> None:
    """Call kernel(thread, threads, *arguments) on every one of Numba's threads, this one being the first.

    For compiled kernels that release the interpreter's lock. They wait without spinning, compile faster than Numba's
    own parallel loops, and may be called from several threads. The first error of a thread is raised.
    """
    from numba import get_num_threads

    threads = get_num_threads()
    if threads == 1:
        return kernel(0, 1, *arguments)
    key = (os.getpid(), threads)  # threads do not live on in a forked process
    if key not in _pools:
        _pools[key] = ThreadPoolExecutor(threads - 1, thread_name_prefix="aslpinn")
    others = [_pools[key].submit(kernel, thread, threads, *arguments) for thread in range(1, threads)]
    try:
        kernel(0, threads, *arguments)
    finally:
        for other in others:
            other.result()
