"""Linear interpolation of volumes at many points: what scipy.ndimage.map_coordinates does at order 1, compiled."""

# mypy: allow-untyped-defs, disable-error-code="untyped-decorator"

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

Float = NDArray[np.float32]


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
