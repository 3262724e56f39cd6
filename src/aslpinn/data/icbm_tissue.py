"""Tissue maps estimated from the ICBM 152 maps, where no anatomical image of the subject gives better ones.

The maps (Fonov et al. 2011, doi:10.1016/j.neuroimage.2010.07.033; shipped with nilearn) are brought to the subject
by an affine registration of the template to M0: first brain outline to brain mask, then by mutual information. An
affine atlas knows nothing of this subject's folds: fit for averages over gray and white matter, not for single voxels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage

from ..errors import InputError
from .motion.rigid import run_registration

Float = NDArray[np.float64]

#: Overlap (Dice) of the template's brain with the mask below which the registration is not used.
LEAST_OVERLAP = 0.8
#: Stretch of the template along any axis beyond which it is not the template of this head.
STRETCH = (0.7, 1.4)


@dataclass(frozen=True, eq=False)
class EstimatedTissue:
    """Partial volumes gm and wm (X, Y, Z) float32 on the series' grid, and the Dice overlap of brain and mask."""

    gm: NDArray[np.float32]
    wm: NDArray[np.float32]
    overlap: float

    def provenance(self) -> dict[str, Any]:
        """What goes into an output's JSON."""
        return {
            "Source": "estimated: ICBM 152 maps, affine registration to M0; not the subject's own anatomy",
            "Overlap": round(self.overlap, 3),
        }


def estimate_tissue(m0: ArrayLike, mask: ArrayLike, affine: ArrayLike, threads: int = 2) -> EstimatedTissue:
    """Partial volumes of gray and white matter from the ICBM 152 maps registered to M0.

    Parameters
    ----------
    m0, mask : (X, Y, Z) arrays
    affine : (4, 4) array
        Voxel to world mm (RAS, as NIfTI).

    Raises
    ------
    InputError
        Where M0 is nowhere above zero in the mask, the registration fails, or the template does not come to lie on the
        mask (Dice below 0.8), or only by being stretched out of shape, as for a slab.
    """
    transform, overlap = register_template(m0, mask, affine, threads)
    _, _, gm, wm = _template()
    inside = np.asarray(mask, dtype=bool)
    fixed = _image(inside.astype(float), np.asarray(affine, dtype=float))
    on_grid = [np.where(inside, np.clip(part.on(fixed, transform), 0, 1), 0).astype(np.float32) for part in (gm, wm)]
    return EstimatedTissue(on_grid[0], on_grid[1], overlap)


def register_template(m0: ArrayLike, mask: ArrayLike, affine: ArrayLike, threads: int = 2) -> tuple[Any, float]:
    """Affine transform (SimpleITK) of points of the subject to points of ICBM 152, world mm as NIfTI; and its overlap.

    Raises as `estimate_tissue`.
    """
    import SimpleITK as sitk

    inside = np.asarray(mask, dtype=bool)
    if not inside.any():
        raise InputError("tissue maps: the mask is empty")
    grid = np.asarray(affine, dtype=float)
    brain, t1, _, _ = _template()
    values = np.where(inside, np.nan_to_num(np.asarray(m0, dtype=float), posinf=0.0, neginf=0.0), 0.0)
    top = float(np.percentile(values[inside], 98))
    if top <= 0:
        raise InputError("tissue maps: M0 is not above zero in the mask; expected an image of tissue")
    values = np.clip(values / top, 0.0, 1.2)
    fixed_mask = _image(inside.astype(float), grid)
    fixed = _image(values, grid)
    outline = _register(sitk.SmoothingRecursiveGaussian(fixed_mask, 4.0), brain.smoothed(4.0), None, None, threads)
    around = sitk.Cast(_image(ndimage.binary_dilation(inside).astype(float), grid) > 0.5, sitk.sitkUInt8)
    transform = _register(fixed, t1.image, outline, around, threads)
    best = max((outline, transform), key=lambda found: _dice(inside, brain.on(fixed, found)))
    overlap = _dice(inside, brain.on(fixed, best))
    stretch = np.linalg.svd(np.array(best.GetMatrix()).reshape(3, 3), compute_uv=False)
    if stretch.min() < STRETCH[0] or stretch.max() > STRETCH[1]:
        raise InputError(
            f"tissue maps: the template fits the mask only when stretched {stretch.min():.2f} to {stretch.max():.2f} "
            f"times; expected {STRETCH[0]:g} to {STRETCH[1]:g}: is the mask a whole brain?"
        )
    if overlap < LEAST_OVERLAP:
        raise InputError(
            f"tissue maps: the registered template overlaps the mask by {overlap:.2f} (Dice); expected at least "
            f"{LEAST_OVERLAP:g}; give probseg maps of the subject on the grid of the series"
        )
    return best, overlap


