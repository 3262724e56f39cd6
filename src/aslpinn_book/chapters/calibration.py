"""Whether standard deviations mean what they say: reliability, spatial correlation of errors, SD of regional means."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from aslpinn.errors import InputError
from aslpinn.maps.metrics import coverage

Floats = NDArray[np.floating]
Mask = NDArray[np.bool_]

#: Probabilities of the intervals that a reliability curve looks at.
LEVELS = (0.05, 0.2, 0.35, 0.5, 0.65, 0.8, 0.9, 0.95, 0.99)


def reliability(
    estimate: ArrayLike, sd: ArrayLike, truth: ArrayLike, region: ArrayLike, levels: Iterable[float] = LEVELS
) -> NDArray[np.float64]:
    """Observed coverage of the central normal interval of every level over the region (Guo et al. 2017)."""
    return np.array([coverage(estimate, sd, truth, region, level) for level in levels])


def z_scores(estimate: ArrayLike, sd: ArrayLike, truth: ArrayLike, region: ArrayLike) -> NDArray[np.float64]:
    """(estimate - truth) / SD in the region; voxels without an SD (0) are left out."""
    chosen = np.asarray(region, bool) & (np.asarray(sd) > 0)
    error = np.asarray(estimate, np.float64)[chosen] - np.asarray(truth, np.float64)[chosen]
    return error / np.asarray(sd, np.float64)[chosen]


def regional_sd(errors: Floats, region: NDArray[np.bool_] | NDArray[np.integer]) -> float:
    """SD of the mean over a region, from members' errors.

    Parameters
    ----------
    errors : (K, N)
        One quantity of `Estimate.member_errors`; each row is a draw of the error at the mask's voxels.
    region : (N,) bool, or indices
        Voxels of the region.

    With K members it is known to about 1 / sqrt(2 K) of itself. InputError for an empty region.
    """
    chosen = errors[:, region]
    if chosen.shape[1] == 0:
        raise InputError("the region of the mean holds no voxel")
    return float(np.sqrt(np.mean(chosen.mean(axis=1, dtype=np.float64) ** 2)))


def effective_voxels(errors: Floats, region: NDArray[np.bool_] | NDArray[np.integer]) -> float:
    """Number of independent voxels whose mean would be as uncertain as that of the region."""
    variance = float(np.mean(errors[:, region].astype(np.float64) ** 2))
    return variance / regional_sd(errors, region) ** 2


def spheres(
    mask: Mask, voxel_size: Sequence[float], radius: float, count: int, rng: np.random.Generator
) -> list[NDArray[np.intp]]:
    """Indices into the mask's voxels of `count` spheres around random ones of them; radius and voxel_size in mm."""
    from scipy.spatial import cKDTree

    place = np.argwhere(mask) * np.asarray(voxel_size)
    centers = place[rng.choice(len(place), min(count, len(place)), replace=False)]
    return [np.array(found) for found in cKDTree(place).query_ball_point(centers, radius)]


def lag_correlation(errors: Floats, mask: Mask, steps: int, axis: int = 0) -> NDArray[np.float64]:
    """Correlation of errors with those 0 to `steps` voxels further along an axis, pooled over K maps.

    errors (K, N) at the mask's voxels; only pairs inside the mask count. The mean error is not taken out.
    """
    volumes = np.zeros((len(errors), *mask.shape))
    volumes[:, mask] = errors
    volumes, inside = np.moveaxis(volumes, axis + 1, 1), np.moveaxis(mask, axis, 0)
    length = inside.shape[0]
    found = []
    for step in range(steps + 1):
        pairs = inside[: length - step] & inside[step:]
        a, b = volumes[:, : length - step][:, pairs], volumes[:, step:][:, pairs]
        found.append(np.sum(a * b) / np.sqrt(np.sum(a**2) * np.sum(b**2)))
    return np.array(found)
