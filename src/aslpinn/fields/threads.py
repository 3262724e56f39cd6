"""The number of CPU threads, set in one place for PyTorch and Numba."""

from __future__ import annotations

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
