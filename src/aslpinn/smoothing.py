"""Gaussian smoothing inside a mask: what lies outside has no weight, so that the brain's edge is not darkened."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.bool_]


def smooth_inside(
    values: NDArray[np.floating], mask: Mask, sigma: Sequence[float], at: Mask | None = None
) -> NDArray[Any]:
    """Values (N,) or (N, T) at the N voxels of a mask (X, Y, Z), averaged by a Gaussian of SD sigma (3,) voxels.

    The averages are those at the same voxels, or at those of the mask `at`; they have the floating type of the values.
    """
    from scipy.ndimage import gaussian_filter

    at = mask if at is None else at
    weight = _weight(mask, sigma, at)
    smooth = np.empty((len(weight), *values.shape[1:]), values.dtype)
    volume = np.zeros(mask.shape, np.float32)
    for column, out in zip(np.atleast_2d(values.T), np.atleast_2d(smooth.T), strict=True):
        volume[mask] = column
        out[:] = gaussian_filter(volume, sigma, mode="constant")[at] / weight
    return smooth


def own_weight(mask: Mask, sigma: Sequence[float]) -> NDArray[np.float32]:
    """Weight (N,) that each voxel of the mask has in its own average."""
    from scipy.ndimage import gaussian_filter

    point = np.zeros(tuple(2 * int(4 * s + 0.5) + 1 for s in sigma), np.float32)
    center = tuple(n // 2 for n in point.shape)
    point[center] = 1
    own: NDArray[np.float32] = gaussian_filter(point, sigma, mode="constant")[center] / _weight(mask, sigma, mask)
    return own


def _weight(mask: Mask, sigma: Sequence[float], at: Mask) -> NDArray[np.float32]:
    from scipy.ndimage import gaussian_filter

    share: NDArray[np.float32] = gaussian_filter(mask.astype(np.float32), sigma, mode="constant")[at]
    return np.maximum(share, np.float32(1e-9))
