"""How long a fit will take, said before it begins: a cost for each estimator, scaled by a probe of this machine.

Costs were measured on one core of a machine whose probe took PROBE seconds; benchmarks/speed.py measures them anew.
They are good to a factor of two: how many iterations a fit needs, and whether it finds arteries, is known afterwards.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..fields.threads import workers

PROBE = 0.0035  # s of `probe` on the core that the costs below were measured on
#: Seconds of start-up, and for 1000 voxels of 11 delays.
VOXELWISE = {
    "smoothed": (0.45, 0.020),
    "nlls": (0.5, 0.015),
    "vb": (0.55, 0.010),
    "svb": (0.6, 0.020),
    "basil": (1.0, 0.35),
}
FIELD_START, FIELD_GRID, FIELD_VOXELS = 1.0, 0.33, 0.094  # s; for 1e6 points x log2(points) x fields; for 1000 voxels
NETWORK_START, TORCH_START = 1.2, 2.0  # s: without and with importing torch
NETWORK_EPOCH, PAPER_EPOCH = 0.003, 0.010  # s an epoch for 1000 voxels: closed form, and the paper's preset
MEMBERS, EPOCHS, PAPER_EPOCHS = 8, 10, 5000
#: Module of compiled loops -> s to compile them, where none are kept from an earlier run.
COMPILING = {"mixture_kernels": 8.0, "fused_step": 24.0, "nlls_kernels": 6.0, "variational_kernels": 6.0}
LOOPS = {"nlls": "nlls_kernels", "vb": "variational_kernels", "svb": "variational_kernels", "closed-form": "fused_step"}
SERIAL = 0.35  # share of the work that further threads do not shorten


def probe(repeats: int = 5) -> float:
    """Seconds of a small mixture of what fits do (transforms, exponentials), the median of some repeats."""
    values = np.random.default_rng(0).standard_normal((24, 24, 24), dtype=np.float32)
    found = []
    for _ in range(repeats + 1):
        began = time.perf_counter()
        for _ in range(8):
            values = np.fft.irfftn(np.fft.rfftn(values), values.shape, axes=(0, 1, 2)).astype(np.float32)
            np.exp(-np.abs(values)).sum()
        found.append(time.perf_counter() - began)
    return float(np.median(found[1:]))


def expected_seconds(
    mask: NDArray[np.bool_],
    delays: int,
    estimator: str = "pinn",
    preset: str = "default",
    members: int | None = None,
    epochs: int | None = None,
    voxel_size: Sequence[float] = (1.0, 1.0, 1.0),
    machine: float | None = None,
) -> float:
    """Seconds that `fit` will take here, good to a factor of two.

    mask (X, Y, Z); delays: distinct ones; machine: seconds of `probe`, which is run by default. Compiling is counted
    where this installation has not compiled before.
    """
    thousands = float(np.count_nonzero(mask)) / 1000
    share = thousands * (0.3 + 0.7 * delays / 11)
    start, work = 0.0, 0.0
    if estimator in VOXELWISE:
        start, each = VOXELWISE[estimator]
        work = each * share
    elif estimator == "pinn" and preset == "default":
        grid = _grid_points(mask, voxel_size)
        count = MEMBERS if members is None else members
        transforms = 3 * grid * math.log2(grid) / 1e6  # of CBF, ATT and the guide
        start = FIELD_START
        work = FIELD_GRID * transforms * (0.6 + 0.4 * count / MEMBERS) + FIELD_VOXELS * share
        work *= 1.3  # between a brain without arteries and one with, which is fitted twice
    else:
        single = estimator == "closed-form"
        count = members or (1 if single or preset == "paper" else MEMBERS)
        trainings = count + (count > 1)
        each, default = (PAPER_EPOCH, PAPER_EPOCHS) if preset == "paper" and not single else (NETWORK_EPOCH, EPOCHS)
        start = TORCH_START if preset == "paper" and not single else NETWORK_START
        work = trainings * (epochs or default) * each * share
    speed = (probe() if machine is None else machine) / PROBE
    threads = SERIAL + (1 - SERIAL) / workers()
    return speed * (start + compiling_seconds(estimator, preset) + work * threads)


def compiling_seconds(estimator: str = "pinn", preset: str = "default") -> float:
    """Seconds, on the core of the costs above, that a fit's loops take to compile; 0 where they are kept already."""
    default = "mixture_kernels" if preset == "default" else "fused_step"
    loops = default if estimator == "pinn" else LOOPS.get(estimator)
    return 0.0 if loops is None or any(any(folder.glob(f"{loops}.*.nbi")) for folder in _caches()) else COMPILING[loops]


def _grid_points(mask: NDArray[np.bool_], voxel_size: Sequence[float]) -> float:
    """Points of the field's padded grid, about."""
    from ..fields.gaussian import MARGIN

    edge, points = min(voxel_size), 1.0
    for axis, size in enumerate(voxel_size):
        others = tuple(k for k in range(3) if k != axis)
        points *= 1.03 * (np.flatnonzero(mask.any(axis=others)).size + max(2, round(MARGIN * edge / size)))
    return max(points, 2.0)


def _caches() -> list[Path]:
    """Where Numba keeps the loops of this folder: NUMBA_CACHE_DIR, else beside the source, else the user's cache."""
    if kept := os.environ.get("NUMBA_CACHE_DIR"):
        return list(Path(kept).glob("estimation_*"))
    from numba.misc.appdirs import AppDirs

    user = Path(AppDirs(appname="numba", appauthor=False).user_cache_dir)
    return [Path(__file__).parent / "__pycache__", *user.glob("estimation_*")]


def in_words(seconds: float) -> str:
    """A duration as one says it: 8 s, 3 min, 2.5 h."""
    if seconds < 100:
        return f"{max(1, round(seconds))} s"
    if seconds < 5400:
        return f"{round(seconds / 60)} min"
    return f"{seconds / 3600:.1f} h"
