"""Rigid transforms on one voxel grid, and registration of one volume to another.

A transform T maps a point of the reference head to where it lies in the moved volume, T(x) = R (x - c) + c + t in
world mm, c the center of the grid.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from ...errors import InputError
from ..interpolation import cubic, linear

Float = NDArray[np.float64]
Mask = NDArray[np.bool_]


class Rigid(NamedTuple):
    """Rotation (3, 3) and translation (3,) in mm about the center of the grid."""

    rotation: Float
    translation: Float

    def after(self, first: Rigid) -> Rigid:
        """The transform that applies `first`, then this one."""
        return Rigid(self.rotation @ first.rotation, self.rotation @ first.translation + self.translation)

    def inverse(self) -> Rigid:
        """The transform from the moved volume back to the reference."""
        return Rigid(self.rotation.T, -self.rotation.T @ self.translation)

    def parameters(self) -> Float:
        """Translations x, y, z in mm, rotations about x, y, z in degrees (extrinsic Euler angles): (6,)."""
        from scipy.spatial.transform import Rotation  # slow to import, and most series need no motion correction

        angles = Rotation.from_matrix(self.rotation).as_euler("xyz", degrees=True)
        return np.concatenate([self.translation, angles])


IDENTITY = Rigid(np.eye(3), np.zeros(3))


def small(step: Float) -> Rigid:
    """The transform of a Gauss-Newton step: (6,) mm and rotation vector in rad."""
    from scipy.spatial.transform import Rotation

    return Rigid(Rotation.from_rotvec(step[3:]).as_matrix(), step[:3])


class Grid:
    """A voxel grid: shape (3,), affine (4, 4) voxel to world mm."""

    def __init__(self, shape: tuple[int, ...], affine: Float) -> None:
        self.shape = tuple(shape[:3])
        self.matrix = np.asarray(affine, dtype=float)[:3, :3]
        if abs(np.linalg.det(self.matrix)) < 1e-9:
            raise InputError("the affine is singular; expected a voxel-to-mm matrix")
        self.inverse = np.linalg.inv(self.matrix)
        self.middle = (np.array(self.shape) - 1) / 2.0
        self.voxel_size = np.linalg.norm(self.matrix, axis=0)

    def points(self, mask: Mask) -> Float:
        """World positions in mm from the center of the voxels in a mask: (3, n)."""
        return self.matrix @ (np.array(np.nonzero(mask), dtype=float) - self.middle[:, None])

    def voxels(self, transform: Rigid, points: Float) -> Float:
        """Voxel coordinates (3, n) of transformed points."""
        return self.inverse @ (transform.rotation @ points + transform.translation[:, None]) + self.middle[:, None]

    def inside(self, voxels: Float, margin: float = 0.5) -> Mask:
        """Which voxel coordinates lie in the grid, up to a margin in voxels beyond the outermost centers."""
        last = np.array(self.shape)[:, None] - 1 + margin
        return np.asarray(((voxels >= -margin) & (voxels <= last)).all(axis=0))


def coefficients(volume: Float, order: int) -> Float:
    """B-spline coefficients of a volume, once for many samplings."""
    volume = np.asarray(volume, dtype=float)
    return ndimage.spline_filter(volume, order, mode="mirror") if order > 1 else volume


def sample(coefs: Float, voxels: Float, order: int) -> Float:
    """Values (n,) at voxel coordinates (3, n); beyond the grid the nearest edge."""
    if order in (1, 3) and min(coefs.shape) > 2:
        kernel = linear if order == 1 else cubic
        return np.asarray(kernel(np.ascontiguousarray(coefs, dtype=float), np.ascontiguousarray(voxels)))
    return ndimage.map_coordinates(coefs, voxels, order=order, prefilter=False, mode="nearest")


def jacobian(grid: Grid, gradient: list[Float], voxels: Float, points: Float) -> Float:
    """d value / d (3 mm, 3 rad) of an image at moved points: (6, n), from the gradient volumes per voxel."""
    along = np.array([sample(g, voxels, 1) for g in gradient])
    world = grid.inverse.T @ along
    return np.concatenate([world, np.cross(points.T, world.T).T])


def gradients(volume: Float) -> list[Float]:
    """Derivative of a volume along each axis, per voxel."""
    return [np.asarray(g) for g in np.gradient(np.asarray(volume, dtype=float))]


def solve(design: Float, values: Float, weights: Float) -> tuple[Float, Float]:
    """Robust (Huber) least squares: parameters (p,) and the weights used. design (p, n), values (n,), weights (n,).

    Rows of the design are brought to one size first: in the scanner's units one of them may be 1e7 times another.
    """
    size = _sizes(design)
    design = design / size[:, None]
    used, kept = weights, weights > 0
    some = bool(kept.any())
    step = max(1, int(np.count_nonzero(kept)) // 8192)  # a scale needs no more points than that
    solution = np.zeros(design.shape[0])
    for _ in range(3):
        weighted = design * used
        solution = np.asarray(np.linalg.lstsq(weighted @ design.T, weighted @ values, rcond=None)[0], dtype=float)
        residual = np.abs(values - solution @ design)
        scale = 1.4826 * float(np.median(residual[kept][::step])) if some else 0.0
        if scale == 0:
            break
        used = weights / np.maximum(1.0, residual / (2.0 * scale))
    return solution / size, used


def _sizes(design: Float) -> Float:
    """RMS of each row of a design (p, n), 1 where it is zero: (p,)."""
    size = np.sqrt(np.mean(np.square(design), axis=1))
    return np.where(size > 0, size, 1.0)


class Registration:
    """Least-squares registration of volumes to one reference, with free gain and offset (so it maximizes correlation).

    Gauss-Newton with the reference's derivatives, robust weights, points outside the moved volume left out.
    """

    def __init__(self, grid: Grid, reference: Float, mask: Mask, fwhm: float, whole: Mask | None = None) -> None:
        self.grid, self.sigma = grid, fwhm / 2.3548 / grid.voxel_size
        # Smoothing correlates noise: what is left are about so many independent values (resels of a Gaussian kernel).
        kernel = float(np.prod(np.maximum(np.sqrt(4 * np.pi) * self.sigma, 1.0)))
        self.independent = max(8.0, float(np.count_nonzero(mask if whole is None else whole)) / kernel)
        smooth = ndimage.gaussian_filter(np.asarray(reference, dtype=float), self.sigma)
        self.points = grid.points(mask)
        voxels = np.array(np.nonzero(mask), dtype=float)
        self.values = smooth[mask]
        slopes = jacobian(grid, gradients(smooth), voxels, self.points)
        self.design = np.concatenate([slopes, self.values[None], np.ones((1, self.values.size))])

    def fit(self, volume: Float, start: Rigid = IDENTITY, iterations: int = 25, tolerance: float = 2e-3) -> Rigid:
        """The transform from the reference to a moved volume; stops when a step is below the tolerance in mm."""
        coefs = coefficients(ndimage.gaussian_filter(np.asarray(volume, dtype=float), self.sigma), 3)
        current = start
        for _ in range(iterations):
            voxels = self.grid.voxels(current, self.points)
            inside = self.grid.inside(voxels, -0.5).astype(float)
            solution, _ = solve(self.design, sample(coefs, voxels, 3), inside)
            gain = solution[6]
            if not np.isfinite(gain) or abs(gain) < 1e-12:
                break
            step = solution[:6] / gain
            step *= min(1.0, 10.0 / max(np.abs(step[:3]).max(), 60.0 * np.abs(step[3:]).max(), 1e-12))
            current = current.after(small(step).inverse())
            if max(np.abs(step[:3]).max(), 60.0 * np.abs(step[3:]).max()) < tolerance:
                break
        return current

    def uncertainty(self, volume: Float, transform: Rigid) -> Float:
        """Standard errors (6,) in mm and rad of a fitted transform, from what it leaves; inf where undetermined."""
        coefs = coefficients(ndimage.gaussian_filter(np.asarray(volume, dtype=float), self.sigma), 3)
        voxels = self.grid.voxels(transform, self.points)
        inside = self.grid.inside(voxels, -0.5).astype(float)
        values = sample(coefs, voxels, 3)
        solution, _ = solve(self.design, values, inside)
        left = (values - solution @ self.design) * inside
        count = float(inside.sum())
        variance = float(left @ left) / max(count, 1.0)
        size = _sizes(self.design)
        design = self.design / size[:, None]
        information = (design * inside) @ design.T * min(1.0, self.independent / max(count, 1.0))
        gain = abs(float(solution[6]))
        if gain < 1e-12 or np.linalg.cond(information) > 1e14:
            return np.full(6, np.inf)
        return np.asarray(np.sqrt(variance * np.diag(np.linalg.inv(information))[:6]) / size[:6] / gain)

    def correlation(self, volume: Float, transform: Rigid) -> float:
        """Correlation in the mask between the reference and a volume brought back by a transform."""
        smooth = ndimage.gaussian_filter(np.asarray(volume, dtype=float), self.sigma)
        voxels = self.grid.voxels(transform, self.points)
        inside = self.grid.inside(voxels, 0.0)
        values = sample(smooth, voxels[:, inside], 1)
        if values.size < 10 or np.ptp(values) == 0 or np.ptp(self.values[inside]) == 0:
            return 0.0
        return float(np.corrcoef(values, self.values[inside])[0, 1])


def register_by_information(grid: Grid, reference: Float, volume: Float, threads: int = 2) -> Rigid:
    """The transform from the reference to a volume of another contrast, by mutual information (SimpleITK).

    Mattes mutual information (Mattes et al. 2003, doi:10.1109/TMI.2003.809072), all voxels, regular-step descent.

    Raises
    ------
    InputError
        Where the two cannot be registered.
    """
    import SimpleITK as sitk

    def image(data: Float) -> sitk.Image:
        low, high = np.percentile(data, [1, 99])
        made = sitk.GetImageFromArray(np.ascontiguousarray(np.clip(data, low, high).T.astype(np.float32)))
        left, _, right = np.linalg.svd(grid.matrix / grid.voxel_size)  # nearest rotation (or reflection) of the axes
        made.SetDirection((left @ right).ravel().tolist())
        made.SetSpacing(grid.voxel_size.tolist())
        made.SetOrigin((-grid.matrix @ grid.middle).tolist())
        return sitk.SmoothingRecursiveGaussian(made, 2.0)

    method = sitk.ImageRegistrationMethod()
    method.SetGlobalDefaultNumberOfThreads(threads)
    method.SetMetricAsMattesMutualInformation(32)
    method.SetInterpolator(sitk.sitkLinear)
    method.SetOptimizerAsRegularStepGradientDescent(1.0, 1e-3, 200, gradientMagnitudeTolerance=1e-8)
    method.SetOptimizerScalesFromPhysicalShift()
    transform = sitk.Euler3DTransform()
    method.SetInitialTransform(transform, inPlace=True)
    images = image(np.asarray(reference)), image(np.asarray(volume))
    run_registration(method, *images, "motion correction: M0 and the series cannot be registered")
    return Rigid(np.array(transform.GetMatrix()).reshape(3, 3), np.array(transform.GetTranslation()))


def run_registration(method: Any, fixed: Any, moving: Any, what: str) -> None:
    """Run a SimpleITK registration method on two of its images; its transform is changed in place.

    Raises
    ------
    InputError
        Where it fails, as for a mask of a handful of voxels: `what`, with SimpleITK's reason.
    """
    try:
        method.Execute(fixed, moving)
    except RuntimeError as error:
        said = (str(error).strip().splitlines() or [""])[-1][:100]
        raise InputError(f"{what} ({said})") from error
