"""How good a map is: every function takes the region that it speaks of.

`region` is a boolean array of the maps' shape. `everywhere(mask)` gives the whole volume, zeros outside the
brain included: that is the paper's choice, and it flatters (a constant inside the mask already scores a
correlation above 0.9), so such numbers are only ever shown beside those of the mask.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..errors import InputError

Map = NDArray[np.floating]
Region = NDArray[np.bool_]


def everywhere(mask: Region) -> Region:
    """The region of the paper's own numbers: every voxel of the volume."""
    return np.ones(np.shape(mask), dtype=bool)


def _inside(region: ArrayLike, *maps: ArrayLike) -> list[NDArray[np.float64]]:
    """Values of maps in the region as float64; InputError where shapes differ or a value is missing."""
    chosen = np.asarray(region, dtype=bool)
    values = []
    for array in maps:
        array = np.asarray(array, dtype=np.float64)
        if array.shape[: chosen.ndim] != chosen.shape:
            raise InputError(f"a map has shape {array.shape} and the region {chosen.shape}; expected the same grid")
        values.append(array[chosen])
    if not chosen.any():
        raise InputError("the region of the metric holds no voxel")
    if not all(np.isfinite(v).all() for v in values):
        raise InputError("a map holds a value that is not finite inside the region of the metric")
    return values


def pcc(estimate: ArrayLike, truth: ArrayLike, region: ArrayLike) -> float:
    """Pearson correlation over the voxels of the region; NaN where either map is constant there."""
    a, b = _inside(region, estimate, truth)
    a, b = a - a.mean(), b - b.mean()
    norm = np.sqrt((a @ a) * (b @ b))
    return float(a @ b / norm) if norm > 0 else float("nan")


def ssim(estimate: ArrayLike, truth: ArrayLike, region: ArrayLike, mask: ArrayLike | None = None) -> float:
    """Structural similarity (Wang et al. 2004, doi:10.1109/TIP.2003.819861), averaged over the region.

    In 3D, windows of 7 x 7 x 7 voxels with equal weights, sample covariance, K1 0.01, K2 0.03 (scikit-image's
    defaults). Both maps are set to zero outside `mask` (by default the region) first, so that what an estimator
    writes outside the brain does not count; then the local SSIM is averaged over the region's voxels only. The
    data range is that of the truth so masked: its largest value minus its smallest (0 where anything lies outside).
    A window at the edge of the brain sees zeros in both maps, which raises SSIM a little there.
    """
    from skimage.metrics import structural_similarity

    chosen = np.asarray(region, dtype=bool)
    brain = chosen if mask is None else np.asarray(mask, dtype=bool)
    _inside(brain, estimate, truth)
    a, b = (np.where(brain, np.asarray(m, dtype=np.float64), 0.0) for m in (estimate, truth))
    span = float(b.max() - b.min())
    if span == 0:
        return float("nan")
    window = min(7, (min(a.shape) - 1) | 1)
    if window < 3:
        raise InputError(f"SSIM needs at least 3 voxels along each axis; the maps have shape {a.shape}")
    _, local = structural_similarity(a, b, data_range=span, win_size=window, full=True)
    return float(local[chosen].mean())


def rmse(estimate: ArrayLike, truth: ArrayLike, region: ArrayLike) -> float:
    """Root mean square difference over the region, in the maps' unit; maps may have a last axis of volumes."""
    a, b = _inside(region, estimate, truth)
    return float(np.sqrt(np.mean((a - b) ** 2)))


def bias(estimate: ArrayLike, truth: ArrayLike, region: ArrayLike) -> float:
    """Mean of the estimate minus mean of the truth over the region, in the map's unit."""
    a, b = _inside(region, estimate, truth)
    return float(a.mean() - b.mean())


def relative_bias(estimate: ArrayLike, truth: ArrayLike, region: ArrayLike) -> float:
    """Bias as a fraction of the truth's mean over the region: 0.05 is 5 % too high."""
    a, b = _inside(region, estimate, truth)
    return float(a.mean() / b.mean() - 1.0)


