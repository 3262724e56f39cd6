"""M0 calibration: from delta-M in the scanner's units to fractions of M0 of blood, voxel by voxel or by a region."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from ..errors import InputError
from ..physics.constants import Constants

Volume = NDArray[np.float32]
Mask = NDArray[np.bool_]

#: M0 is corrected for incomplete relaxation below this repetition time in s (Alsop et al. 2015,
#: doi:10.1002/mrm.25197: a TR of 5 s or more needs none).
LONG_TR = 5.0
#: Inside the mask M0 is not taken below this share of its median: delta-M / M0b would grow without bound; nor above
#: this multiple: no tissue is so bright, and CBF would be 0 there.
M0_FLOOR, M0_CEILING = 0.1, 20.0


def relaxation_factor(repetition_time: float | Sequence[float] | None, t1_tissue: float) -> float:
    """Share of M0 that a scan of this repetition time shows, 1 - exp(-TR/T1t); 1 from 5 s on, or where TR is unknown.

    repetition_time in s, or one for each volume that a mean was taken over (their mean share); None or 0 (a
    placeholder: no scan has it) mean unknown.
    """
    times = np.atleast_1d(np.asarray(0.0 if repetition_time is None else repetition_time, dtype=float))
    return float(np.mean([1.0 if not 0 < time < LONG_TR else 1.0 - np.exp(-time / t1_tissue) for time in times]))


@dataclass(frozen=True)
class Calibration:
    """M0 of tissue and of blood in the series' units, and how many mask voxels were lifted to the floor."""

    m0: Volume
    m0b: Volume
    lifted: int


def calibrate(m0: Volume, mask: Mask, partition_coefficient: float, relaxation: float = 1.0) -> Calibration:
    """M0b = M0t / lambda, voxel by voxel, with M0t corrected for incomplete relaxation.

    Where M0 inside the mask is not above a tenth of its median there, above 20 times it, or not finite, the local
    3 x 3 x 3 median takes its place, and the floor where that is no better. Outside the mask M0b is 0.

    Raises
    ------
    InputError
        Where M0 has no positive value inside the mask.
    """
    inside = m0[mask]
    usable = inside[np.isfinite(inside) & (inside > 0)]
    if usable.size == 0:
        raise InputError("M0 is zero, negative or NaN everywhere inside the mask; expected a positive image of tissue")
    middle = np.median(usable)
    floor = np.float32(M0_FLOOR * middle)
    clean = np.where(np.isfinite(m0) & (m0 <= M0_CEILING * middle), m0, 0).astype(np.float32)
    low = mask & (clean < floor)
    if low.any():
        local = ndimage.median_filter(clean, size=3, mode="nearest")
        clean = np.where(low, np.maximum(local, floor), clean)
    m0_tissue = (clean / np.float32(relaxation)).astype(np.float32)
    m0b = np.where(mask, m0_tissue / np.float32(partition_coefficient), 0).astype(np.float32)
    return Calibration(m0_tissue, m0b, int(low.sum()))


def smooth_inside(image: Volume, mask: Mask, fwhm: float, voxel_size: tuple[float, float, float]) -> Volume:
    """An image smoothed by a Gaussian of that FWHM in mm, from mask voxels only; unchanged outside the mask."""
    sigma = [fwhm / 2.3548 / size for size in voxel_size]
    usable = mask & np.isfinite(image) & (image > 0)
    weight = ndimage.gaussian_filter(usable.astype(np.float32), sigma)
    blurred = ndimage.gaussian_filter(np.where(usable, image, 0).astype(np.float32), sigma)
    smooth = np.divide(blurred, weight, out=np.zeros_like(blurred), where=weight > 1e-3)
    return np.where(mask & (weight > 1e-3), smooth, image).astype(np.float32)


@dataclass(frozen=True)
class Reference:
    """M0 of blood from a region of one tissue, and words for the record."""

    m0b: float
    what: str


#: T1 in s and blood-tissue partition coefficient in ml/g of reference tissues at 3 T: white matter as in the BASIL
#: toolbox's asl_calib (Chappell et al. 2018, doi:10.1093/oso/9780198793816.001.0001).
WHITE_MATTER = (1.0, 0.82)
#: Partial volume from which a voxel counts as pure, and fewest voxels of a reference region.
PURE, REGION_VOXELS = 0.8, 20


def reference_region(
    m0: Volume,
    mask: Mask,
    tissue: Mapping[str, Volume] | None,
    repetition_time: float | Sequence[float] | None,
    constants: Constants,
) -> Reference:
    """One M0 of blood from the median M0 of pure white matter, or of the whole brain where no tissue map is known.

    M0b = M0(region) / ((1 - exp(-TR/T1)) lambda), with T1 and lambda of that tissue.

    Raises
    ------
    InputError
        Where M0 has no positive value in the region.
    """
    t1, ratio = constants.t1_tissue, constants.partition_coefficient
    region, what = mask, "the median M0 of the whole mask (no tissue maps)"
    if tissue is not None:
        pure = mask & (tissue["wm"] > PURE)
        if pure.sum() >= REGION_VOXELS:
            region, (t1, ratio) = pure, WHITE_MATTER
            what = f"the median M0 of white matter ({int(pure.sum())} voxels, T1 {t1:g} s, lambda {ratio:g} ml/g)"
    values = m0[region]
    values = values[np.isfinite(values) & (values > 0)]
    if values.size == 0:
        raise InputError("M0 is zero, negative or NaN everywhere in the reference region; expected an image of tissue")
    return Reference(float(np.median(values)) / relaxation_factor(repetition_time, t1) / ratio, what)
