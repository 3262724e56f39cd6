"""A brain mask from an image with bright brain, such as M0."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from skimage.filters import threshold_otsu

from ..errors import InputError

Volume = NDArray[np.float32]
Mask = NDArray[np.bool_]


def brain_mask(image: Volume, voxel_size: tuple[float, float, float]) -> Mask:
    """Brain mask from an image with bright brain, such as M0: threshold, opening, largest component, holes filled.

    The image is median-smoothed first; the threshold is Otsu's, but at most half the median of what Otsu takes
    (in an image that is all brain Otsu would part tissue from CSF). An image that is already zero outside the
    brain is taken as it is.

    Raises
    ------
    InputError
        Where nothing stands out of the background.
    """
    image = np.where(np.isfinite(image), image, 0).astype(np.float32)
    if not image.max() > 0:
        raise InputError("M0 is nowhere above zero: no mask can be made from it; give one with --mask")
    zero = image <= 1e-6 * np.percentile(image, 99.5)
    stripped = zero.mean() > 0.25  # scanner noise is never exactly zero in that many voxels
    smooth = image if stripped else ndimage.median_filter(image, size=(3, 3, 1), mode="nearest")
    positive = smooth[smooth > 0]
    bright = float(np.percentile(positive, 99))  # one bright vessel must not move Otsu's histogram
    otsu = float(threshold_otsu(np.minimum(positive, bright))) if np.ptp(positive) > 0 else 0.0
    tissue = float(np.median(positive[positive >= otsu]))
    if stripped:
        return _largest(image > 0.1 * tissue, fill=False)  # what is zero inside has no M0 to divide by
    mask = smooth > min(otsu, 0.5 * tissue)
    radius = [round(6.5 / size) for size in voxel_size]
    if all(n > 4 * r for n, r in zip(mask.shape, radius, strict=True)):
        core = _largest(ndimage.binary_opening(mask, _ellipsoid(radius)), fill=False)
        # Opening cuts the thin bridges to scalp and neck, and rounds the edge: grow back, inside the threshold only.
        grown = (
            ndimage.binary_dilation(core, _ellipsoid([min(r, 1) for r in radius]), mask=mask) if core.any() else mask
        )
        mask = grown
    return _largest(mask, fill=True)


def _ellipsoid(radius: list[int]) -> Mask:
    grid = np.meshgrid(*[np.arange(-r, r + 1) for r in radius], indexing="ij")
    return np.asarray(sum((g / (r + 0.5)) ** 2 for g, r in zip(grid, radius, strict=True)) <= 1.0)


def _largest(mask: Mask, fill: bool) -> Mask:
    labels, count = ndimage.label(mask)
    if count > 1:
        mask = labels == 1 + int(np.argmax(np.bincount(labels.ravel())[1:]))
    if not fill:
        return mask
    # Slice by slice: ventricles of a thin slab are open at its ends.
    filled = np.stack([ndimage.binary_fill_holes(mask[..., k]) for k in range(mask.shape[2])], axis=2)
    return np.asarray(filled, dtype=bool)
