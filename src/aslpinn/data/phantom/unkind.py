"""Phantoms as unkind as brains: what real series have and a phantom of smooth maps and white noise has not.

Each takes a `Phantom` and returns another one, with the truth as it is seen in that series; only what the name says is
changed. A fit that is used without thinking has to hold on all of them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from ...errors import InputError
from ...physics import arterial, delta_m
from .simulate import Phantom, simulate

Float = NDArray[np.float32]

#: SD of the noise at vessels, ventricles and the brain's edge over that in tissue. Lund et al. 2006 (NeuroImage 29:54)
#: see it rise as much near the basal arteries and the ventricles.
NOISE_RATIO = 5.0
#: SD of a volume's common factor. The global signal of ASL fluctuates by 7.6 % of the baseline, the difference of two
#: images by more: Dai et al. 2016, doi:10.1177/0271678X15615339; Wang 2012 (Magn Reson Imaging 30:1409).
VOLUME_SD = 0.1
#: FWHM in mm of the blur of a 3D readout, along the slices and within them, and the share of the noise that it blurs:
#: Vidorreta et al. 2013 (NeuroImage 66:662).
BLUR_FWHM, BLURRED = (4.0, 4.0, 10.0), 0.5
DELAY_CORRELATION = 0.3  # of the blurred noise of one delay and the next
#: mm from the frontal sinus and the ear canals over which EPI loses its signal (Ojemann et al. 1997,
#: NeuroImage 6:156), and by which it is shifted against M0 (Jezzard and Balaban 1995,
#: doi:10.1002/mrm.1910340111).
DROPOUT_MM, SHIFT_MM = 22.0, 6.0
DROPOUTS = ((0.0, 42.0, -22.0), (-48.0, -14.0, -28.0), (48.0, -14.0, -28.0))  # MNI mm
#: Motion that is left after correction, SD in mm, and the static signal that it moves, as a share of M0b: 2 % are left
#: by background suppression. Wang 2012 (as above); doi:10.1038/jcbfm.2015.124.
MOTION_MM, STATIC = 0.15, 0.02
#: Arteries: share of the mask, arrival in s, volume, and its SD from volume to volume over its mean. Chappell et al.
#: 2010, doi:10.1002/mrm.22320; pulsation moves blood in and out: Dagli et al. 1999 (NeuroImage 9:407).
ARTERIES, ARRIVAL, VOLUME, PULSATION = 0.1, (0.3, 0.7), (0.005, 0.03), 0.5
T1_WHITE = 0.85  # s at 3 T; Wansapura et al. 1999 (J Magn Reson Imaging 9:531)


def unkind(name: str, tsnr: float | None = 1.5, seed: int = 0, **options: object) -> Phantom:
    """The unkind phantom of that name (a key of UNKIND), with four repeats of six delays unless options say otherwise.

    tsnr, seed and options are those of `simulate`; InputError for a name that does not exist.
    """
    if name not in UNKIND:
        raise InputError(f"there is no unkind phantom {name!r}; expected one of {', '.join(UNKIND)}")
    given = {"protocol": "mpld6", "repeats": 4} | options
    phantom = simulate(tsnr=tsnr, seed=seed, **given)  # type: ignore[arg-type]
    return UNKIND[name](phantom, np.random.default_rng([seed, *name.encode()]))


def heteroscedastic(phantom: Phantom, rng: np.random.Generator) -> Phantom:
    """Noise whose SD is up to NOISE_RATIO times larger where fluid pulsates and at the brain's edge."""
    mask, size = phantom.mask, phantom.voxel_size
    fluid = np.where(mask, np.clip(1 - phantom.gm - phantom.wm, 0, 1), 0)
    depth = ndimage.distance_transform_edt(mask, size)
    rim = np.exp(-np.maximum(depth - min(size), 0) / 3.0) * (ndimage.gaussian_filter(_random(phantom, rng), 2) > 0)
    share = np.clip(ndimage.gaussian_filter(np.maximum(fluid, 0.7 * rim), 0.5), 0, 1)
    return replace(phantom, series=_noisy(phantom, 1 + (NOISE_RATIO - 1) * share[..., None]))


def common(phantom: Phantom, rng: np.random.Generator) -> Phantom:
    """Every volume times a factor of its own, of SD VOLUME_SD."""
    factors = 1 + VOLUME_SD * rng.standard_normal(phantom.series.shape[-1])
    return replace(phantom, series=_noisy(phantom) + (phantom.clean * (factors - 1)).astype(np.float32))


def blurred(phantom: Phantom, rng: np.random.Generator) -> Phantom:
    """A part of the noise is blurred as a 3D readout blurs, and goes on from one volume to the next."""
    sigma = [width / 2.3548 / size for width, size in zip(BLUR_FWHM, phantom.voxel_size, strict=True)]
    noise = rng.standard_normal(phantom.series.shape, dtype=np.float32)
    noise = ndimage.gaussian_filter(noise, (*sigma, 0), mode="wrap")
    for k in range(1, noise.shape[-1]):
        noise[..., k] = DELAY_CORRELATION * noise[..., k - 1] + np.sqrt(1 - DELAY_CORRELATION**2) * noise[..., k]
    noise *= phantom.noise_sd * np.sqrt(BLURRED) / noise.std()
    return replace(phantom, series=np.where(phantom.mask[..., None], _noisy(phantom, np.sqrt(1 - BLURRED)) + noise, 0))


