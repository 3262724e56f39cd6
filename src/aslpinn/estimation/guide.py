"""An anatomical image as a guide of CBF: a function of the image, learned from the ASL data, that a field modulates."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

Floats = NDArray[np.float64]

BACKGROUND = 30.0  # mm; the image's variation on this scale is receive sensitivity rather than tissue
SCALES = ((0.0, 9), (3.0, 7), (6.0, 5), (12.0, 4))  # mm of smoothing, hat functions


def smooth_inside(values: NDArray[np.floating], mask: NDArray[np.bool_], sigma: Sequence[float]) -> Floats:
    """(N,) values at the voxels of a mask, smoothed inside it by a Gaussian of sigma (3,) voxels."""
    volume = np.zeros(mask.shape, np.float32)
    volume[mask] = values
    weight = gaussian_filter(mask.astype(np.float32), sigma)
    return (gaussian_filter(volume, sigma) / np.maximum(weight, 1e-9))[mask].astype(np.float64)


def guide_features(image: NDArray[np.floating], mask: NDArray[np.bool_], voxel_size: Sequence[float]) -> Floats:
    """Hat functions of the rank of the image's logarithm, at four scales: (features, N), each of mean 0.

    Ranks serve any contrast and scaling of the image; its slow part, receive sensitivity, is taken away first. A value
    that is not finite or not positive counts as the smallest one.
    """
    inside = np.asarray(image, dtype=np.float64)[mask]
    inside = np.where(np.isfinite(inside), inside, 0.0)
    typical = np.median(inside[inside > 0]) if np.any(inside > 0) else 1.0
    log = np.log(np.maximum(inside, 1e-3 * typical))
    log -= smooth_inside(log, mask, [BACKGROUND / size for size in voxel_size])
    features = []
    for width, hats in SCALES:
        values = log if width == 0 else smooth_inside(log, mask, [width / size for size in voxel_size])
        rank = values.argsort(kind="stable").argsort(kind="stable") / len(values)
        features += [np.maximum(0.0, 1.0 - np.abs(rank * (hats - 1) - k)) for k in range(hats)]
    stacked = np.array(features)
    return stacked - stacked.mean(axis=1, keepdims=True)


def guide_function(features: Floats, observed: Floats, precision: Floats) -> Floats:
    """psi (N,): ridge regression of observed CBF deviations on the features, scaled to SD 1; zeros if flat."""
    weighted = features * precision
    gram = weighted @ features.T
    ridge = 1e-3 * np.trace(gram) / len(features)
    psi = np.linalg.solve(gram + ridge * np.eye(len(features)), weighted @ observed) @ features
    spread = psi.std()
    return psi / spread if spread > 0 else np.zeros_like(psi)