def bias_and_sd(
    first: ArrayLike, second: ArrayLike, count: int, truth: ArrayLike, region: ArrayLike
) -> tuple[float, float]:
    """Root mean square over the region of a voxel's bias and of its SD over noise seeds, in the map's unit.

    first and second are the sums over `count` seeds of the map and of its square. The square of the bias is what
    remains of the squared departure of the mean map from the truth when the variance of that mean is taken away, so it
    does not grow with noise; where noise leaves less than the square of the region's mean bias, below which it cannot
    be, that is taken. The mean squared error of one map is bias^2 + SD^2. InputError for fewer than two seeds.
    """
    if count < 2:
        raise InputError(f"bias and SD need two noise seeds or more; found {count}")
    a, b, t = _inside(region, first, second, truth)
    mean = a / count
    variance = float(np.mean(np.maximum(b - count * mean**2, 0)) / (count - 1))
    squared = float(np.mean((mean - t) ** 2)) - variance / count
    return float(np.sqrt(max(squared, float(np.mean(mean - t)) ** 2))), float(np.sqrt(variance))


def relative_error(estimate: ArrayLike, truth: ArrayLike, region: ArrayLike) -> NDArray[np.float32]:
    """Map of (estimate - truth) / truth in percent, NaN outside the region (the paper's Figure 2, second row)."""
    _inside(region, estimate, truth)
    a, b = np.asarray(estimate, dtype=np.float64), np.asarray(truth, dtype=np.float64)
    valid = np.asarray(region, dtype=bool) & (np.abs(b) > 1e-6)
    return np.where(valid, 100.0 * (a - b) / np.where(valid, b, 1.0), np.nan).astype(np.float32)


def tissue_region(partial_volume: ArrayLike, mask: ArrayLike, threshold: float = 0.7) -> Region:
    """Voxels of the mask whose partial volume of a tissue exceeds the threshold."""
    return np.asarray(mask, dtype=bool) & (np.asarray(partial_volume) > threshold)


def coverage(estimate: ArrayLike, sd: ArrayLike, truth: ArrayLike, region: ArrayLike, level: float = 0.95) -> float:
    """Share of the region's voxels whose central normal interval of the given level holds the truth."""
    from scipy.stats import norm

    a, s, b = _inside(region, estimate, sd, truth)
    return float(np.mean(np.abs(a - b) <= norm.ppf(0.5 + level / 2) * s))


def spatial_cov(values: ArrayLike, region: ArrayLike) -> float:
    """Spatial coefficient of variation: SD / mean (Mutsaerts et al. 2017, doi:10.1177/0271678X16683690).

    NaN where the mean is not positive.
    """
    (a,) = _inside(region, values)
    return float(a.std() / a.mean()) if a.mean() > 0 else float("nan")


def contrast(values: ArrayLike, region: ArrayLike, mask: ArrayLike, shell: int = 3) -> float:
    """Mean over a region minus the mean over the mask voxels at most `shell` voxels around it, in the map's unit."""
    from scipy.ndimage import binary_dilation

    chosen = np.asarray(region, dtype=bool)
    around = binary_dilation(chosen, iterations=shell) & np.asarray(mask, dtype=bool) & ~chosen
    (inside,), (outside,) = _inside(chosen, values), _inside(around, values)
    return float(inside.mean() - outside.mean())


def contrast_kept(estimate: ArrayLike, truth: ArrayLike, region: ArrayLike, mask: ArrayLike, shell: int = 3) -> float:
    """Share of a region's true contrast with its surroundings that an estimate shows: 1 is all of it."""
    return contrast(estimate, region, mask, shell) / contrast(truth, region, mask, shell)


def residual_rmse(series: ArrayLike, fitted: ArrayLike, region: ArrayLike, index: ArrayLike | None = None) -> float:
    """RMSE of measured against fitted signal over voxels and volumes: the paper's in-vivo criterion (its Table 1).

    series is (X, Y, Z, T), fitted (X, Y, Z, D); index (T,) names the fitted volume of each measured one
    (`Acquisition.distinct[1]`), by default the same. It cannot tell fitting from overfitting: see `held_out_error`.
    """
    predicted = np.asarray(fitted)
    if index is not None:
        predicted = predicted[..., np.asarray(index, dtype=np.intp)]
    return rmse(series, predicted, region)


def held_out_error(held_out: ArrayLike, fitted: ArrayLike, region: ArrayLike, index: ArrayLike | None = None) -> float:
    """RMSE of volumes that the fit has not seen, averaged by delay, against its prediction; floor: their noise SD.

    held_out is (X, Y, Z, T), fitted (X, Y, Z, D); index (T,) names the fitted volume of each held-out one.
    """
    held, predicted = np.asarray(held_out), np.asarray(fitted)
    volume = np.arange(held.shape[-1]) if index is None else np.asarray(index, dtype=np.intp)
    used = np.unique(volume)
    means = np.stack([held[..., volume == d].mean(axis=-1) for d in used], axis=-1)
    return rmse(means, predicted[..., used], region)
