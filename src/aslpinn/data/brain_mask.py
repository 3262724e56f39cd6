"""A brain mask from an image with bright brain, such as M0."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from skimage.filters import threshold_otsu

from ..errors import InputError

Volume = NDArray[np.float32]
Mask = NDArray[np.bool_]


#: Of control images: mm over which the level of the brain is looked at, and share of it below which a voxel is scalp
#: or muscle. Coil shading makes scalp near a coil as bright as brain far from one; beside the brain it is darker.
LEVEL_MM, SCALP = 20.0, 0.6


def brain_mask(image: Volume, voxel_size: tuple[float, float, float], control: bool = False) -> Mask:
    """Brain mask from an image with bright brain, such as M0: threshold, opening, largest component, holes filled.

    control: the image is of control volumes, in which background suppression may leave as much of scalp and muscle as
    of brain; then voxels that are darker than SCALP times the brain near them are left out.

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
        mask = _cut_loose(mask, radius)
    mask = _largest(mask, fill=True)
    return _without_scalp(smooth, mask, voxel_size) if control else mask


def _cut_loose(mask: Mask, radius: list[int]) -> Mask:
    """The mask without what hangs on it by thin bridges, as scalp and neck do."""
    core = _largest(ndimage.binary_opening(mask, _ellipsoid(radius)), fill=False)
    # Opening rounds the edge too: grow back, inside the mask only.
    near = _ellipsoid([min(r, 1) for r in radius])
    return np.asarray(ndimage.binary_dilation(core, near, mask=mask)) if core.any() else mask


def _without_scalp(image: Volume, mask: Mask, voxel_size: tuple[float, float, float]) -> Mask:
    """The voxels of a mask that are about as bright as those around them; the brightest count most for their level."""
    # Within slices: those of a 2D readout are suppressed each in its own measure.
    sigma, radius = [LEVEL_MM / size for size in voxel_size[:2]] + [0.0], [round(4 / size) for size in voxel_size]
    for _ in range(2):  # the level is higher once scalp is no part of it
        inside = np.where(mask, image, 0)
        level = ndimage.gaussian_filter(inside**2, sigma) / np.maximum(ndimage.gaussian_filter(inside, sigma), 1e-30)
        mask = _largest(_cut_loose(_filled(mask & (image > SCALP * level)), radius), fill=True)
    return mask


def _ellipsoid(radius: list[int]) -> Mask:
    grid = np.meshgrid(*[np.arange(-r, r + 1) for r in radius], indexing="ij")
    return np.asarray(sum((g / (r + 0.5)) ** 2 for g, r in zip(grid, radius, strict=True)) <= 1.0)


def _largest(mask: Mask, fill: bool) -> Mask:
    labels, count = ndimage.label(mask)
    if count > 1:
        mask = labels == 1 + int(np.argmax(np.bincount(labels.ravel())[1:]))
    if not fill:
        return mask
    return _filled(mask)


def _filled(mask: Mask) -> Mask:
    """Holes filled slice by slice: ventricles of a thin slab are open at its ends."""
    return np.stack([ndimage.binary_fill_holes(mask[..., k]) for k in range(mask.shape[2])], axis=2).astype(bool)