class _Map:
    """One template map on a 3 mm grid, blurred to about the resolution of ASL."""

    def __init__(self, data: Float, affine: Float) -> None:
        self.image = _image(data, affine)

    def smoothed(self, sigma: float) -> Any:
        import SimpleITK as sitk

        return sitk.SmoothingRecursiveGaussian(self.image, sigma)

    def on(self, grid: Any, transform: Any) -> Float:
        """The map on the grid of another image."""
        import SimpleITK as sitk

        return sitk.GetArrayFromImage(sitk.Resample(self.image, grid, transform, sitk.sitkLinear, 0.0)).T


def _template() -> tuple[_Map, _Map, _Map, _Map]:
    """Brain mask, brain-only T1, gray and white matter of ICBM 152, at 3 mm."""
    from nilearn.datasets import (
        load_mni152_brain_mask,
        load_mni152_gm_template,
        load_mni152_template,
        load_mni152_wm_template,
    )

    images = [f(resolution=1) for f in (load_mni152_brain_mask, load_mni152_template)]
    images += [f(resolution=1) for f in (load_mni152_gm_template, load_mni152_wm_template)]
    affine = np.array(images[0].affine, dtype=float)
    step = np.diag([3.0, 3.0, 3.0, 1.0])
    arrays = [np.asarray(image.get_fdata(dtype=np.float32), dtype=float) for image in images]
    arrays[1] = arrays[1] * (arrays[0] > 0) / np.percentile(arrays[1][arrays[0] > 0], 98)
    blurred = [ndimage.gaussian_filter(array, 1.3)[::3, ::3, ::3] for array in arrays]
    made = [_Map(array, affine @ step) for array in blurred]
    return made[0], made[1], made[2], made[3]


def _image(data: Float, affine: Float) -> Any:
    """A SimpleITK image in the affine's own world; a shear, if any, is left out."""
    import SimpleITK as sitk

    size = np.linalg.norm(affine[:3, :3], axis=0)
    left, _, right = np.linalg.svd(affine[:3, :3] / size)
    made = sitk.GetImageFromArray(np.ascontiguousarray(np.asarray(data).T.astype(np.float32)))
    made.SetSpacing(size.tolist())
    made.SetOrigin(affine[:3, 3].tolist())
    made.SetDirection((left @ right).ravel().tolist())
    return made


def _register(fixed: Any, moving: Any, start: Any, region: Any, threads: int) -> Any:
    """Affine transform from fixed to moving points: by squared differences without a start, else by information."""
    import SimpleITK as sitk

    method = sitk.ImageRegistrationMethod()
    method.SetGlobalDefaultNumberOfThreads(threads)
    method.SetInterpolator(sitk.sitkLinear)
    if start is None:
        moments = sitk.CenteredTransformInitializerFilter.MOMENTS
        transform = sitk.AffineTransform(3)
        transform = sitk.AffineTransform(sitk.CenteredTransformInitializer(fixed, moving, transform, moments))
        method.SetMetricAsMeanSquares()
    else:
        transform = sitk.AffineTransform(start)
        method.SetMetricAsMattesMutualInformation(32)
        method.SetMetricFixedMask(region)
    method.SetOptimizerAsRegularStepGradientDescent(1.0, 1e-2, 150, gradientMagnitudeTolerance=1e-8)
    method.SetOptimizerScalesFromPhysicalShift()
    method.SetInitialTransform(transform, inPlace=True)
    run_registration(method, fixed, moving, "tissue maps: the template cannot be registered to M0")
    return transform


def _dice(inside: NDArray[np.bool_], brain: Float) -> float:
    other = brain > 0.5
    return float(2.0 * (inside & other).sum() / max(int(inside.sum() + other.sum()), 1))