def dropout(phantom: Phantom, rng: np.random.Generator) -> Phantom:
    """A slab whose signal is lost near air, and whose images lie SHIFT_MM beside M0 there."""
    weight = np.zeros(phantom.mask.shape)
    points = _points(phantom)
    for center in DROPOUTS:
        distance = np.linalg.norm(points - np.array(center), axis=-1)
        weight = np.maximum(weight, np.exp(-0.5 * (distance / DROPOUT_MM) ** 2))
    index = np.indices(weight.shape).astype(float)
    index[1] += weight * SHIFT_MM / phantom.voxel_size[1]
    moved = [ndimage.map_coordinates(v, index, order=1) for v in (phantom.cbf, phantom.att)]
    clean = np.stack([ndimage.map_coordinates(v, index, order=1) for v in np.moveaxis(phantom.clean, -1, 0)], axis=-1)
    clean = np.where(phantom.mask[..., None], clean * (1 - 0.9 * weight[..., None]), 0).astype(np.float32)
    cbf, att = (np.where(phantom.mask, v, 0).astype(np.float32) for v in moved)
    seen = replace(phantom, clean=clean, cbf=(cbf * (1 - 0.9 * weight)).astype(np.float32), att=att)
    return replace(seen, series=clean + (phantom.series - phantom.clean))


def motion(phantom: Phantom, rng: np.random.Generator) -> Phantom:
    """Every volume a little off its place: static signal that background suppression leaves shows at edges."""
    static = STATIC * np.where(phantom.mask, phantom.m0, 0)
    slopes = np.array(np.gradient(static)) / np.array(phantom.voxel_size)[:, None, None, None]
    moves = MOTION_MM * rng.standard_normal((3, phantom.series.shape[-1]))
    extra = np.tensordot(slopes, moves, ((0,), (0,)))
    return replace(phantom, series=np.where(phantom.mask[..., None], _noisy(phantom) + extra, 0).astype(np.float32))


def pulsatile(phantom: Phantom, rng: np.random.Generator) -> Phantom:
    """Arteries of early arrival in clusters of voxels, whose blood volume changes from volume to volume."""
    smooth = ndimage.gaussian_filter(_random(phantom, rng), 0.7)
    where = phantom.mask & (smooth > np.quantile(smooth[phantom.mask], 1 - ARTERIES))
    abv, arrival = (
        np.where(where, rng.uniform(*bounds, where.shape), 0).astype(np.float32) for bounds in (VOLUME, ARRIVAL)
    )
    acquisition = phantom.acquisition
    pld = acquisition.pld_at(np.argwhere(where))
    blood = np.zeros_like(phantom.clean)
    blood[where] = arterial(
        abv[where][:, None], arrival[where][:, None], pld, acquisition.labeling_duration, acquisition.constants
    )
    beats = 1 + PULSATION * rng.standard_normal(blood.shape, dtype=np.float32)
    return replace(
        phantom, series=_noisy(phantom) + blood * beats, clean=phantom.clean + blood, abv=abv, arterial_arrival=arrival
    )


def tissue_t1(phantom: Phantom, rng: np.random.Generator) -> Phantom:
    """White matter with a T1 of its own; the acquisition's constants keep one T1 for all tissue."""
    acquisition = phantom.acquisition
    own = replace(acquisition.constants, t1_tissue=T1_WHITE)
    white = (phantom.wm / np.maximum(phantom.gm + phantom.wm, 1e-3))[phantom.mask][:, None]
    inside = phantom.mask
    cbf, att = phantom.cbf[inside][:, None], phantom.att[inside][:, None]
    pld, tau = acquisition.pld_at(np.argwhere(inside)), acquisition.labeling_duration
    change = white * (delta_m(cbf, att, pld, tau, own) - delta_m(cbf, att, pld, tau, acquisition.constants))
    clean = phantom.clean.copy()
    clean[inside] += change.astype(np.float32)
    return replace(phantom, clean=clean, series=clean + (phantom.series - phantom.clean))


def unrelated_m0(phantom: Phantom, rng: np.random.Generator) -> Phantom:
    """An M0 that says nothing of CBF: smooth patches with the contrast of tissue."""
    patches = ndimage.gaussian_filter(_random(phantom, rng), [6.0 / size for size in phantom.voxel_size])
    patches = (patches - patches[phantom.mask].mean()) / patches[phantom.mask].std()
    m0 = np.where(phantom.mask, np.clip(0.8 + 0.08 * patches, 0.4, 1.2), 0)
    return replace(phantom, m0=m0.astype(np.float32))


def _noisy(phantom: Phantom, scale: NDArray[np.floating] | float = 1.0) -> Float:
    """The series with its noise scaled."""
    series: Float = (phantom.clean + (phantom.series - phantom.clean) * scale).astype(np.float32)
    return series


def _random(phantom: Phantom, rng: np.random.Generator) -> Float:
    return rng.standard_normal(phantom.mask.shape, dtype=np.float32)


def _points(phantom: Phantom) -> NDArray[np.float64]:
    """MNI mm (X, Y, Z, 3) of the voxels."""
    index = np.moveaxis(np.indices(phantom.mask.shape), 0, -1)
    points: NDArray[np.float64] = index @ phantom.affine[:3, :3].T + phantom.affine[:3, 3]
    return points


UNKIND: dict[str, Callable[[Phantom, np.random.Generator], Phantom]] = {
    "heteroscedastic": heteroscedastic,
    "global": common,
    "blurred": blurred,
    "dropout": dropout,
    "motion": motion,
    "pulsatile": pulsatile,
    "tissue-t1": tissue_t1,
    "unrelated-m0": unrelated_m0,
}
