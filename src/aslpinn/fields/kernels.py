"""Numba kernels of the hash encoding: a weighted gather and its transpose.

Both take the table rows and the trilinear weights computed once for fixed positions (`HashIndex`). The gather runs in
parallel over points, the transpose over levels. Levels own disjoint rows of the table, so no two threads write to the
same place, and each row adds its terms in the order of the points: results are the same for every number of threads.
"""

from __future__ import annotations

import numba
import numpy as np
from numpy.typing import NDArray

Float = NDArray[np.float32]


@numba.njit(parallel=True, cache=True, nogil=True)
def gather(table: Float, rows: NDArray[np.uint32], weights: Float, points: NDArray[np.int64], out: Float) -> None:
    """Write out[i, l*F + f] = sum over corners k of weights[p, l, k] * table[rows[p, l, k], f], with p = points[i].

    table (rows, F); rows and weights (N, levels, 8); points (n,) in 0..N-1; out (n, levels * F), overwritten.
    """
    levels, corners = rows.shape[1], rows.shape[2]
    features = table.shape[1]
    for i in numba.prange(points.size):
        p = points[i]
        for level in range(levels):
            if features == 2:  # the published size, with its sums kept in registers
                first = np.float32(0.0)
                second = np.float32(0.0)
                for k in range(corners):
                    row = rows[p, level, k]
                    weight = weights[p, level, k]
                    first += weight * table[row, 0]
                    second += weight * table[row, 1]
                out[i, 2 * level] = first
                out[i, 2 * level + 1] = second
            else:
                for f in range(features):
                    total = np.float32(0.0)
                    for k in range(corners):
                        total += weights[p, level, k] * table[rows[p, level, k], f]
                    out[i, level * features + f] = total


@numba.njit(parallel=True, cache=True, nogil=True)
def scatter(
    grad_out: Float,
    rows: NDArray[np.uint32],
    weights: Float,
    points: NDArray[np.int64],
    offsets: NDArray[np.int64],
    grad_table: Float,
) -> None:
    """Write the gradient of `gather` with respect to its table into grad_table, overwriting what was there.

    grad_out (n, levels * F); offsets (levels + 1,): level l owns the rows offsets[l] to offsets[l+1] - 1.
    """
    levels, corners = rows.shape[1], rows.shape[2]
    features = grad_table.shape[1]
    for level in numba.prange(levels):
        grad_table[offsets[level] : offsets[level + 1], :] = np.float32(0.0)
        for i in range(points.size):
            p = points[i]
            if features == 2:
                first = grad_out[i, 2 * level]
                second = grad_out[i, 2 * level + 1]
                for k in range(corners):
                    row = rows[p, level, k]
                    weight = weights[p, level, k]
                    grad_table[row, 0] += weight * first
                    grad_table[row, 1] += weight * second
            else:
                for k in range(corners):
                    row = rows[p, level, k]
                    weight = weights[p, level, k]
                    for f in range(features):
                        grad_table[row, f] += weight * grad_out[i, level * features + f]
