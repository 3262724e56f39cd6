"""Compile what fits need, once, so that nobody's first fit waits for it: python -m aslpinn_book.compile_loops.

Numba keeps compiled loops where later processes find them: in NUMBA_CACHE_DIR where it is set, else beside the source
files, else (where those folders cannot be written to) in the user's cache. `make setup` runs this; without it the first
fit of each kind compiles.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable

import numpy as np

from .chapters.speed import synthetic, synthetic_m0


def _networks() -> None:
    from aslpinn.estimation import fit

    series, mask, timing = synthetic(500, 6)
    fit(series, mask, timing, estimator="pinn", members=1, epochs=1, voxel_size=(3.0, 3.0, 3.0))
    # f_tissue shares that loop; PyTorch's modules are evaluated by kernels of their own
    fit(series, mask, timing, estimator="pinn", objective="increments", members=1, epochs=1, voxel_size=(3.0, 3.0, 3.0))


def _voxels() -> None:
    from aslpinn.data.motion.rigid import coefficients, sample
    from aslpinn.estimation import fit

    series, mask, timing = synthetic(500, 6)
    fit(series, mask, timing, guide=synthetic_m0(mask), voxel_size=(3.0, 3.0, 3.0), members=2)
    for estimator in ("nlls", "vb", "svb"):
        fit(series, mask, timing, estimator=estimator)
    for order in (1, 3):  # motion correction
        sample(coefficients(series[..., 0].astype(float), order), np.ones((3, 4)), order)


#: Of about equal length, for two processors.
KINDS: dict[str, Callable[[], None]] = {"networks": _networks, "voxels": _voxels}


def main() -> int:
    """Compile all kinds, a process each; the number of those that failed, whose errors are shown."""
    if len(sys.argv) > 1:
        KINDS[sys.argv[1]]()
        return 0
    began = time.perf_counter()
    command = [sys.executable, "-m", "aslpinn_book.compile_loops"]
    processes = [subprocess.Popen([*command, kind]) for kind in KINDS]
    failed = sum(process.wait() != 0 for process in processes)
    print(f"loops compiled and kept for later fits: {time.perf_counter() - began:.0f} s")
    return failed


if __name__ == "__main__":
    sys.exit(main())
