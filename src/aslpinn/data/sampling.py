"""Values of a volume at any voxel coordinates: compiled, because registration asks for them thousands of times."""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

Float = NDArray[np.float64]


@njit(cache=True, nogil=True)
def linear(volume: Float, voxels: Float) -> Float:
    """Trilinear values (n,) of an (X, Y, Z) volume at coordinates (3, n); beyond the grid the nearest edge."""
    nx, ny, nz = volume.shape
    out = np.empty(voxels.shape[1])
    for p in range(voxels.shape[1]):
        x = min(max(voxels[0, p], 0.0), nx - 1.0)
        y = min(max(voxels[1, p], 0.0), ny - 1.0)
        z = min(max(voxels[2, p], 0.0), nz - 1.0)
        i, j, k = min(int(x), nx - 2), min(int(y), ny - 2), min(int(z), nz - 2)
        u, v, w = x - i, y - j, z - k
        low = (volume[i, j, k] * (1 - w) + volume[i, j, k + 1] * w) * (1 - v)
        low += (volume[i, j + 1, k] * (1 - w) + volume[i, j + 1, k + 1] * w) * v
        high = (volume[i + 1, j, k] * (1 - w) + volume[i + 1, j, k + 1] * w) * (1 - v)
        high += (volume[i + 1, j + 1, k] * (1 - w) + volume[i + 1, j + 1, k + 1] * w) * v
        out[p] = low * (1 - u) + high * u
    return out


@njit(cache=True, nogil=True, inline="always")
def _weights(u: float) -> tuple[float, float, float, float]:
    """Cubic B-spline weights of the four nodes around a point, u from the second (0 to 1)."""
    a = 1.0 - u
    return a * a * a / 6.0, 2.0 / 3.0 - u * u * (2.0 - u) / 2.0, 2.0 / 3.0 - a * a * (2.0 - a) / 2.0, u * u * u / 6.0


@njit(cache=True, nogil=True, inline="always")
def _mirror(index: int, count: int) -> int:
    """A node index reflected about the first and the last node, as the spline filter assumes."""
    index = abs(index)
    return 2 * (count - 1) - index if index > count - 1 else index


@njit(cache=True, nogil=True)
def cubic(coefs: Float, voxels: Float) -> Float:
    """Cubic B-spline values (n,) from mirror-filtered coefficients at coordinates (3, n); clamped to the grid."""
    nx, ny, nz = coefs.shape
    out = np.empty(voxels.shape[1])
    jj, kk = np.empty(4, np.int64), np.empty(4, np.int64)
    for p in range(voxels.shape[1]):
        x = min(max(voxels[0, p], 0.0), nx - 1.0)
        y = min(max(voxels[1, p], 0.0), ny - 1.0)
        z = min(max(voxels[2, p], 0.0), nz - 1.0)
        i, j, k = int(x), int(y), int(z)
        wx, wy, wz = _weights(x - i), _weights(y - j), _weights(z - k)
        for m in range(4):
            jj[m], kk[m] = _mirror(j - 1 + m, ny), _mirror(k - 1 + m, nz)
        total = 0.0
        for a in range(4):
            ii = _mirror(i - 1 + a, nx)
            plane = 0.0
            for b in range(4):
                row = coefs[ii, jj[b]]
                line = row[kk[0]] * wz[0] + row[kk[1]] * wz[1] + row[kk[2]] * wz[2] + row[kk[3]] * wz[3]
                plane += line * wy[b]
            total += plane * wx[a]
        out[p] = total
    return out
