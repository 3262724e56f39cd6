"""Values of volumes between voxels, compiled: many channels for the phantom, one in double precision to register."""

# mypy: allow-untyped-defs, disable-error-code="untyped-decorator"

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

Float = NDArray[np.float32]
Double = NDArray[np.float64]


@njit(cache=True, nogil=True)
def _place(x, last, clamp):
    """Lower neighbor of x on an axis that ends at `last`, the share of the upper one, and whether x counts."""
    known = clamp or 0.0 <= x <= last
    x = min(max(x, np.float32(0.0)), np.float32(last))
    low = min(int(x), max(last - 1, 0))
    return low, x - np.float32(low), known


@njit(cache=True, nogil=True)
def _sample(volumes, points, scale, shift, clamp, out):
    """Write into out (N, C) volumes (X, Y, Z, C) at points * scale + shift, in voxels; beyond them 0 or the edge."""
    nx, ny, nz, channels = volumes.shape
    one = np.float32(1.0)
    for i in range(points.shape[0]):
        x, u, inside_x = _place(points[i, 0] * scale[0] + shift[0], nx - 1, clamp)
        y, v, inside_y = _place(points[i, 1] * scale[1] + shift[1], ny - 1, clamp)
        z, w, inside_z = _place(points[i, 2] * scale[2] + shift[2], nz - 1, clamp)
        if not (inside_x and inside_y and inside_z):
            out[i, :] = 0.0
            continue
        x1, y1, z1 = min(x + 1, nx - 1), min(y + 1, ny - 1), min(z + 1, nz - 1)
        for c in range(channels):
            lower = (one - v) * ((one - u) * volumes[x, y, z, c] + u * volumes[x1, y, z, c])
            lower += v * ((one - u) * volumes[x, y1, z, c] + u * volumes[x1, y1, z, c])
            upper = (one - v) * ((one - u) * volumes[x, y, z1, c] + u * volumes[x1, y, z1, c])
            upper += v * ((one - u) * volumes[x, y1, z1, c] + u * volumes[x1, y1, z1, c])
            out[i, c] = (one - w) * lower + w * upper


def sample(volumes: NDArray[Any], points: NDArray[Any], scale: Any, shift: Any, clamp: bool = False) -> Float:
    """Volumes (X, Y, Z, C) at points (..., 3), linearly interpolated: (..., C) float32.

    A point lies at voxel coordinates points * scale + shift (scale and shift (3,)). Beyond the first and last voxel the
    value is 0, or with clamp that of the nearest voxel.
    """
    flat = np.ascontiguousarray(points, dtype=np.float32).reshape(-1, 3)
    out = np.empty((len(flat), volumes.shape[-1]), np.float32)
    affine = (np.asarray(scale, dtype=np.float32), np.asarray(shift, dtype=np.float32))
    _sample(np.ascontiguousarray(volumes, dtype=np.float32), flat, *affine, clamp, out)
    return out.reshape(*np.shape(points)[:-1], volumes.shape[-1])


@njit(cache=True, nogil=True)
def linear(volume: Double, voxels: Double) -> Double:
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
def cubic(coefs: Double, voxels: Double) -> Double:
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
