"""A guide of CBF: a function of an anatomical image, learned from the ASL data, that a field modulates.

Without an image, depth below the surface of the mask takes its place: gray matter is the rim of the brain, white matter
its core.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt, gaussian_filter

Floats = NDArray[np.float64]

BACKGROUND = 30.0  # mm; the image's variation on this scale is receive sensitivity rather than tissue
SCALES = ((0.0, 9), (3.0, 7), (6.0, 5), (12.0, 4))  # mm of smoothing, hat functions
DEPTHS = ((0.0, 9), (8.0, 7), (20.0, 5))  # the same for depth: distance to the surface, share of the mask around


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
        features += _hats(values, hats)
    return np.array(features)


def depth_features(mask: NDArray[np.bool_], voxel_size: Sequence[float]) -> Floats:
    """Hat functions of how deep a voxel lies in the mask, at three scales: (features, N), each of mean 0.

    The volume's own border is no surface: a slab that the field of view cuts goes on behind it.
    """
    depth = np.zeros(mask.shape) if mask.all() else distance_transform_edt(mask, voxel_size)
    features = _hats(depth[mask], DEPTHS[0][1])
    for width, hats in DEPTHS[1:]:
        sigma = [width / size for size in voxel_size]
        features += _hats(gaussian_filter(mask.astype(np.float32), sigma, mode="nearest")[mask], hats)
    return np.array(features)


def _hats(values: NDArray[np.floating], count: int) -> list[Floats]:
    """Hat functions (N,) of the rank of values (N,), each of mean 0; equal values have equal ranks."""
    ordered = np.sort(values)
    rank = (np.searchsorted(ordered, values) + np.searchsorted(ordered, values, "right")) / (2 * len(values))
    hats = [np.maximum(0.0, 1.0 - np.abs(rank * (count - 1) - k)) for k in range(count)]
    return [hat - hat.mean() for hat in hats]


def guide_function(features: Floats, observed: Floats, precision: Floats) -> Floats:
    """psi (N,): ridge regression of observed CBF deviations on the features, scaled to SD 1; zeros if flat."""
    weighted = features * precision
    gram = weighted @ features.T
    ridge = 1e-3 * np.trace(gram) / len(features)
    if not ridge > 0:
        return np.zeros(features.shape[1])
    psi = np.linalg.solve(gram + ridge * np.eye(len(features)), weighted @ observed) @ features
    spread = psi.std()
    return psi / spread if spread > 0 else np.zeros_like(psi)
